#!/usr/bin/env bash
# How the cost of a token grows, with the context, with the tokens evaluated together, with threads, each beside the formula
# that predicts it; and what fusion, the KV cache and flash attention save.
#     bench/scaling.sh MODEL [MOST THREADS [context|batch|cache|fusion|attention …]]
# Each line is a few runs of `kgen bench` of seconds, at real-time priority where that may be had (SPEED.md, "normal scheduling
# on a crowded machine"). KGEN_BEFORE is put before each run: with `flock FILE` other measurements come between. ROUNDS: of the first two
# parts, 3.
set -eu
kgen=${KGEN:-$(dirname "$0")/../build/kgen} model=${1:?usage: bench/scaling.sh MODEL [THREADS [PART …]]} threads=${2:-2}
shift $(($# < 2 ? $# : 2))
parts=${*:-context batch cache fusion attention} rounds=${ROUNDS:-3}
bench="$kgen bench"
chrt -f 10 true 2>/dev/null && bench="chrt -f 10 $bench"
bench="${KGEN_BEFORE:-} $bench"

# Milliseconds a token, the least of a run: what the JSON calls tg or pp holds tokens a second.
least() { grep -oE "\"$1\": \[[^]]*\]" | grep -oE '[0-9.e+-]+' | sort -g | awk '{ x = $1 } END { if (x > 0) print 1000 / x }'; }
token() { $bench -m "$model" -p 0 -n 16 -d "$1" -r 3 -t "$2" --json | least tg; }
prompt() { $bench -m "$model" -p "$1" -n 0 -r 3 -t "$2" --json | least pp; }
launch() { $bench --kernel "$1" --shape "$2" -r 9 -t "$threads" --json | grep -oE '"median_ms": [0-9.e-]+' | grep -oE '[0-9.e-]+$'; }

# sweep token|prompt THREADS N…: fills ms[N] with the least of some rounds over all N, since a machine that others use too is
# slow for seconds.
sweep() {
    local what=$1 t=$2 n x
    ms=()
    for _ in $(seq "$rounds"); do
        for n in "${@:3}"; do
            x=$("$what" "$n" "$t" || true)
            ms[n]=$(printf '%s\n' "${ms[n]:-}" "$x" | sort -g | awk 'NF { print; exit }')
        done
    done
}
metadata() { "$kgen" inspect --json "$model" | grep -oE "\.$1\": [0-9]+" | grep -oE '[0-9]+$' || echo "$2"; }

# The keys that a layer reads behind $1 tokens, on average: of some families most layers have a window, every sixth has none.
keys() {
    awk -v d="$1" -v w="$window" -v p="$period" -v n="$layers" \
        'BEGIN { all = w ? int(n / p) : n; print (all * d + (n - all) * (d < w ? d : w)) / n }'
}
declare -a ms=()
context() {
    local window period layers most
    window=$(metadata attention.sliding_window 0) period=$(metadata attention.sliding_window_pattern 6) layers=$(metadata block_count 1)
    echo "context: ms a token = a + b · the keys that a layer reads, a and b from 0 and 4096 tokens before it"
    most=$(keys 4096)
    for t in $(seq "$threads"); do
        sweep token "$t" 0 4096 512 1024 2048
        [ -n "${ms[4096]}" ] || { echo "  the model has no 4096 tokens of context"; break; }
        awk -v t="$t" -v z="${ms[0]}" -v e="${ms[4096]}" -v k="$most" \
            'BEGIN { printf "  %d threads: a = %.3f ms, b = %.3f µs a key; 4096 before it: %.3f\n", t, z, 1000 * (e - z) / k, e }'
        for d in 512 1024 2048; do
            awk -v t="$t" -v d=$d -v z="${ms[0]}" -v e="${ms[4096]}" -v f="${ms[$d]}" -v k="$(keys $d)" -v m="$most" \
                'BEGIN { p = z + (e - z) * k / m; printf "  %d threads, %4d before it: %7.3f, predicted %7.3f: %+.0f %%\n", t, d, f, p, 100 * (f / p - 1) }'
        done
    done
}
batch() {
    echo "batch: ms of n tokens together = ms(1) + (n - 1) · c, c from 64 together"
    for t in $(seq "$threads"); do
        sweep prompt "$t" 1 64 2 4 8 16 32
        awk -v t="$t" -v a="${ms[1]}" -v z="${ms[64]}" \
            'BEGIN { printf "  %d threads: ms(1) = %.3f, c = %.3f; 64 together: %.3f, %.0f tok/s\n", t, a, (64 * z - a) / 63, 64 * z, 1000 / z }'
        for n in 2 4 8 16 32; do
            awk -v t="$t" -v n=$n -v a="${ms[1]}" -v z="${ms[64]}" -v f="${ms[$n]}" \
                'BEGIN { p = a + (n - 1) * (64 * z - a) / 63; f *= n
                         printf "  %d threads, %2d together: %7.3f, predicted %7.3f: %+.0f %%, %.0f tok/s\n", t, n, f, p, 100 * (f / p - 1), 1000 * n / f }'
        done
    done
}
cache() {
    echo "KV cache: the 513th token"
    awk -v c="$(token 512 "$threads")" -v w="$(prompt 513 "$threads")" \
        'BEGIN { printf "  %.2f ms with it, %.1f without: %.0f times\n", c, 513 * w, 513 * w / c }'
}
fusion() {
    echo "fusion: RMSNorm and the three products, of SmolLM2's and TinyLlama's sizes"
    while read -r d nq nkv q k v; do
        for tok in 1 8 512; do
            f=$(launch norm_qkv "tok=$tok,d=$d,nq=$nq,nkv=$nkv,Q=$q,K=$k,V=$v,act=q8")
            u="$(launch rmsnorm "tok=$tok,d=$d") $(launch linear "tok=$tok,d=$d,n=$nq,W=$q,act=q8") \
$(launch linear "tok=$tok,d=$d,n=$nkv,W=$k,act=q8") $(launch linear "tok=$tok,d=$d,n=$nkv,W=$v,act=q8")"
            echo "$f $u" | awk -v d="$d" -v tok=$tok '{ s = $2 + $3 + $4 + $5; printf "  d=%d, %3d tokens: %.4f ms, unfused %.4f: %.2f times\n", d, tok, $1, s, s / $1 }'
        done
    done <<<'576 576 192 q4_1 q4_1 q4_1
2048 2048 256 q4_k q4_k q6_k'
}
attention() {
    echo "attention: flash against plain (scores, softmax, weighted values), of SmolLM2's and Gemma 3's heads"
    for cache in f16:f32 bf16:bf16; do
        while read -r name nh nkv hd; do
            while read -r tok pos; do
                at=tok=$tok,pos=$pos,nh=$nh heads=nkv=$nkv,hd=$hd,KV=${cache%:*},prod=${cache#*:}
                u="$(launch attention_scores "$at,$heads,scale=0.1,window=0") $(launch softmax "$at") $(launch attention_values "$at,$heads")"
                echo "$(launch attention "$at,$heads,scale=0.1,window=0") $u" | awk -v name="$name" -v tok="$tok" -v keys=$((pos + tok)) -v cache="$cache" \
                    '{ s = $2 + $3 + $4; printf "  %s, %s, %4d tokens, %4d keys: %.4f ms, plain %.4f (%.4f + %.4f + %.4f): %.2f times\n", name, cache, tok, keys, $1, s, $2, $3, $4, s / $1 }'
            done <<<$'1 127\n1 511\n1 2047\n128 0\n512 0\n2048 0'
        done <<<$'smollm2 9 3 64\ngemma3 4 1 256'
    done
}
for part in $parts; do
    case $part in context | batch | cache | fusion | attention) $part ;; *) echo "no part '$part'" >&2 && exit 2 ;; esac
done
