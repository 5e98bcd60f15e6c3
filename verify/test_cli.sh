#!/usr/bin/env bash
# The command line as its users and their scripts meet it: exit statuses, messages, where settings come from, output
# that can be parsed, and what happens when output goes nowhere. Expected ids are Hugging Face's (see shared golden data).
set -u
cd "$(dirname "$0")/.." || exit 1
kgen=${KGEN:-build/kgen}
smol=build/models/smollm2-135m-instruct-q4_1.gguf
gemma=build/models/gemma-3-270m-q4_k_m.gguf
if [ ! -x "$kgen" ]; then
    printf '1..1\nnot ok 1 - there is no %s\n' "$kgen"
    exit 1
fi
. verify/tap.sh
unset KGEN_THREADS NO_COLOR

run() { call "$kgen" "$@"; }
prints() { [ "$status_of" = 0 ] && [ ! -s "$tmp/err" ] && [ "$(cat "$tmp/out")" = "$1" ]; }

# ---- Usage ----
run; [ $status_of = 2 ] && [ ! -s "$tmp/out" ] && grep -q 'usage: kgen' "$tmp/err"; ok "no_command_is_usage"
run --help; [ $status_of = 0 ] && [ ! -s "$tmp/err" ] && grep -q 'tokenize' "$tmp/out"; ok "help_goes_to_stdout"
run --version; [ $status_of = 0 ] && grep -qE '^kgen [0-9]+\.[0-9]+' "$tmp/out"; ok "version"
run docter; says 2 'no command "docter": did you mean doctor?'; ok "unknown_command_suggests"
run help tokenise; says 2 'did you mean tokenize?'; ok "help_of_unknown_command_suggests"
run xyzzy; says 2 'kgen: no command "xyzzy" (kgen help)'; ok "unlike_anything_suggests_nothing"
run doctor --thraeds 4; says 2 'kgen doctor: unknown option --thraeds: did you mean --threads? (kgen help doctor)'
ok "unknown_option_suggests"
run doctor -threads 4; says 2 'did you mean --threads?'; ok "one_dash_suggests_two"
run doctor -q; says 2 'unknown option -q'; ok "unknown_letter"
run doctor -t 10000; says 2 'kgen doctor: -t 10000: expected 1…1024 threads'; ok "threads_over_range"
run doctor --threads=0; says 2 '--threads 0: expected 1…1024 threads'; ok "threads_zero"
for bad in -1 4x '' ' 4' 1e3 99999999999999999999; do
    run doctor -t "$bad"; says 2 'expected 1…1024 threads'; ok "threads_refuses_'$bad'"
done
run doctor -t; says 2 '-t: expected N'; ok "missing_value"
run doctor --json=1; says 2 '--json takes no value'; ok "flag_with_value"
run doctor --act q4; says 2 '--act q4: expected one of q8, f32'; ok "unknown_choice"
run doctor --device cuda:x; says 2 '--device cuda:x: expected cpu, cuda or cuda:N'; ok "bad_device"
run doctor extra; says 2 'unexpected "extra"'; ok "unexpected_word"
run inspect; says 2 'missing FILE'; ok "missing_word"
run inspect a b; says 2 'unexpected "b"'; ok "too_many_words"
run tokenize -p x; says 2 'missing -m MODEL'; ok "missing_model"
run tokenize -m x -p x -f y; says 2 '-p and -f exclude each other'; ok "two_texts"
run tokenize -m x; says 2 'missing the text'; ok "no_text"
run completion tcsh; says 2 'expected one of bash, zsh, fish'; ok "unknown_shell"
run tokenize --decode -m x -- -5; [ $status_of = 1 ]; ok "words_after_two_dashes_are_no_options"

# ---- Failures name what failed ----
run inspect "$tmp/none.gguf"; says 1 "$tmp/none.gguf"; ok "missing_file_is_named"
run inspect "$tmp"; says 1 "$tmp"; ok "directory_is_refused"
: >"$tmp/empty.gguf"
run inspect "$tmp/empty.gguf"; says 1 "$tmp/empty.gguf"; ok "empty_file_is_refused"
printf 'GGUF\3\0\0\0\377\377\377\377\377\377\377\377' >"$tmp/short.gguf"
run inspect "$tmp/short.gguf"; says 1 "$tmp/short.gguf"; ok "truncated_file_is_refused"
run inspect $'\e[31mred\nline'; says 1 '\x1B[31mred\nline'; ok "messages_are_one_line_without_control_characters"

# ---- Flag over environment over config file ----
mkdir -p "$tmp/config/kgen"
threads() { run doctor --json "$@" && [ "$(json 'd["will_use"]["threads"]')" = "$want" ]; }
printf '# my machine\n\n threads = 3 \nact=f32\ncache_dir = %s/cache\n' "$tmp" >"$tmp/config/kgen/config"
want=3 threads; ok "config_file_sets"
[ "$(json 'd["will_use"]["activations"], d["will_use"]["kv_cache"]')" = "('f32', 'f32')" ]; ok "kv_follows_activations"
(unset KGEN_CACHE_DIR; run doctor --json; [ "$(json 'd["cache"]["directory"]')" = "$tmp/cache" ]); ok "config_sets_the_cache"
KGEN_THREADS=4 want=4 threads; ok "environment_over_config"
KGEN_THREADS=4 want=5 threads -t 5; ok "flag_over_environment"
KGEN_THREADS='' want=3 threads; ok "empty_variable_is_unset"
KGEN_THREADS=many run doctor; says 2 'KGEN_THREADS=many: expected 1…1024 threads'; ok "bad_variable_is_named"
KGEN_THREADS=many want=2 threads -t 2; ok "an_overridden_variable_is_not_read"
printf 'thread = 3\n' >"$tmp/config/kgen/config"
run doctor; says 2 "$tmp/config/kgen/config:1: unknown key thread: did you mean threads?"; ok "unknown_key_suggests"
printf '\nthreads\n' >"$tmp/config/kgen/config"
run doctor; says 2 'config:2: expected `key = value`, found "threads"'; ok "line_without_value"
printf 'threads = 0\n' >"$tmp/config/kgen/config"
run doctor; says 2 'config:1: threads = 0: expected 1…1024 threads'; ok "bad_config_value_is_named"
printf 'threads = 1\nthreads = 6\n' >"$tmp/config/kgen/config"
want=6 threads; ok "the_last_line_wins"
rm -r "$tmp/config"
mkdir -p "$tmp/config/kgen/config"
run doctor; says 1 "$tmp/config/kgen/config"; ok "config_that_is_a_directory"
rm -r "$tmp/config"

# ---- Numbers of `run` that are not numbers ----
if "$kgen" help --names | grep -qx run; then
    for bad in nan NaN inf -1 1e400 x; do
        run run -m x -p x --temp "$bad"; says 2 "--temp $bad: expected 0…100"; ok "temperature_$bad"
    done
    run run -m x -p x -n 0; says 2 '-n 0: expected 1…'; ok "predict_zero"
    run run -m x -p x -n -1; says 2 '-n -1: expected 1…'; ok "predict_negative"
    run run -m x; says 2 'missing the prompt'; ok "run_without_prompt"
    run run -m "$tmp/none.gguf" -p x; says 1 "$tmp/none.gguf"; ok "run_without_model_file"
else
    skip "temperature" "this build has no run command"
fi

# ---- tokenize ----
ids() { run tokenize --json "$@" && [ "$(json 'd["ids"]')" = "$want" ]; }
if [ -f "$smol" ] && [ -f "$gemma" ]; then
    want='[504, 3575, 282, 4649, 314]' ids -m $smol -p 'The capital of France is'; ok "ids_of_smollm2"
    want='[2, 818, 5279, 529, 7001, 563]' ids -m $gemma -p 'The capital of France is'; ok "ids_of_gemma_with_bos"
    want='[818, 5279, 529, 7001, 563]' ids -m $gemma --no-bos -p 'The capital of France is'; ok "ids_without_bos"
    printf 'Q: What is 17 + 25?\nA:' >"$tmp/text"
    want='[65, 42, 1812, 314, 216, 33, 39, 1232, 216, 34, 37, 47, 198, 49, 42]' ids -m $smol -f "$tmp/text"
    ok "ids_of_a_file"
    "$kgen" tokenize --json -m $smol -f - <"$tmp/text" >"$tmp/out" 2>"$tmp/err"
    [ "$(json 'd["ids"]')" = '[65, 42, 1812, 314, 216, 33, 39, 1232, 216, 34, 37, 47, 198, 49, 42]' ]; ok "ids_of_standard_input"
    : >"$tmp/text"
    want='[]' ids -m $smol -f "$tmp/text"; ok "ids_of_an_empty_file"
    want='[]' ids -m $gemma -p ''; ok "ids_of_empty_text"
    want='[1]' ids -m $smol --special -p '<|im_start|>'; ok "special_text_is_a_token_when_asked"
    run tokenize --json -m $smol -p '<|im_start|>'; [ "$(json 'len(d["ids"]) > 1')" = True ]; ok "special_text_stays_text"
    run tokenize -m $smol --decode 504 3575 282 4649 314; prints 'The capital of France is'; ok "decode"
    run tokenize -m $smol --decode 504,3575 282,4649,314; prints 'The capital of France is'; ok "decode_lists"
    run tokenize -m $smol --decode 49152; says 1 '--decode 49152: expected token ids 0…49151'; ok "decode_beyond_the_vocabulary"
    for bad in x 1,,2 -1 1.5 2147483648; do
        run tokenize -m $smol --decode -- "$bad"; says 2 'expected token ids separated by commas'; ok "decode_refuses_$bad"
    done
    run tokenize -m $smol -p 'Hi'; [ $status_of = 0 ] && grep -qE '^ +[0-9]+  Hi$' "$tmp/out"; ok "ids_beside_spellings"

    # ---- inspect ----
    run inspect --json $smol
    [ "$(json 'len(d["tensors"]), d["metadata"]["llama.block_count"], d["size_bytes"]')" = '(272, 30, 98362432)' ]; ok "inspect_json"
    [ "$(json 'next((t["type"], t["shape"], t["bytes"]) for t in d["tensors"] if t["name"] == "blk.0.ffn_up.weight")')" = \
        "('q4_1', [576, 1536], $((576 * 1536 / 32 * 20)))" ]; ok "inspect_json_tensor"
    [ "$(json 'd["memory"]["kv_cache_bytes"]')" = $((30 * 2048 * 3 * 2 * 64 * 2)) ]; ok "inspect_kv_memory"
    [ "$(json 'sorted(d["metadata"]["tokenizer.ggml.tokens"])')" = "['first', 'n', 'type']" ]; ok "inspect_shortens_arrays"
    run inspect --json --whole $smol; [ "$(json 'len(d["metadata"]["tokenizer.ggml.tokens"])')" = 49152 ]; ok "inspect_whole"
    run inspect $smol; [ $status_of = 0 ] && grep -qE 'token_embd.weight +q8_0 +576 × 49152' "$tmp/out"; ok "inspect_table"
    run doctor --json -m $smol; [ "$(json 'd["model"]["family"], d["model"]["tensors"]')" = "('llama', 272)" ]; ok "doctor_model"
else
    skip "tokenize" "the models are not in build/models (./setup.sh test fetches them)"
fi

# ---- doctor ----
run doctor --json; [ "$(json 'd["machine"]["cores"] >= 1 and d["will_use"]["threads"] == d["machine"]["cores"]')" = True ]
ok "doctor_json"
run doctor --json --device cuda; [ "$(json '"cuda" in d["will_use"]["device"]')" = True ]; ok "doctor_device"
run doctor; [ $status_of = 0 ] && grep -q '^machine' "$tmp/out" && grep -qE 'memory +[0-9.]+ GiB' "$tmp/out"; ok "doctor_table"
touch "$tmp/file"
KGEN_CACHE_DIR=$tmp/file run doctor; [ $status_of = 0 ] && grep -q 'cache directory cannot be used' "$tmp/out"
ok "doctor_sees_a_bad_cache"
(unset KGEN_CACHE_DIR HOME XDG_CACHE_HOME; run doctor; [ $status_of = 0 ] && grep -q 'nowhere to keep' "$tmp/out")
ok "doctor_without_home"

# A driver of our own making, since the machine may have none: what it says must arrive, and its failures be explained.
driver() { # driver FLAGS…: libcuda.so.1 in $tmp/cuda
    mkdir -p "$tmp/cuda"
    gcc -shared -fPIC "$@" -xc -o "$tmp/cuda/libcuda.so.1" - <<'C'
#include <string.h>
#ifndef BARE
int cuInit(unsigned flags) { return flags ? 1 : START; }
int cuDriverGetVersion(int *v) { *v = 12080; return 0; }
int cuDeviceGetCount(int *n) { *n = DEVICES; return 0; }
int cuDeviceGet(int *d, int i) { *d = i + 7; return 0; }
int cuDeviceGetName(char *name, int n, int d) { strncpy(name, d == 7 ? "First" : "Second", (unsigned long)n); return 0; }
int cuDeviceTotalMem_v2(unsigned long *bytes, int d) { (void)d; *bytes = 3ul << 33; return 0; }
int cuDeviceGetAttribute(int *v, int a, int d) { (void)d; *v = a == 75 ? 9 : a == 76 ? 0 : -1; return 0; }
#endif
C
}
doctor_with_driver() { LD_LIBRARY_PATH=$tmp/cuda run doctor "$@"; }
driver -DSTART=0 -DDEVICES=2
doctor_with_driver --json --device cuda:1
[ "$(json 'd["cuda"]["driver"], d["cuda"]["devices"][1], d["will_use"]["device"]')" = \
    "('CUDA 12.8', {'name': 'Second', 'architecture': 'sm_90', 'memory_bytes': $((3 << 33)), 'launches': 'plain launches'}, 'cuda:1')" ]; ok "doctor_cuda"
doctor_with_driver --json --device cuda:2; [ "$(json 'd["will_use"]["device"]')" = 'none: no cuda:2 here' ]; ok "doctor_cuda_absent_device"
driver -DSTART=0 -DDEVICES=0; doctor_with_driver; grep -q 'sees no device' "$tmp/out"; ok "doctor_cuda_without_devices"
driver -DSTART=999 -DDEVICES=1; doctor_with_driver; grep -q 'does not start' "$tmp/out"; ok "doctor_cuda_that_does_not_start"
driver -DBARE; doctor_with_driver; grep -q 'lacks functions' "$tmp/out"; ok "doctor_cuda_too_old"

# ---- Text from the tables ----
for name in $("$kgen" help --names); do
    run help "$name"; cp "$tmp/out" "$tmp/help"
    run "$name" --help; [ $status_of = 0 ] && [ ! -s "$tmp/err" ] && cmp -s "$tmp/out" "$tmp/help" && grep -q "^usage: kgen $name " "$tmp/out"
    ok "help_of_$name"
    [ "$(awk '{ gsub(/[\200-\277]/, ""); if (length > w) w = length } END { print w }' "$tmp/out")" -le 100 ]; ok "help_of_${name}_is_narrow"
    run help --man "$name"; grep -q '^\.SH SYNOPSIS' "$tmp/out" && ! grep -qE '^\.[^A-Z]' "$tmp/out"; ok "man_page_of_$name"
    if command -v groff >/dev/null; then
        groff -man -ww -Tutf8 -K utf8 "$tmp/out" >/dev/null 2>"$tmp/err"; [ ! -s "$tmp/err" ]; ok "groff_accepts_$name"
    else
        skip "groff_accepts_$name" "groff is not installed"
    fi
done
run help --man; grep -q 'KGEN_THREADS' "$tmp/out" && grep -q 'NO_COLOR' "$tmp/out"; ok "man_page_lists_the_environment"
run help --markdown; diff docs/commands.md "$tmp/out" >"$tmp/err"; ok "docs/commands.md_is_current_(make docs)"

run completion bash
complete_bash() { # complete_bash WORD…: the completions of the last word
    bash -c 'source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _kgen; printf "%s\n" "${COMPREPLY[@]}"' - "$tmp/out" "$@"
}
[ "$(complete_bash kgen tok)" = tokenize ]; ok "bash_completes_commands"
[ "$(complete_bash kgen doctor --thr)" = --threads ]; ok "bash_completes_options"
[ "$(complete_bash kgen doctor --act '' | paste -sd ' ')" = 'q8 f32' ]; ok "bash_completes_choices"
[ "$(cd "$tmp" && complete_bash kgen tokenize -m empty)" = empty.gguf ]; ok "bash_completes_files"
[ "$(complete_bash kgen help insp)" = inspect ]; ok "bash_completes_help"
for shell in zsh fish; do
    run completion $shell; [ $status_of = 0 ] && grep -q threads "$tmp/out"; ok "${shell}_rules"
    if command -v $shell >/dev/null; then $shell -n "$tmp/out" 2>"$tmp/err"; ok "${shell}_parses_its_rules"
    else skip "${shell}_parses_its_rules" "$shell is not installed"; fi
done
if command -v fish >/dev/null; then
    complete_fish() { HOME=$tmp fish --no-config -c "source $tmp/out; complete -C '$1'" 2>"$tmp/err" | cut -f 1 | paste -sd ' '; }
    [ "$(complete_fish 'kgen tok')" = tokenize ]; ok "fish_completes_commands"
    [ "$(complete_fish 'kgen doctor --thr')" = --threads ]; ok "fish_completes_options"
    [ "$(complete_fish 'kgen doctor --act ')" = 'f32 q8' ]; ok "fish_completes_choices"
else
    skip "fish_completes" "fish is not installed"
fi

# ---- Where output goes ----
"$kgen" help >&- 2>"$tmp/err"; status_of=$?; : >"$tmp/out"
says 1 'standard output could not be written'; ok "closed_stdout"
"$kgen" help >/dev/full 2>"$tmp/err"; status_of=$?
says 1 'standard output could not be written: No space left on device'; ok "full_disk"
(sleep 0.3; "$kgen" help --markdown 2>"$tmp/err"; echo $? >"$tmp/out") | true
[ "$(cat "$tmp/out")" = 141 ] && [ ! -s "$tmp/err" ]; ok "a_reader_that_left_ends_it_quietly"
"$kgen" docter 2>&- >"$tmp/out"; [ $? = 2 ] && [ ! -s "$tmp/out" ]; ok "closed_stderr"
if script -qec true /dev/null >"$tmp/out" 2>&1 </dev/null; then
    escape=$'\e['
    TERM=xterm script -qec "$kgen help" /dev/null >"$tmp/out" </dev/null; grep -qF "$escape" "$tmp/out"; ok "colour_on_a_terminal"
    NO_COLOR=1 TERM=xterm script -qec "$kgen help" /dev/null >"$tmp/out" </dev/null; ! grep -qF "$escape" "$tmp/out"
    ok "no_colour_when_told"
else
    skip "colour" "script cannot make a pseudo-terminal here"
fi
run help; ! grep -qF $'\e[' "$tmp/out"; ok "no_colour_in_a_file"

finish
