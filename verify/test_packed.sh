#!/usr/bin/env bash
# Packed weights on disk as a user meets them: the second start takes them, a model that changes under its path is packed
# again, and whatever fails on the way costs time only. Every answer is compared with the one without packed files.
set -u
cd "$(dirname "$0")/.." || exit 1
kgen=${KGEN:-build/kgen} smol=build/models/smollm2-135m-instruct-q4_1.gguf
tests=(second_start same_file_by_another_path replaced_in_place replaced_by_rename damaged_on_disk killed_while_packing
    two_at_once off no_room not_writable doctor memory faults)
echo "1..${#tests[@]}"
skip() { # skip FROM REASON: the rest
    echo "# skip: $2"
    for ((i = $1; i < ${#tests[@]}; i++)); do echo "ok $((i + 1)) # SKIP ${tests[$i]}"; done
    exit "${bad:-0}"
}
[ -x "$kgen" ] || { echo "not ok 1 - there is no $kgen"; exit 1; }
[ -f $smol ] || skip 0 "there is no $smol (./setup.sh test fetches it)"
tmp=$(mktemp -d) || exit 1
trap 'chmod -R u+w "$tmp"; rm -rf "$tmp"' EXIT
export XDG_CONFIG_HOME=$tmp/config XDG_STATE_HOME=$tmp/state KGEN_THREADS=1 KGEN_CACHE_DIR=$tmp/cache
unset KGEN_WEIGHTS_CACHE KGEN_DEVICE KGEN_ACT KGEN_KV KGEN_CONTEXT
cp $smol "$tmp/m.gguf"

# Logits after three tokens, exactly. ask FILE OPTION…: standard output to $tmp/out, standard error to $tmp/err.
ask() { "$kgen" perplexity -m "$@" --ids 504,3575,282 --json >"$tmp/out" 2>"$tmp/err" </dev/null; status=$?; }
answers() { [ "$status" = 0 ] && cmp -s "$tmp/out" "$1"; }
# The summary of a run says where the weights came from.
cached() { "$kgen" run -m "$1" --raw -p a -n 1 2>&1 >"$tmp/text" | grep -q 'of weights from the cache'; }
packed() { find "$KGEN_CACHE_DIR" -name "*.kpack$1" | wc -l; }
n=0 bad=0
ok() {
    local last=$?
    if [ $last = 0 ]; then echo "ok $((n + 1)) - ${tests[$n]}"; else
        echo "not ok $((n + 1)) - ${tests[$n]}"
        sed 's/^/#   err: /' "$tmp/err" | head -n 3
        bad=1
    fi
    n=$((n + 1))
}

ask "$tmp/m.gguf" --weights-cache 0; cp "$tmp/out" "$tmp/right"
sleep 3 # a file that was just written is not trusted to be what its times say

ask "$tmp/m.gguf" && answers "$tmp/right" && [ "$(packed '')" = 1 ] && cached "$tmp/m.gguf" &&
    ask "$tmp/m.gguf" && answers "$tmp/right" && [ ! -s "$tmp/err" ]; ok
ln -s m.gguf "$tmp/link.gguf"
cached "$tmp/link.gguf" && [ "$(packed '')" = 1 ]; ok

# One weight in the middle of the file, its time put back.
touch -r "$tmp/m.gguf" "$tmp/time"
printf '\x55\xaa\x55\xaa' | dd of="$tmp/m.gguf" bs=1 seek=60000000 conv=notrunc 2>/dev/null
touch -r "$tmp/time" "$tmp/m.gguf"
ask "$tmp/m.gguf" --weights-cache 0; cp "$tmp/out" "$tmp/changed"
ask "$tmp/m.gguf"; answers "$tmp/changed" && ! cmp -s "$tmp/right" "$tmp/changed" && sleep 3 &&
    ask "$tmp/m.gguf" && answers "$tmp/changed" && cached "$tmp/m.gguf" && [ "$(packed '')" = 1 ]; ok
cp -p $smol "$tmp/new.gguf"; mv "$tmp/new.gguf" "$tmp/m.gguf"
ask "$tmp/m.gguf"; answers "$tmp/right" && sleep 3 && ask "$tmp/m.gguf" && cached "$tmp/m.gguf" && [ "$(packed '')" = 1 ]; ok

file=$(find "$KGEN_CACHE_DIR" -name '*.kpack')
chmod u+w "$file"; printf 'x' | dd of="$file" bs=1 seek=70000000 conv=notrunc 2>/dev/null
ask "$tmp/m.gguf"; answers "$tmp/right" && [ "$(grep -c 'checksum is wrong' "$tmp/err")" = 1 ] && cached "$tmp/m.gguf"; ok

# Killed at a random moment, again and again: what is left is right or not there.
rm -f "$file"
for ms in 40 80 120 160 200 240 280 320; do
    "$kgen" perplexity -m "$tmp/m.gguf" --ids 504,3575,282 >/dev/null 2>&1 &
    pid=$!
    sleep "0.$(printf %03d $ms)"
    kill -9 $pid 2>/dev/null
    wait $pid 2>/dev/null
    [ -e "$file" ] && break
done
ask "$tmp/m.gguf"; answers "$tmp/right" && cached "$tmp/m.gguf"; ok
rm -f "$KGEN_CACHE_DIR"/*.kpack*
"$kgen" perplexity -m "$tmp/m.gguf" --ids 504,3575,282 --json >"$tmp/one" 2>&1 &
pid=$!
ask "$tmp/m.gguf"; wait $pid
answers "$tmp/right" && cmp -s "$tmp/one" "$tmp/right" && [ "$(packed '')" = 1 ] && [ "$(packed '.tmp*')" = 0 ]; ok

rm -f "$KGEN_CACHE_DIR"/*.kpack
ask "$tmp/m.gguf" --weights-cache 0; answers "$tmp/right" && [ "$(packed '')" = 0 ] &&
    KGEN_WEIGHTS_CACHE=0 ask "$tmp/m.gguf" && [ "$(packed '')" = 0 ]; ok
(ulimit -f 20000; ask "$tmp/m.gguf"; cp "$tmp/out" "$tmp/limited"; [ "$status" = 0 ] && [ "$(grep -c 'weights are not kept' "$tmp/err")" = 1 ]) &&
    cmp -s "$tmp/limited" "$tmp/right" && [ "$(packed '*')" = 0 ] && ask "$tmp/m.gguf" --weights-cache 0.05 &&
    answers "$tmp/right" && [ ! -s "$tmp/err" ] && [ "$(packed '*')" = 0 ]; ok
ask "$tmp/m.gguf"; chmod a-w "$KGEN_CACHE_DIR"; rm -f "$KGEN_CACHE_DIR"/*.kpack 2>/dev/null
ask "$tmp/m.gguf"; answers "$tmp/right"; ok
chmod u+w "$KGEN_CACHE_DIR"

ask "$tmp/m.gguf"; "$kgen" doctor --json >"$tmp/out" && grep -qE '"models_packed": 1, "models_packed_bytes": 9[0-9]{7}' "$tmp/out"; ok

# 1.35 times the file and 64 MiB, whether the weights are packed, packed and kept, or there.
most=$(($(stat -c %s "$tmp/m.gguf") * 135 / 100 + (64 << 20))) high=0
for how in '--weights-cache 0' '' ''; do
    [ -n "$how" ] && rm -f "$KGEN_CACHE_DIR"/*.kpack
    # shellcheck disable=SC2086
    peak=$("$kgen" run -m "$tmp/m.gguf" --raw -p a -n 2 $how --json 2>/dev/null | grep -oE '"peak_bytes": [0-9]+' | grep -oE '[0-9]+')
    [ "${peak:-$((most + 1))}" -gt "$high" ] && high=${peak:-$((most + 1))}
done
[ "$high" -le "$most" ]; ok

if ! command -v strace >/dev/null || ! strace -o /dev/null true 2>/dev/null; then skip $n "strace is not installed or may not trace here"; fi
# Every operation on the packed file fails once, while writing and while reading it; a disk that fills up among them.
fault() { # fault CALL ERROR FRESH?
    local worst='' first=1 k
    for ((k = first; k <= 12; k++)); do
        [ "$3" = fresh ] && rm -f "$KGEN_CACHE_DIR"/*.kpack
        strace -f -qq -o "$tmp/log" -e trace="$1" -e inject="$1:error=$2:when=$k" \
            "$kgen" perplexity -m "$tmp/m.gguf" --ids 504,3575,282 --json >"$tmp/out" 2>"$tmp/err"
        status=$?
        grep -q INJECTED "$tmp/log" || break
        [ $status -le 1 ] && { [ $status = 1 ] || cmp -s "$tmp/out" "$tmp/right"; } || worst="$1 $2 $k: exit status $status"
    done
    [ -z "$worst" ] || { echo "# $worst"; return 1; }
}
fault fallocate ENOSPC fresh && fault fallocate EOPNOTSUPP fresh && fault pwrite64 ENOSPC fresh && fault pwrite64 EIO fresh &&
    fault rename EIO fresh && fault fchmod EPERM fresh && ask "$tmp/m.gguf" && fault madvise EFAULT '' &&
    fault madvise EINVAL '' && fault utimensat EPERM '' && [ "$(packed '.tmp*')" = 0 ]; ok
exit $bad
