#!/usr/bin/env bash
# bench/gpu.sh in miniature on the PTX machine: what is carried suffices, the checks check, the results and predictions are
# numbers. And the peaks of a GPU, whose loops look at what they computed.
set -u
cd "$(dirname "$0")/.." || exit 1
kgen=${KGEN:-build/kgen}
machine=$PWD/build/ptxvm
if ! [ -f "$machine/libcuda.so.1" ] || ! command -v python3 >/dev/null; then
    printf '1..1\n# skip: no %s or no python3\nok 1 # SKIP bench/gpu.sh\n' "$machine/libcuda.so.1"
    exit 0
fi
. verify/tap.sh
export KGEN_THREADS=1
unset CUDA_VISIBLE_DEVICES OUT
on_machine() { call env LD_LIBRARY_PATH="$machine" KGEN_PTXVM=fast "$@"; }
# holds EXPRESSION: of r, the results, in Python.
holds() { python3 -c "import json,sys; r = json.load(open('$tmp/results/results.json')); sys.exit(not ($1))" 2>>"$tmp/err"; }

# ---- peaks: as an option says, and with the checker on: no access of theirs is out of bounds ----
call env LD_LIBRARY_PATH="$machine" "$kgen" bench --kernel rmsnorm --shape tok=1,d=64 -r 1 --device cuda --json
[ $status_of = 0 ] && [ ! -s "$tmp/err" ] && python3 - "$tmp/out" <<'PY'
import json, sys
r = json.load(open(sys.argv[1]))
p = r["peaks"]
sys.exit(not (all(p[k] > 0 for k in ("read_bytes_per_s", "int8_ops_per_s", "f32_ops_per_s", "bf16_ops_per_s", "dp4a_ops_per_s"))
              and r["results"][0]["median_ms"] > 0))
PY
ok "peaks_compute_what_they_should"
call env LD_LIBRARY_PATH="$machine" KGEN_PTXVM_ARCH=75 KGEN_PTXVM=fast "$kgen" bench --kernel rmsnorm --shape tok=1,d=64 -r 1 --device cuda --json
[ $status_of = 0 ] && grep -q '"bf16_ops_per_s": 0' "$tmp/out"; ok "peaks_of_a_card_without_those_matrix_units"
# Launches by kernel add up to those said below; one token has fewer than a prompt.
on_machine "$kgen" bench -m verify/data/families/llama-f32.gguf --profile --device cuda -p 4 -n 2 -r 1
awk '/ms each, / { sum = 0 } $2 ~ /%$/ { sum += $3 }
     / barriers each$/ { parts++; wrong += $1 != sum; fewer += $1 < last; last = $1 }
     END { exit !(parts == 2 && wrong == 0 && fewer == 1) }' "$tmp/err"; ok "profile_counts_the_launches_of_each_program"
call "$kgen" bench --kernel rmsnorm --device cuda; [ $status_of = 1 ] && grep -q 'no CUDA driver' "$tmp/err"; ok "a_kernel_without_a_gpu"
for bad in "--prompts 0" "--prompts x" "--batches 1,,2" "--batches -1"; do
    # shellcheck disable=SC2086 # two words
    call "$kgen" bench --synthetic tinyllama-1.1b-tiny:q4_k $bad; [ $status_of = 2 ] && grep -q -- "${bad%% *}" "$tmp/err"; ok "refuses_$bad"
done
call "$kgen" bench --kernel rmsnorm --prompts 3; [ $status_of = 2 ]; ok "prompts_belong_to_a_model"

# ---- the script ----
call bench/gpu.sh --no-such-option; [ $status_of = 2 ] && grep -q -- '--prepare' "$tmp/out"; ok "usage"
call bench/gpu.sh --kgen "$tmp/none"; [ $status_of = 1 ] && grep -q -- '--prepare' "$tmp/err"; ok "without_what_is_carried"
call bench/gpu.sh --prepare; [ $status_of = 0 ] && [ -x build/gpu/kgen ] && [ -s build/gpu/expected/gemma3.q8.json ] &&
    [ "$(wc -l <build/gpu/expected/api_launch.txt)" -gt 5 ]; ok "prepare"
{ git ls-files -z --cached --others --exclude-standard | xargs -0 cat; cat build/gpu/* build/gpu/*/* 2>/dev/null; } 2>/dev/null | wc -c >"$tmp/out"
[ "$(cat "$tmp/out")" -lt $((64 << 20)) ]; ok "what_is_carried_is_under_64_MiB_($(($(cat "$tmp/out") >> 20))_MiB)"
call bench/gpu.sh --tiny --out "$tmp/none"; [ $status_of = 1 ] && grep -q 'no CUDA device' "$tmp/err"; ok "no_gpu_is_an_error"
on_machine bench/gpu.sh --tiny --out "$tmp/results"; [ $status_of = 0 ] && grep -q 'all checks passed' "$tmp/err"; ok "all_of_it_on_the_ptx_machine"
holds 'r["ok"] and r["likelihoods_equal"] == [2, 2] and r["api_tests"][0] == r["api_tests"][1] > 20'; ok "checks_are_in_the_results"
holds 'len(r["verify"]["rows"]) > 0 and all(x["failures"] == 0 for x in r["verify"]["rows"])'; ok "verification_is_in_the_results"
holds 'r["model"]["tg"][0] > 0 and r["model"]["prompts"][0]["ms"] > 0 and r["model"]["batches"][0]["tokens"] == 2'; ok "speeds_are_in_the_results"
holds 'r["plain_launches"]["tg"][0] > 0'; ok "speeds_with_plain_launches_are_in_the_results"
holds 'len(r["kernels"]) == 3 and all(k["results"][0]["bytes_per_s"] > 0 for k in r["kernels"])'; ok "kernels_are_in_the_results"
grep -q '^| decode |' "$tmp/results/table.md" && grep -q '^| decode, plain launches |' "$tmp/results/table.md" && grep -q '^| linear ' "$tmp/results/table.md"; ok "table"
grep -q 'rmsnorm' "$tmp/results/profile.txt"; ok "profile"
stored=build/gpu/expected/llama-mixed.f32.json
cp $stored "$tmp/stored"
sed -i 's/"next_token_nll": \[[0-9.]*/"next_token_nll": [99/' $stored
on_machine bench/gpu.sh --tiny --out "$tmp/results"; [ $status_of = 1 ] && grep -q 'FAILED: llama-mixed --act f32' "$tmp/err"; ok "other_likelihoods_fail"
cp "$tmp/stored" $stored
holds 'not r["ok"] and r["likelihoods_equal"] == [1, 2] and r["model"]["tg"][0] > 0'; ok "and_the_rest_is_measured"
call bench/gpu.sh --predict --tiny --kgen "$kgen" --out "$tmp/predicted"
[ $status_of = 0 ] && grep -qE '^\*\*[0-9]+ tok/s\*\*' "$tmp/predicted/predicted.md" && [ "$(grep -cE '^\| (128|512|2048) \|' "$tmp/predicted/predicted.md")" = 3 ]
ok "predictions"
finish
