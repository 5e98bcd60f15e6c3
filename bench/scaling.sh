#!/usr/bin/env bash
# How the cost of a token grows: with the context, with the tokens evaluated together, with threads; and what fusion and
# the KV cache save. bench/scaling.sh MODEL [MOST THREADS]; each line is a run of `kgen bench` of a few seconds, at real-time
# priority where that may be had (SPEED.md, "normal scheduling on a crowded machine").
set -eu
kgen=${KGEN:-$(dirname "$0")/../build/kgen} model=${1:?usage: bench/scaling.sh MODEL [THREADS]} threads=${2:-2}
chrt -f 10 true 2>/dev/null && kgen="chrt -f 10 $kgen"

# Milliseconds a token, the median: what the JSON calls tg or pp holds tokens a second.
median() { grep -oE "\"$1\": \[[^]]*\]" | grep -oE '[0-9.e+-]+' | sort -g | awk '{ x[NR] = $1 } END { print 1000 / x[int((NR + 1) / 2)] }'; }
token() { $kgen bench -m "$model" -p 0 -n 16 -d "$1" -r 5 -t "$2" --json | median tg; }
prompt() { $kgen bench -m "$model" -p "$1" -n 0 -r 5 -t "$2" --json | median pp; }
launch() { $kgen bench --kernel "$1" --shape "$2" -r 9 -t "$threads" --json | grep -oE '"median_ms": [0-9.e-]+' | grep -oE '[0-9.e-]+$'; }

echo "context: ms a token"
for t in $(seq "$threads"); do
    zero=$(token 0 "$t") deep=$(token 4096 "$t" || true)
    [ -n "$deep" ] || { echo "the model has no 4096 tokens of context"; break; }
    for d in 0 512 2048 4096; do
        found=$(token $d "$t")
        awk -v t="$t" -v d=$d -v z="$zero" -v e="$deep" -v f="$found" \
            'BEGIN { printf "  %d threads, %4d before it: %7.3f, predicted from 0 and 4096: %7.3f\n", t, d, f, z + (e - z) * d / 4096 }'
    done
done
echo "batch: ms a token"
for t in $(seq "$threads"); do
    for n in 1 2 4 8 16 32 64; do printf '  %d threads, %2d together: %s\n' "$t" $n "$(prompt $n "$t")"; done
done
echo "KV cache: the 513th token"
awk -v c="$(token 512 "$threads")" -v w="$(prompt 513 "$threads")" 'BEGIN { printf "  %.2f ms with it, %.1f without: %.0f times\n", c, 513 * w, 513 * w / c }'
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
