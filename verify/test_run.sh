#!/usr/bin/env bash
# run, perplexity, bench, emit and inspect --graph with a real model, as a person or a script meets them. Expected tokens
# are PyTorch's (verify/data/golden).
set -u
cd "$(dirname "$0")/.." || exit 1
kgen=${KGEN:-build/kgen}
smol=build/models/smollm2-135m-instruct-q4_1.gguf
if [ ! -x "$kgen" ]; then
    printf '1..1\nnot ok 1 - there is no %s\n' "$kgen"
    exit 1
fi
. verify/tap.sh
export XDG_STATE_HOME=$tmp/state
# One thread unless a test says otherwise: it gets on where others compete for the processors.
export KGEN_THREADS=1

kg() { call "$kgen" "$@"; }
at_least() { awk -v a="$1" -v b="$2" 'BEGIN { exit !(a >= b) }'; }

# ---- emit: needs no model ----
kg emit linear --stage dsl --shape W=q4_1,d=576,n=1536,act=q8
[ $status_of = 0 ] && grep -q 'w: q4_1\[1536,576\]' "$tmp/out" && grep -qF 'y[tok][row] = sum(k in 0 … 576: w[row][k] * v1[k])' "$tmp/out"
ok "emit_dsl_reads_like_the_kernel"
kg emit linear --stage dsl; cp "$tmp/out" "$tmp/first"; kg emit linear --stage dsl --target x86-64; cmp -s "$tmp/first" "$tmp/out"
ok "emit_dsl_knows_no_target"
kg emit argmax --stage dsl
grep -qF 'largest[tok][part] = fold(monoid1, k in 0 … 256: {i = min(256 * part, 31744) + k, v = x[tok]' "$tmp/out" && grep -qx 'monoid1: zero {i = 0, v = -inf}' "$tmp/out"
ok "emit_dsl_of_a_fold"
kg emit attention --stage dsl
grep -qF 'fold(monoid1, key in 0 … pos + tok + 1: {l = 1, m = sum(e in 0 … 64: q[tok][head][e] * kc[v1][key][e]) * 0.125' "$tmp/out" &&
    grep -qF 'o = a.o * v5 + b.o * v6' "$tmp/out"; ok "emit_dsl_of_attention"
kg emit linear --stage ir; [ $status_of = 0 ] && [ "$(head -n 1 "$tmp/out")" = 'kgen-ir 1' ]; ok "emit_ir"
kg emit linear --stage llvm; [ $status_of = 0 ] && grep -q '^define ' "$tmp/out"; ok "emit_llvm"
kg emit linear --stage asm --target x86-64-v4-vnni; grep -q vpdpbusd "$tmp/out"; ok "emit_asm_uses_the_targets_dot_product"
kg emit linear --stage asm --target x86-64-v3; grep -q vpmaddubsw "$tmp/out" && ! grep -qE 'zmm|vpdpbusd' "$tmp/out"
ok "emit_asm_keeps_to_the_target"
kg emit linear --stage asm --target x86-64; ! grep -qE 'ymm|zmm' "$tmp/out" && [ -s "$tmp/out" ]; ok "emit_asm_of_the_baseline"
kg emit linear --stage obj; [ "$(head -c 4 "$tmp/out" | od -An -c | tr -d ' ')" = '177ELF' ]; ok "emit_obj"
kg emit linear --stage asm -o "$tmp/linear.s"; [ $status_of = 0 ] && [ ! -s "$tmp/out" ] && [ -s "$tmp/linear.s" ]; ok "emit_to_a_file"
kg emit linear --stage asm; cmp -s "$tmp/out" "$tmp/linear.s"; ok "emit_twice_is_the_same"
kg emit linear --stage ptx --target sm_90; [ $status_of = 0 ] && grep -qx '.target sm_90' "$tmp/out"; ok "emit_ptx"
kg emit linear --stage ptx; says 2 'expected --target sm_NN'; ok "emit_ptx_is_of_gpus"
kg emit linear --stage sass-report --target x86-64; says 2 'expected --target sm_NN'; ok "sass_report_is_of_gpus"
kg emit linear --stage obj --target sm_90 -o "$tmp/o"; says 2 '--stage ptx'; ok "gpus_have_no_objects"
for target in sm_75 sm_80 sm_86 sm_89 sm_90 sm_90a sm_100 sm_100a sm_103 sm_103a sm_120 sm_120a sm_121 sm_121a; do
    "$kgen" emit --help | tr -s ' ,\n' '\n' | grep -qx $target && "$kgen" emit add --target $target >"$tmp/out" 2>"$tmp/err"
    ok "emit_help_names_$target"
done
PATH=$tmp CUDA_HOME= kg emit linear --stage sass-report --target sm_90; says 1 'needs ptxas'; ok "sass_report_without_ptxas"
if ptxas --version >/dev/null 2>&1; then
    kg emit rmsnorm --stage sass-report --target sm_80
    [ $status_of = 0 ] && [ "$(sed -n 1p "$tmp/out" | tr -s ' ')" = 'function registers spilled stack shared at once' ] &&
        grep -qE '^rmsnorm\$_[0-9] +[0-9]+ +0 +0 +[0-9]+ +[0-9]+ of 64 warps, +[0-9]+ %$' "$tmp/out"; ok "sass_report"
else skip sass_report 'no ptxas in PATH'; fi
kg emit --all --stage dsl -o "$tmp/all"; [ $status_of = 0 ] && [ -s "$tmp/all/linear.q4_k.txt" ] && [ -s "$tmp/all/add.txt" ] &&
    [ -s "$tmp/all/attention.f16.txt" ]; ok "emit_all"
kg emit linear --dump=fold; [ $status_of = 0 ] && grep -q 'after fold' "$tmp/err" && [ "$(head -n 1 "$tmp/out")" = 'kgen-ir 1' ]; ok "emit_dump"
kg emit linear --dump=nope; says 2 'expected one of'; ok "emit_unknown_pass"
kg emit linaer; says 1 "no kernel 'linaer'"; ok "emit_unknown_kernel"
kg emit linear --target x87; says 2 'expected one of'; ok "emit_unknown_target"
kg emit linear --stage dsl --shape q=3; says 1 "has no 'q'"; ok "shape_unknown_name"
kg emit linear --stage dsl --shape W=q9; says 1 "unknown format 'q9'"; ok "shape_unknown_format"
kg emit linear --shape d=577; says 1 '577'; ok "shape_that_is_no_whole_block"
for bad in d=0 d=-1 d=x d=1.5 d=99999999999999999999 d= d; do
    kg emit linear --shape "$bad"; says 1 "$bad"; ok "shape_refuses_$bad"
done
kg emit linear --all -o x; says 2 'KERNEL or --all'; ok "emit_one_or_all"
kg emit --all -o /dev/null/x; says 1 '/dev/null/x'; ok "emit_where_nothing_can_be"

# ---- bench --kernel ----
kg bench --kernel add --shape tok=3,d=100 -r 2 --json
[ $status_of = 0 ] && [ "$(field shape)" = '"d=100,tok=3"' ] && [ "$(field bytes)" = 3600.0 ] && [ "$(field ops)" = 300.0 ] &&
    at_least "$(field read_bytes_per_s)" 1e8; ok "bench_kernel"
kg bench --kernel nope; says 1 "no kernel 'nope'"; ok "bench_unknown_kernel"
kg bench; says 2 'missing what to measure'; ok "bench_of_nothing"

# ---- Options that exclude or miss each other ----
kg run -m x -p a -f b; says 2 'exclude each other'; ok "run_two_prompts"
kg run -m x -i --json; says 2 'exclude each other'; ok "run_interactive_json"
kg perplexity -m x; says 2 'missing the text'; ok "perplexity_of_nothing"
kg perplexity -m x -p a --ids 1; says 2 'exclude each other'; ok "perplexity_two_texts"
kg perplexity -m x -p a --chunks 2; says 2 '--chunks belongs to -f'; ok "perplexity_chunks_of_a_text"
kg perplexity -m x -f a -c 3; says 2 'at least 4 tokens'; ok "perplexity_window_too_small"

if [ ! -f "$smol" ]; then
    skip "everything with a model" "there is no $smol (./setup.sh test fetches it)"
    echo "1..$n"
    exit $failed
fi

# ---- run ----
capital='The capital of France is'
kg run -m $smol --raw -p "$capital" -n 12 --act f32 --json
[ "$(field ids)" = '[7042, 30, 198, 198, 504, 2988, 314, 42, 216, 34, 32, 33]' ] && [ "$(field prompt_tokens)" = 5 ] &&
    [ "$(field ended_by)" = '"length"' ]; ok "greedy_tokens_are_pytorchs"
kg run -m $smol --raw -p "$capital" -n 12 --act f32
[ $status_of = 0 ] && printf ' Paris.\n\nThe answer is: 201\n' | cmp -s - "$tmp/out"; ok "text_goes_to_standard_output"
for what in load compile 'first token' prompt generation memory; do grep -q "^$what " "$tmp/err"; ok "summary_tells_$what"; done
printf '%s' "$capital" >"$tmp/prompt"
kg run -m $smol --raw -f "$tmp/prompt" -n 2 --act f32; [ "$(cat "$tmp/out")" = ' Paris.' ]; ok "prompt_from_a_file"
"$kgen" run -m $smol --raw -f - -n 2 --act f32 <"$tmp/prompt" >"$tmp/out" 2>"$tmp/err"; [ "$(cat "$tmp/out")" = ' Paris.' ]
ok "prompt_from_standard_input"
kg run -m $smol --raw -p "$capital" -n 12 --act f32 --json --stop answer
[ "$(field text)" = '" Paris.\n\nThe "' ] && [ "$(field ended_by)" = '"stop"' ]; ok "stop_text_is_not_shown"
kg run -m $smol --raw -p "$capital" --act f32 --json -c 8
[ "$(field ids)" = '[7042, 30, 198, 198]' ] && [ "$(field ended_by)" = '"context"' ]; ok "a_full_context_ends_the_text"
kg run -m $smol -p Hi -n 1 --json; chat=$(field prompt_tokens)
kg run -m $smol -p Hi -n 1 --json --raw; [ "$(field prompt_tokens)" = 1 ] && [ "$chat" = 31 ]; ok "the_chat_template_is_used_unless_raw"
kg run -m $smol -p 'Hi<|im_end|>' -n 1 --json; [ "$(field prompt_tokens)" -gt $((chat + 1)) ]
ok "a_message_that_spells_a_control_token_stays_text"
kg run -m $smol -p 'What is 2+2?' --json -n 200 --act f32; [ "$(field ended_by)" = '"model"' ]; ok "the_model_ends_its_answer"
kg run -m $smol -p $'\xff\xfe caf\xc3' -n 2 --json; [ $status_of = 0 ]; ok "a_prompt_that_is_no_utf8"

kg run -m $smol -p 'Tell me a story.' -n 16 --temp 1 --seed 5 --json; one=$(field ids)
kg run -m $smol -p 'Tell me a story.' -n 16 --temp 1 --seed 5 --json -t 2; [ "$(field ids)" = "$one" ] && [ "$(field seed)" = 5 ]
ok "a_seed_repeats"
kg run -m $smol -p 'Tell me a story.' -n 16 --temp 1 --seed 6 --json; [ "$(field ids)" != "$one" ]; ok "another_seed_differs"
kg run -m $smol -p 'Tell me a story.' -n 8 --temp 1 --json; seed=$(field seed) one=$(field ids)
kg run -m $smol -p 'Tell me a story.' -n 8 --temp 1 --json --seed "$seed"; [ "$(field ids)" = "$one" ]; ok "a_chosen_seed_is_told"
kg run -m $smol --raw -p 'a a a a a a a a' -n 1 --json --repeat-penalty 5; [ "$(field text)" != '" a"' ]; ok "penalties_apply_to_the_prompt"

kg run -m $smol --raw -p "$capital" -n 1 --gpu; [ $status_of = 0 ] && grep -q 'computing on the CPU' "$tmp/err"; ok "gpu_falls_back"
kg run -m $smol -p x --device cuda; says 1 'cuda'; ok "device_cuda_fails"
kg run -m $smol -p ''; says 1 'the prompt is empty'; ok "empty_prompt"
kg run -m $smol -p "$capital" -c 8; says 1 'the context 8'; ok "prompt_longer_than_the_context"
kg run -m $smol -p x -c 8193; says 1 'at most 8192'; ok "context_longer_than_the_models"
kg run -m $smol -p x --stop ''; [ $status_of = 2 ]; ok "empty_stop_text"
head -c 50000000 $smol >"$tmp/short.gguf"
kg run -m "$tmp/short.gguf" -p x; says 1 "$tmp/short.gguf"; ok "truncated_model_is_refused"
rm "$tmp/short.gguf"
kg run -m $smol --raw -p x -n 1 --dump=all; [ $status_of = 0 ] && grep -q 'after fold' "$tmp/err"; ok "run_dump"
kg run -m $smol --raw -p "$capital" -n 4 --profile; [ $status_of = 0 ] && grep -q 'barriers each' "$tmp/err"; ok "run_profile"

# Ctrl-C: the answer is whole up to there, the summary follows, and it counts as success.
"$kgen" run -m $smol -p 'Count from one to ten thousand.' --raw >"$tmp/out" 2>"$tmp/err" </dev/null &
pid=$!
for _ in $(seq 600); do [ -s "$tmp/out" ] && break; sleep 0.1; done
kill -INT $pid; wait $pid; status_of=$?
[ $status_of = 0 ] && grep -q interrupted "$tmp/err" && grep -q '^memory' "$tmp/err"; ok "ctrl_c_ends_with_the_summary"

# ---- Conversation ----
talk() { printf '%s\n' "$@" | "$kgen" run -m $smol -i -n 12 --act f32 >"$tmp/out" 2>"$tmp/err"; status_of=$?; }
talk 'Hello.' 'What is the capital of France?' /stats
# The second turn evaluates what was said since, not the 24 tokens of the system message before it.
new=$(sed -nE 's/.* last turn: ([0-9]+) tokens of prompt, ([0-9]+) of them new.*/\1 \2/p' "$tmp/err" | head -n 1)
[ $status_of = 0 ] && [ -n "$new" ] && [ "${new#* }" -lt 25 ] && [ "${new% *}" -gt 50 ]; ok "the_cache_is_kept_between_turns"
[ "$(wc -l <"$tmp/out")" -ge 2 ]; ok "each_turn_is_answered"
talk 'What is the capital of France?' /clear 'What is the capital of France?'
[ "$(sed -n 1p "$tmp/out")" = "$(sed -n 2p "$tmp/out")" ] && grep -q 'starts anew' "$tmp/err"; ok "clear_forgets"
talk /help /hepl /undo /exit Never
[ $status_of = 0 ] && [ ! -s "$tmp/out" ] && grep -q '/system' "$tmp/err" && grep -q 'did you mean /help?' "$tmp/err" &&
    grep -q 'nothing to take back' "$tmp/err"; ok "commands_of_a_conversation"
printf 'Hi.\n' | "$kgen" run -m $smol -i -c 20 -n 4 >"$tmp/out" 2>"$tmp/err"; status_of=$?
[ $status_of = 0 ] && grep -q 'the context 20' "$tmp/err"; ok "a_turn_that_does_not_fit_is_told"

# ---- perplexity ----
kg perplexity -m $smol --ids 504,3575,282,4649,314 --json --act f32 --top 2; cp "$tmp/out" "$tmp/ids"
[ "$(field ids)" = '[504, 3575, 282, 4649, 314]' ] && grep -qE '"top": \[\[7042, 17\.3712[0-9]*\], \[260, 14\.888' "$tmp/out"; ok "perplexity_of_ids"
kg perplexity -m $smol -p "$capital" --json --act f32 --top 2; cmp -s "$tmp/out" "$tmp/ids"; ok "perplexity_of_a_text_is_that_of_its_ids"
kg perplexity -m $smol -p "$capital" --json --act f32 --top 2 -t 2; cmp -s "$tmp/out" "$tmp/ids"; ok "perplexity_is_the_same_for_any_threads"
kg perplexity -m $smol -f verify/data/golden/wikitext2-test-head.txt -c 64 --chunks 2 --json
[ "$(field n_scored)" = 62 ] && grep -qE '^\{"perplexity": [0-9.]+, "mean_nll": \[[0-9.]+, [0-9.]+\], "n_scored": 62\}$' "$tmp/out"; ok "perplexity_of_windows"
cp "$tmp/out" "$tmp/windows"
kg perplexity -m $smol -f verify/data/golden/wikitext2-test-head.txt -c 64 --chunks 2 --json -t 2; cmp -s "$tmp/out" "$tmp/windows"
ok "windows_are_the_same_for_any_threads"
printf 'too short' >"$tmp/text"; kg perplexity -m $smol -f "$tmp/text"; says 1 'do not fill one window of 512'; ok "perplexity_of_a_short_file"
kg perplexity -m $smol --ids 49152; says 1 'token ids 0…49151'; ok "perplexity_id_beyond_the_vocabulary"
kg perplexity -m $smol -p ''; says 1 'no tokens'; ok "perplexity_of_empty_text"
kg perplexity -m $smol --ids 5 --json --top 0; [ "$(cat "$tmp/out")" = '{"ids": [5], "next_token_nll": [], "top": []}' ]; ok "perplexity_of_one_token"

# ---- bench, inspect --graph ----
kg bench -m $smol -p 8 -n 3 -r 2 -d 4 --json
[ $status_of = 0 ] && [ "$(field pp | tr -cd , | wc -c)" = 1 ] && [ "$(field tg | tr -cd , | wc -c)" = 1 ] && [ "$(field depth)" = 4 ] &&
    at_least "$(field bytes_per_token)" 9e7 && at_least "$(field ops_per_token)" 2e8; ok "bench_model"
python3 -c 'import json, sys
d = json.load(open(sys.argv[1]))
# Each repetition has a peak of its own, no more than what is measured at leisure, and a token cannot beat it by much.
for kind, most in (("pp", "int8_ops_per_s"), ("tg", "read_bytes_per_s")):
    assert len(d[kind + "_peak"]) == 2 and all(0 < x < 2 * d["peaks"][most] for x in d[kind + "_peak"]), d' \
    "$tmp/out" 2>"$tmp/err"; ok "bench_has_a_peak_beside_each_repetition"
kg bench -m $smol -p 0 -n 2 -r 1 --json; [ "$(field pp)" = '[]' ]; ok "bench_without_a_prompt"
kg bench -m $smol -p 4 -n 2 -r 1 --profile; [ $status_of = 0 ] && [ "$(grep -c 'barriers each' "$tmp/err")" = 2 ]; ok "bench_profile"
kg bench -m $smol -p 16 -n 3 -d 4 -r 1 --profile --svg "$tmp/roof.svg" --json
python3 - "$tmp/out" "$tmp/roof.svg" >"$tmp/profile" 2>&1 <<'P'
import json, sys, xml.etree.ElementTree as tree
d = json.load(open(sys.argv[1]))
prompt, token = d["profile"]
assert (prompt["tok"], prompt["pos"], prompt["evaluations"]) == (16, 4, 1), prompt
assert (token["tok"], token["pos"], token["evaluations"]) == (1, 5, 3), token
for p in prompt, token:
    assert abs(sum(k["ms"] for k in p["kernels"]) - p["ms"]) < 1e-6 * p["ms"]
    assert abs(sum(l["ms"] for l in p["layers"]) - p["ms"]) < 1e-6 * p["ms"]
    layers = [l for l in p["layers"] if l["layer"] >= 0]
    assert [l["layer"] for l in layers] == list(range(30)) and all(l["launches"] >= 6 for l in layers)
    assert sum(l["barriers"] for l in p["layers"]) == p["barriers"]
    # Costs by hand: gate, up and the product of both, 576 x 1536 weights each, two operations a weight and token.
    ffn = [k for k in p["kernels"] if "silu_mul" in k["kernel"]]
    assert len(ffn) == 1 and ffn[0]["launches"] == 30
    assert 1 <= ffn[0]["ops"] / (30 * 2 * 2 * 576 * 1536 * p["tok"]) < 1.02, ffn
    weights = 30 * 2 * 576 * 1536 * 20 / 32
    assert weights <= ffn[0]["bytes"] < 1.2 * weights, ffn
    # No launch is faster than its limit, but for weights that stay in the caches.
    assert all(k["limit_ms"] < 3 * k["ms"] for k in p["kernels"])
# One token's attention is a phase more: pages of keys, then their merge.
assert token["barriers"] == prompt["barriers"] + 30, (token["barriers"], prompt["barriers"])
assert d["peaks"]["bf16_ops_per_s"] >= 0
drawing = tree.parse(sys.argv[2]).getroot()
kinds = [e.get("class") for e in drawing.iter() if e.get("class")]
assert kinds.count("prompt") >= 6 and kinds.count("token") >= 6 and kinds.count("roof") >= 3, kinds
P
ok "bench_profile_adds_up_and_is_drawn"
kg bench --kernel add --svg x; says 2 '--svg belongs to a model'
ok "bench_svg_of_a_kernel"
kg bench -m $smol -p 9000 -n 0; says 1 'at most 8192'; ok "bench_beyond_the_context"
kg inspect --graph $smol; [ $status_of = 0 ] && grep -q '^graph of the family llama: 483 kernels' "$tmp/out" && grep -q '^fused into' "$tmp/out" &&
    grep -qE '^  layer 0 … 2[0-9]' "$tmp/out"; ok "inspect_graph"
kg inspect --graph --json $smol; [ "$(field family)" = '"llama"' ]; ok "inspect_graph_json"

finish
