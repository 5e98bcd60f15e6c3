#!/usr/bin/env bash
# Every file operation of a run failed once (strace's fault injection): whatever fails, the program answers or says in one
# line what failed, exit 0 or 1; it never dies of a signal and never hangs.
set -u
cd "$(dirname "$0")/.." || exit 1
kgen=${BUILD:-build}/kgen model=verify/data/families/llama-f32.gguf
calls=(openat pread64 read mmap write newfstatat rename fsync)
echo "1..${#calls[@]}"
skip() {
    echo "# skip: $1"
    for i in "${!calls[@]}"; do echo "ok $((i + 1)) # SKIP ${calls[$i]}: $1"; done
    exit 0
}
[ -x "$kgen" ] || skip "$kgen is not built"
command -v strace >/dev/null || skip "strace is not installed (./setup.sh test installs it)"
scratch=$(mktemp -d) || exit 1
trap 'rm -rf "$scratch"' EXIT
export KGEN_CACHE_DIR=$scratch/cache KGEN_THREADS=1 XDG_CONFIG_HOME=$scratch XDG_STATE_HOME=$scratch
strace -o /dev/null true 2>/dev/null || skip "strace may not trace here"
"$kgen" perplexity -m "$model" --ids 1,5,9 >/dev/null 2>&1 # fills the cache

# Calls before main belong to the loader: 127 and its own messages are its way of failing, and for mmap a crash.
strace -qq -o "$scratch/log" -e trace=mmap "$kgen" --version >/dev/null 2>&1
of_loader=$(grep -c mmap "$scratch/log")
n=0 bad=0
for call in "${calls[@]}"; do
    # fsync and rename happen only where something is compiled: a fresh cache for those.
    fresh=no limit=60
    case $call in rename | fsync | write) fresh=yes limit=6 ;; esac
    worst="" tried=0
    first=1
    [ "$call" = mmap ] && first=$((of_loader + 1)) limit=$((of_loader + 60))
    for ((k = first; k <= limit; k++)); do
        [ $fresh = yes ] && rm -rf "$KGEN_CACHE_DIR"
        timeout 60 strace -qq -o "$scratch/log" -e trace="$call" -e inject="$call:error=EIO:when=$k" \
            "$kgen" perplexity -m "$model" --ids 1,5,9 >"$scratch/out" 2>"$scratch/err"
        status=$?
        grep -q INJECTED "$scratch/log" || break
        tried=$((tried + 1))
        case $status in
        0 | 127) ;;
        1) [ -s "$scratch/err" ] || worst="$call $k: failed without a word" ;;
        *) worst="$call $k: exit status $status: $(tail -n 1 "$scratch/err")" ;;
        esac
        [ -z "$worst" ] || break
    done
    if [ -n "$worst" ]; then
        echo "# $worst"
        echo "not ok $((++n)) - $call"
        bad=1
    else
        echo "ok $((++n)) - $call, $tried of them failed in turn"
    fi
done
exit $bad
