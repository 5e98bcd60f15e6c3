#!/usr/bin/env bash
# kgen tune as its users meet it: what it prints and keeps, that models use it without changing a bit, and what a kill, a
# second writer and a damaged database leave.
set -u
cd "$(dirname "$0")/.." || exit 1
kgen=${KGEN:-build/kgen}
smol=build/models/smollm2-135m-instruct-q4_1.gguf
if [ ! -x "$kgen" ]; then
    printf '1..1\nnot ok 1 - there is no %s\n' "$kgen"
    exit 1
fi
. verify/tap.sh
export KGEN_CACHE_DIR=$tmp/cache
unset KGEN_THREADS KGEN_LUA
run() { call "$kgen" "$@"; }
sql() { python3 -c 'import sqlite3, sys
c = sqlite3.connect(sys.argv[1]); print(c.execute(sys.argv[2]).fetchone()[0]); c.commit()' "$KGEN_CACHE_DIR/tune.db" "$1"; }
intact() { [ "$(sql 'PRAGMA integrity_check')" = ok ] && [ "$(sql 'SELECT count(*) FROM choice')" -ge "$1" ]; }
small=(linear --shape n=64,d=64,W=q4_1,tok=3 --budget 20)

# ---- Usage ----
run tune; [ $status_of = 2 ] && grep -q 'expected a KERNEL, --all or -m MODEL' "$tmp/err"; ok "nothing_to_tune"
run tune linear -m x; [ $status_of = 2 ]; ok "kernel_and_model"
run tune linear --all; [ $status_of = 2 ]; ok "kernel_and_all"
run tune --all --shape n=64; [ $status_of = 2 ]; ok "shape_of_all"
run tune linear --gpu; [ $status_of = 2 ]; ok "no_gpu"
run tune nosuch; [ $status_of = 1 ] && grep -q "no kernel 'nosuch'" "$tmp/err"; ok "unknown_kernel"
run tune linear --target sm_90; [ $status_of = 1 ] && grep -q 'cannot run its code' "$tmp/err"; ok "target_of_another_machine"
run tune linear --budget nan; [ $status_of = 2 ]; ok "budget_is_a_number"
run tune add --budget 5; [ $status_of = 0 ] && grep -q '2 have nothing to tune' "$tmp/out"; ok "kernel_without_tunables"
run tune linear --shape n=64,d=64,W=q4_1,tok=1 --budget 20 --json
[ "$(json 'sorted(set(s["use"] for s in d["sweeps"]))')" = "['token']" ] &&
    [ "$(sql 'SELECT group_concat(DISTINCT use) FROM choice')" = token ]; ok "one_token_is_a_use_of_its_own"
rm -f "$KGEN_CACHE_DIR"/tune.db*
run tune linear --budget 0; [ $status_of = 0 ] && grep -q 'not reached within --budget 0' "$tmp/out"; ok "no_time"

# ---- One kernel ----
run tune "${small[@]}" --json --report "$tmp/r.html"
[ $status_of = 0 ] && [ ! -s "$tmp/err" ]; ok "quiet_without_a_terminal"
[ "$(json 'len(d["sweeps"]), d["sweeps"][0]["kernel"]')" = "(1, 'linear')" ]; ok "json"
[ "$(json '(lambda s: s["best"] in [c["tune"] for c in s["candidates"]] and s["best_ms"] <= s["default_ms"]
    and s["candidates"][0]["tune"] == s["default"] and s["use"] == "prompt"
    and [c["predicted_ms"] for c in s["candidates"][1:]] == sorted(c["predicted_ms"] for c in s["candidates"][1:])
    and all(c["outcome"] in ("default", "measured", "slow", "untried")
    for c in s["candidates"]))(d["sweeps"][0])')" = True ]; ok "best_is_a_candidate_no_slower_than_the_default"
[ "$(json 'sum(c["outcome"] != "untried" for c in d["sweeps"][0]["candidates"])')" = "$(sql 'SELECT count(*) FROM log')" ]; ok "losers_are_in_the_log"
best=$(json 'json.dumps(d["sweeps"][0]["best"], separators=(",", ":"), sort_keys=True)')
[ "$(sql 'SELECT tune FROM choice')" = "$best" ]; ok "best_is_kept"
run tune "${small[@]}"
[ "$(grep -c 'defaults take at most 10 % longer than the best found' "$tmp/out")" = 1 ] &&
    awk '/times the default/ { for (i = 1; i < NF; i++) if ($(i + 1) == "times") t = $i }
         /defaults take at most/ { good = $1; of = $3 } / % over, / { over++ }
         END { exit !(of == 1 && good + over == 1 && (t > 1.105 ? over == 1 : t < 1.095 ? good == 1 : 1)) }' "$tmp/out"
ok "says_how_good_the_default_is"
python3 - "$tmp/r.html" >"$tmp/out" 2>"$tmp/err" <<'P'
import re, sys, xml.etree.ElementTree as tree
page = open(sys.argv[1], encoding="utf-8").read()
assert not re.search(r"(src|href)=|url\(|@import|<script", page), "the page fetches something"
svg = re.findall(r"<svg.*?</svg>", page, re.S)
assert len(svg) == 1
drawing = tree.fromstring(svg[0])
kinds = [e.get("class") for e in drawing.iter() if e.get("class")]
assert kinds.count("best") == 1 and kinds.count("limit") == 1 and len(kinds) > 4, kinds
P
ok "report_is_a_page_of_its_own"

run tune --all --budget 0
uses=$(sed -n 's/^0 of \([0-9]*\) kernels and uses tuned, .* not reached.*/\1/p' "$tmp/out")
[ $status_of = 0 ] && [ "${uses:-0}" -gt "$(grep -c '^kernel "' kernels.lua)" ]; ok "all_kernels_and_their_uses"

# Its candidates for a prompt take more steps together than one call of the language has.
run tune norm_qkv --shape tok=9 --budget 0.01; [ $status_of = 0 ] && grep -q '^1 of 1 kernels and uses tuned' "$tmp/out"
ok "many_laborious_candidates"

# ---- A kill, two writers, damage ----
"$kgen" tune attention --budget 100 >"$tmp/out" 2>"$tmp/err" & pid=$!
sleep 1.5
kill -9 $pid; wait $pid 2>/dev/null
intact 1; ok "killed_sweep_leaves_what_was_there"
"$kgen" tune "${small[@]}" >"$tmp/out" 2>"$tmp/err" & first=$!
"$kgen" tune linear --shape n=32,d=64,W=q8_0,tok=3 --budget 20 >"$tmp/out2" 2>"$tmp/err2" & second=$!
wait $first && wait $second && intact 2; ok "two_writers_at_once"
head -c 20000 /dev/urandom >"$KGEN_CACHE_DIR/tune.db"
rm -f "$KGEN_CACHE_DIR"/tune.db-*
run bench --kernel linear --shape n=64,d=64,W=q4_1,tok=3 -r 1
[ $status_of = 0 ] && [ "$(wc -l <"$tmp/err")" = 1 ] && grep -q 'warning: .*tune.db is damaged' "$tmp/err"
ok "damaged_database_is_one_warning"
[ -f "$KGEN_CACHE_DIR/tune.db.broken" ] && [ ! -e "$KGEN_CACHE_DIR/tune.db" ]; ok "damaged_database_is_moved_aside"
run bench --kernel linear --shape n=64,d=64,W=q4_1,tok=3 -r 1; [ $status_of = 0 ] && [ ! -s "$tmp/err" ]; ok "then_there_is_none"
head -c 20000 /dev/urandom >"$KGEN_CACHE_DIR/tune.db"
run tune "${small[@]}"; [ $status_of = 0 ] && intact 1; ok "tuning_begins_anew_after_damage"

# ---- A model ----
if [ -f "$smol" ]; then
    text='The capital of France is Paris, and the capital of Spain is'
    rm -rf "$KGEN_CACHE_DIR"
    KGEN_CACHE_DIR=$tmp/plain run perplexity -m $smol -p "$text" --json; cp "$tmp/out" "$tmp/untuned"
    run tune -m $smol --budget 6 -p 16; [ $status_of = 0 ] && intact 1; ok "model"
    had=$(sql 'SELECT count(*) FROM choice')
    run tune -m $smol --budget 6 -p 16; [ "$(sql 'SELECT count(*) FROM choice')" -gt "$had" ]; ok "another_sweep_goes_on_with_what_is_missing"
    # Choices far from the defaults, and others for one token than for a prompt, so that they cannot be the same code.
    python3 - "$KGEN_CACHE_DIR/tune.db" <<'P'
import json, sqlite3, sys
c = sqlite3.connect(sys.argv[1])
for key, tune in c.execute("SELECT key, tune FROM choice").fetchall():
    for use, toks in ("token", 1), ("prompt", 2):
        c.execute("UPDATE choice SET tune = ? WHERE key = ? AND use = ?",
                  (json.dumps({k: toks if k == "toks" else 1 for k in json.loads(tune)}), key, use))
c.commit()
P
    rm -f "$KGEN_CACHE_DIR"/*.kobj
    run perplexity -m $smol -p "$text" --json
    [ $status_of = 0 ] && [ -s "$tmp/untuned" ] && cmp -s "$tmp/out" "$tmp/untuned"; ok "tuned_model_gives_the_same_bits"
    # Prompts with one kind of kernel, single tokens with the other.
    KGEN_CACHE_DIR=$tmp/plain run run -m $smol --raw -p "$text" -n 8 --act f32 --json; before=$(json 'd["ids"]')
    run run -m $smol --raw -p "$text" -n 8 --act f32 --json; [ "$(json 'd["ids"]')" = "$before" ]; ok "tuned_model_writes_the_same"
    # A choice is part of its object's name: as many names are new as there are choices.
    new=$(comm -23 <(cd "$KGEN_CACHE_DIR" && ls -- *.kobj | sort) <(cd "$tmp/plain" && ls -- *.kobj | sort) | wc -l)
    [ "$new" -ge 1 ] && [ "$new" = "$(sql 'SELECT count(*) FROM choice')" ]; ok "every_choice_is_used"
else
    skip "model" "there is no $smol"
fi
finish
