#!/bin/bash
# A whole program on emulated AMX (verify/amx): LD_PRELOAD=build/amx.so is all it takes.
cd "$(dirname "$0")/.." || exit 1
. verify/tap.sh
export XDG_CACHE_HOME=$tmp/cache

kg() { call build/kgen "$@"; }
on_amx() { call env AMX_REPORT=1 LD_PRELOAD="$PWD/build/amx.so" build/kgen "$@"; }

if command -v objdump >/dev/null; then
    call build/kgen emit linear --stage obj --target x86-64-v4-amx --shape n=32,d=512,W=q4_k,act=q8
    cp "$tmp/out" "$tmp/linear.o"
    objdump -d "$tmp/linear.o" >"$tmp/out"
    grep -q tdpbsud "$tmp/out" && grep -q vpdpbusd "$tmp/out"; ok "an_object_holds_products_of_tiles_and_of_single_tokens"
    [ "$(grep -c ldtilecfg "$tmp/out")" = 1 ]; ok "a_function_configures_its_tiles_once"
else
    skip "objdump" "there is no objdump"
fi

ir() { call build/kgen emit linear --stage ir --target "$1" --shape "n=32,$2,act=q8"; }
for shape in W=q4_1,d=512 W=q6_k,d=512 W=iq4_nl,d=512 W=q4_k,d=32768; do
    ir x86-64-v4-amx $shape; grep -q '^ *tiledot' "$tmp/out"; ok "products_of_tiles_for_$shape"
done
# A panel wider than a stack should be, weights that are no codes, a processor without tiles.
for shape in W=q4_k,d=33024 W=f16,d=512; do
    ir x86-64-v4-amx $shape; [ "$status_of" = 0 ] && ! grep -q tiledot "$tmp/out"; ok "none_for_$shape"
done
ir x86-64-v4-vnni W=q4_k,d=512; [ "$status_of" = 0 ] && ! grep -q tiledot "$tmp/out"; ok "none_without_amx"

if ! grep -q avx512_vnni /proc/cpuinfo; then
    skip "emulated" "the emulator runs on processors with AVX512-VNNI"
    finish
fi
on_amx doctor; grep -q 'x86-64-v4-amx, native' "$tmp/out"; ok "the_emulator_is_found"
if grep -q amx_int8 /proc/cpuinfo; then
    skip "refused" "this processor has AMX"
else
    kg verify linear --target x86-64-v4-amx
    says 1 "this processor cannot run the code of target x86-64-v4-amx"; ok "without_it_the_target_does_not_run_here"
fi

model=build/models/smollm2-135m-instruct-q4_1.gguf
if [ -f $model ]; then
    prompt="A tile holds sixteen tokens, so this prompt has to be a little longer than that."
    kg run -m $model --temp 0 -n 6 -p "$prompt" && cp "$tmp/out" "$tmp/plain"
    on_amx run -m $model --temp 0 -n 6 -p "$prompt"
    [ "$status_of" = 0 ] && [ -s "$tmp/plain" ] && cmp -s "$tmp/plain" "$tmp/out"; ok "a_model_answers_the_same"
    grep -q amx_int8 /proc/cpuinfo || grep -qE 'amx emulator: [0-9]{5,} tdpbsud' "$tmp/err"; ok "its_prompt_went_through_tiles"
else
    skip "model" "there is no $model"
fi
finish
