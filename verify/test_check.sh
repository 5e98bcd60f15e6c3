#!/usr/bin/env bash
# --check as a person meets it, on the processor and on the PTX machine: silent over real models there; where a body or a lowering
# was edited wrongly (KGEN_LUA), the first launch that differs is named, with the element and both values.
set -u
cd "$(dirname "$0")/.." || exit 1
kgen=${KGEN:-build/kgen}
machine=$PWD/build/ptxvm
small=verify/data/families/llama-f32.gguf
. verify/tap.sh
export XDG_STATE_HOME=$tmp/state KGEN_PTXVM=fast KGEN_THREADS=1
[ -e "$machine/libcuda.so.1" ] && gpu=there || gpu=
devices=(cpu ${gpu:+cuda})
run() { LD_LIBRARY_PATH=$machine call "$kgen" run --raw --check "$@"; }
# differs KERNEL: the run ended with one message, of this kernel.
differs() {
    [ "$status_of" = 1 ] &&
        [ "$(grep -acE "^kgen run: --check: launch [0-9]+ \($1\), output [^ ]+\[[0-9]+\]\[[0-9]+\] is [-0-9.e]+; the reference kernel gives [-0-9.e]+, more than 0\.[0-9]+ of the row's largest value apart$" "$tmp/err")" = 1 ]
}

for model in smollm2-135m-instruct-q4_1 gemma-3-270m-q4_k_m; do
    if [ $gpu ] && [ -e build/models/$model.gguf ]; then
        run -m build/models/$model.gguf -p "The sky" -c 256 -n 2 --device cuda
        [ $status_of = 0 ] && [ -s "$tmp/out" ] && ! grep -q -e --check "$tmp/err"; ok "silent_over_$model"
    else skip "silent_over_$model" "there is no build/models/$model.gguf or no $machine/libcuda.so.1"; fi
done

# A monoid whose way for many elements is not that of its merge: the reference folds element by element.
mkdir -p "$tmp/body" "$tmp/lowering/dsl"
sed 's/return { m = m, l = sum(/return { m = m, l = 1.1 * sum(/' kernels.lua >"$tmp/body/kernels.lua"
! cmp -s kernels.lua "$tmp/body/kernels.lua"; ok "a_body_is_edited"
for device in "${devices[@]}"; do
    for act in q8 f32; do
        KGEN_LUA=$tmp/body run -m $small -p abcabcacb -n 3 --act $act --device "$device"; differs attention
        ok "a_wrong_monoid_is_named_on_${device}_with_$act"
    done
done
# Products of tiles that read the wrong activations: of a prompt on a matrix unit alone.
sed 's/2 \* four + pair/four + pair/' dsl/tile.lua >"$tmp/lowering/dsl/tile.lua"
! cmp -s dsl/tile.lua "$tmp/lowering/dsl/tile.lua"; ok "a_lowering_is_edited"
KGEN_LUA=$tmp/lowering run -m $small -p abcabcacb -n 3 --device cpu; [ $status_of = 0 ]; ok "a_lowering_for_gpus_is_none_of_the_processor"
if [ $gpu ]; then
    KGEN_LUA=$tmp/lowering run -m $small -p abcabcacb -n 3 --device cuda; differs 'rmsnorm\+linearx3'; ok "a_wrong_lowering_is_named"
else skip a_wrong_lowering_is_named "there is no $machine/libcuda.so.1"; fi
finish
