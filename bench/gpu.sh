#!/bin/sh
# Everything there is to know of kgen on a GPU, in one run: is it right, and how fast is it?
#   bench/gpu.sh --prepare          here: build/gpu/, all that a machine without LLVM, Lua and libraries needs beside this tree
#   bench/gpu.sh [--out DIR]        there: checks, then measures; DIR ($OUT, else build/gpu/results) gets results.json, the
#                                   table for bench/SPEED.md and the log
#   bench/gpu.sh --tiny             the same in miniature, for the PTX machine: LD_LIBRARY_PATH=build/ptxvm
#   bench/gpu.sh --predict          here: the same figures from the PTX machine's counters (bench/gpu_report.py has the formula)
# --kgen FILE: another program than build/gpu/kgen. Needs sh; python3 for the table. Exit status 1 when a check failed.
set -u
cd "$(dirname "$0")/.." || exit 1
mode=measure out=${OUT:-build/gpu/results} tiny='' kgen=build/gpu/kgen
while [ $# -gt 0 ]; do
    case $1 in
    --prepare | --predict) mode=${1#--} ;;
    --tiny) tiny=yes ;;
    --out) out=$2; shift ;;
    --kgen) kgen=$2; shift ;;
    *) sed -n '2,9s/^# \{0,1\}//p' "$0"; exit 2 ;;
    esac
    shift
done
carried=build/gpu
families="llama-mixed llama-bias gemma3 qwen3 olmo2"
# One of the ids lists in verify/data/families/*.json would do; this one fits every vocabulary there.
ids=5,17,2,44,31,8,23,60,12,3,51,9,27,40
api="api_launch api_memory api_graphs api_streams"

# likelihoods FAMILY ACT: of fixed ids, on the GPU, as JSON.
likelihoods() { "$kgen" perplexity -m "verify/data/families/$1.gguf" --ids $ids --act "$2" --device cuda --top 5 --json; }
# api_tests NAME: the tests of the driver API that passed, one a line.
api_tests() { "$carried/$1" 2>/dev/null | grep '^ok ' | sort; }

prepare() {
    make static ptxvm || exit 1
    machine=$PWD/build/ptxvm
    rm -rf "$carried"
    mkdir -p $carried/expected
    cp build/kgen-static $carried/kgen
    export LD_LIBRARY_PATH="$machine" KGEN_PTXVM=fast
    for f in $families; do
        for act in f32 q8; do likelihoods "$f" $act >"$carried/expected/$f.$act.json" || exit 1; done
    done
    make -s build/ptxvm/tests/api_launch $(printf 'build/ptxvm/tests/%s ' $api) >/dev/null || exit 1
    for t in $api; do
        cp "build/ptxvm/tests/$t" $carried/
        api_tests "$t" >"$carried/expected/$t.txt"
    done
    du -sh $carried
    echo "carry $carried with the tree; there: bench/gpu.sh --kgen $carried/kgen"
}

predict() {
    [ -x "$kgen" ] || kgen=build/kgen
    mkdir -p "$out"
    export LD_LIBRARY_PATH="$PWD/build/ptxvm" KGEN_PTXVM=fast
    shape=tinyllama-1.1b prompts="64:64,128,256 320:512,2048" at_a_time=8
    [ -z "$tiny" ] || { shape=tinyllama-1.1b-tiny prompts="8:128,512,2048" at_a_time=2; }
    KGEN_PTXVM_REPORT=$out/decode.counters.json "$kgen" bench --synthetic $shape:q4_k_m --device cuda -p 0 -n 1 -r 1 --json \
        >"$out/decode.json" || exit 1
    counted="$out/batch.counters.json:$at_a_time:$at_a_time"
    KGEN_PTXVM_REPORT=$out/batch.counters.json "$kgen" bench --synthetic tinyllama-1.1b-tiny:q4_k_m --device cuda -p 0 -n 0 -r 1 \
        --batches $at_a_time --json >"$out/batch.json" || exit 1
    for prompt in $prompts; do # up to 256 tokens have code of their own
        tokens=${prompt%%:*}
        KGEN_PTXVM_REPORT=$out/prompt$tokens.counters.json "$kgen" bench --synthetic tinyllama-1.1b-tiny:q4_k_m --device cuda \
            -p "$tokens" -n 0 -r 1 --json >"$out/prompt$tokens.json" || exit 1
        counted="$counted $out/prompt$tokens.counters.json:$prompt"
    done
    # shellcheck disable=SC2086 # a list of words
    python3 bench/gpu_report.py predict "$out/decode.counters.json" $counted | tee "$out/predicted.md"
}

case $mode in
prepare) prepare; exit ;;
predict) predict; exit ;;
esac

# ---- on the GPU ----
[ -x "$kgen" ] || { echo "gpu.sh: there is no $kgen: run bench/gpu.sh --prepare where kgen is built, and carry build/gpu" >&2; exit 1; }
mkdir -p "$out" || exit 1
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
export KGEN_CACHE_DIR="$work/cache"
: >"$out/log.txt"
failed=0
note() { echo "$(date +%T) $*" | tee -a "$out/log.txt" >&2; }
# step SECONDS NAME COMMAND…: its output to $work/NAME.json; a failure is noted, and null stands in the results.
step() {
    limit=$1 name=$2
    shift 2
    note "$name"
    if timeout "$limit" "$@" >"$work/$name.json" 2>"$work/$name.err"; then :; else
        note "FAILED: $name: exit status $?: $(tail -n 3 "$work/$name.err" | tr '\n' ' ')"
        [ -s "$work/$name.json" ] || echo null >"$work/$name.json"
        failed=1
    fi
    cat "$work/$name.err" >>"$out/log.txt"
}

if [ -n "$tiny" ]; then
    verify="rmsnorm argmax" model=tinyllama-1.1b-tiny:q4_k_m
    sizes="-p 4 -n 2 -r 1" series="--prompts 3 --batches 2"
    gemvs="tok=1,n=256,d=256,W=q4_k" gemms="tok=8,n=256,d=256,W=q4_k,act=bf16" others="rmsnorm:tok=1,d=256"
else
    verify="" model=tinyllama-1.1b:q4_k_m
    sizes="-p 512 -n 128 -r 5" series="--prompts 128,512,2048 --batches 1,2,4,8,16,32,64"
    # 64 MiB of weights and more; then the shapes of a large model's layer.
    gemvs='' gemms=''
    for w in q4_0 q4_1 q4_k q5_k q6_k q8_0; do gemvs="$gemvs tok=1,n=32768,d=4096,W=$w"; done
    for w in q4_k q6_k q8_0; do for tok in 8 64 512 2048; do gemms="$gemms tok=$tok,n=8192,d=4096,W=$w,act=bf16"; done; done
    others="rmsnorm:tok=1,d=2048 argmax:tok=1,n=32000 embed:tok=512"
fi

note "kgen: $("$kgen" --version); $(nvidia-smi --query-gpu=name,driver_version,clocks.sm,clocks.mem,power.limit --format=csv,noheader 2>/dev/null || echo 'no nvidia-smi')"
step 60 doctor "$kgen" doctor --json
sm=$(sed -nE 's/.*"architecture": "(sm_[0-9]+)".*/\1/p' "$work/doctor.json" | head -n 1)
[ -n "$sm" ] || { note "FAILED: no CUDA device: $(cat "$work/doctor.json")"; exit 1; }

# Checks first: a fast wrong answer is worth nothing.
# shellcheck disable=SC2086 # lists of words
step 240 verify "$kgen" verify $verify --target "$sm" --quick --json
equal=0 compared=0
for f in $families; do
    [ -z "$tiny" ] || [ "$f" = llama-mixed ] || continue
    for act in f32 q8; do
        compared=$((compared + 1))
        likelihoods "$f" $act >"$work/$f.$act.json" 2>"$work/err" || note "FAILED: $f $act: $(cat "$work/err")"
        stored=$carried/expected/$f.$act.json
        if cmp -s "$work/$f.$act.json" "$stored"; then equal=$((equal + 1)); continue; fi
        # The last digits are the host's exp and log, of another libc perhaps.
        if difference=$(python3 bench/gpu_report.py compare "$stored" "$work/$f.$act.json" 2>&1); then
            note "$f --act $act: $difference from the PTX machine's"
        else
            note "FAILED: $f --act $act: $difference from the PTX machine's; $(head -c 300 "$work/$f.$act.json")"
            failed=1
        fi
    done
done
note "likelihoods: $equal of $compared sets are the PTX machine's, bit for bit"
passed=0 expected=0
for t in $api; do
    [ -x "$carried/$t" ] || continue
    api_tests "$t" >"$work/$t.txt"
    expected=$((expected + $(wc -l <"$carried/expected/$t.txt")))
    passed=$((passed + $(comm -12 "$carried/expected/$t.txt" "$work/$t.txt" | wc -l)))
    comm -23 "$carried/expected/$t.txt" "$work/$t.txt" | sed "s/^ok/differs from the PTX machine: $t/" >>"$out/log.txt"
done
note "driver API: $passed of $expected tests do what they do on the PTX machine"

# shellcheck disable=SC2086 # lists of words
step 300 model "$kgen" bench --synthetic $model --device cuda $sizes $series --json
# What it is worth that kernels start before those before them end.
# shellcheck disable=SC2086
step 120 plain_launches env KGEN_DEPENDENT_LAUNCH=0 "$kgen" bench --synthetic $model --device cuda $sizes --json
# shellcheck disable=SC2086
step 120 profile "$kgen" bench --synthetic $model --device cuda $sizes --profile
cp "$work/profile.err" "$out/profile.txt"
kernels=''
for shape in $gemvs $gemms; do
    step 60 "linear.$shape" "$kgen" bench --kernel linear --shape "$shape" --device cuda --json
    kernels="$kernels $work/linear.$shape.json"
done
for other in $others; do
    step 60 "$other" "$kgen" bench --kernel "${other%%:*}" --shape "${other#*:}" --device cuda --json
    kernels="$kernels $work/$other.json"
done

{
    printf '{"ok": %s, "kgen": "%s", "date": "%s", "likelihoods_equal": [%d, %d], "api_tests": [%d, %d]' \
        "$([ $failed = 0 ] && echo true || echo false)" "$("$kgen" --version)" "$(date -u +%F)" $equal $compared $passed $expected
    for part in doctor verify model plain_launches; do printf ',\n"%s": ' $part; cat "$work/$part.json"; done
    printf ',\n"kernels": ['
    separator=''
    for file in $kernels; do printf '%s\n' "$separator"; cat "$file"; separator=,; done
    printf ']}\n'
} >"$out/results.json"
if command -v python3 >/dev/null; then python3 bench/gpu_report.py table "$out/results.json" | tee "$out/table.md"
else note "no python3: make the table elsewhere, with bench/gpu_report.py table results.json"; fi
note "$([ $failed = 0 ] && echo 'all checks passed' || echo 'SOMETHING FAILED'): $out"
exit $failed
