#!/usr/bin/env bash
# Bundles as programs meet them: made by kgen, run by kgen-rt, which has no LLVM, on the processor and on the PTX machine
# (build/ptxvm), with the text that kgen itself gives.
set -u
cd "$(dirname "$0")/.." || exit 1
kgen=${KGEN:-build/kgen}
rt=${KGEN_RT:-$(dirname "$kgen")/kgen-rt}
ptxvm=build/ptxvm
smol=build/models/smollm2-135m-instruct-q4_1.gguf
small=verify/data/families/llama-mixed.gguf
if [ ! -x "$kgen" ] || [ ! -x "$rt" ]; then
    printf '1..1\nnot ok 1 - there is no %s or no %s\n' "$kgen" "$rt"
    exit 1
fi
. verify/tap.sh
export XDG_STATE_HOME=$tmp/state KGEN_THREADS=1
unset CUDA_VISIBLE_DEVICES
# A machine with nothing: no home, no cache, no settings.
bare() { call env -i "$@"; }

# ---- the programs ----
for lib in $(ldd "$rt" | awk '/=>/ { print $1 }'); do
    case $lib in libc.so.6 | libm.so.6 | libdl.so.2 | libpthread.so.0 | linux-vdso.so.1) ;; *) echo "$lib" ;; esac
done >"$tmp/out"; : >"$tmp/err"
[ ! -s "$tmp/out" ]; ok "rt_needs_no_library_but_libc"
unstripped=$(dirname "$rt")/kgen-rt.symbols
nm "$unstripped" >"$tmp/out" 2>"$tmp/err" && grep -q ' T main$' "$tmp/out" && ! grep -iq 'llvm\|ir_parse\|passes_run' "$tmp/out"
ok "rt_has_nothing_of_llvm"
[ "$(stat -c %s "$rt")" -lt 6000000 ]; ok "rt_is_small_($(stat -c %s "$rt")_bytes)"
call "$rt" --help; [ $status_of = 0 ] && grep -q '  run ' "$tmp/out" && ! grep -q '  emit \|  verify ' "$tmp/out"; ok "rt_has_its_own_commands"
call "$rt" run -m $small -p x; says 1 '--bundle DIR'; ok "rt_says_that_it_runs_bundles"

# ---- making ----
call "$kgen" emit --bundle -m $small --target x86-64 --with-model -o "$tmp/small"
[ $status_of = 0 ] && [ ! -s "$tmp/err" ] && [ -f "$tmp/small/manifest.json" ] && cmp -s $small "$tmp/small/llama-mixed.gguf"
ok "emit_bundle_with_its_model"
call "$kgen" emit --bundle -m $small --target x86-64 -o "$tmp/small"; says 1 'is not empty'; ok "emit_bundle_overwrites_nothing"
call "$kgen" emit --bundle -m $small -o /dev/null/x; says 1 '/dev/null/x'; ok "emit_bundle_where_nothing_can_be"
call "$kgen" emit --bundle -o x; says 2 'missing -m MODEL'; ok "emit_bundle_of_nothing"
call "$kgen" emit --bundle -m $small; says 2 'missing -o DIR'; ok "emit_bundle_to_nowhere"
call "$kgen" emit linear -m $small; says 2 'belong to --bundle'; ok "emit_model_without_bundle"
call "$kgen" emit linear --bundle -m $small -o x; says 2 'alone'; ok "emit_bundle_and_kernel"
call "$kgen" emit --bundle -m /dev/null -o "$tmp/none"; [ $status_of = 1 ] && [ ! -e "$tmp/none" ]; ok "emit_bundle_of_no_model_makes_nothing"
(trap '' XFSZ; ulimit -f 8; call "$kgen" emit --bundle -m $small --target x86-64 -o "$tmp/full"; [ $status_of != 0 ]) &&
    [ ! -e "$tmp/full/manifest.json" ]; ok "an_unfinished_bundle_has_no_manifest"

# ---- using ----
ids='--ids 1,5,9,2,7,11,3 --json'
call "$kgen" emit --bundle -m $small --target native -o "$tmp/native"; [ $status_of = 0 ]; ok "emit_bundle_native"
bare "$rt" bench --bundle "$tmp/small" -p 8 -n 4 -r 2 --json; [ $status_of = 0 ] && [ "$(field pp | tr , '\n' | wc -l)" = 2 ] &&
    [ "$(field kernels_compiled)" = 0 ] && grep -q '"read_bytes_per_s"' "$tmp/out"; ok "rt_bench"
bare "$rt" bench --kernel linear; [ $status_of = 1 ] && grep -q 'bundle' "$tmp/err"; ok "rt_bench_of_a_kernel_needs_kgen"
bare "$rt" inspect "$tmp/small" --json; [ "$(field target)" = '"x86-64"' ] && [ "$(field model)" = '"llama-mixed.gguf"' ] &&
    [ "$(field model_inside)" = true ] && [ "$(field code_bytes)" -gt 1000 ]; ok "rt_inspect_bundle"
bare "$rt" inspect "$tmp/small"; grep -qE '^target +x86-64$' "$tmp/out"; ok "rt_inspect_bundle_as_text"
bare "$rt" inspect $small --json; grep -q '"tensors"' "$tmp/out"; ok "rt_inspect_model"
bare "$rt" inspect "$tmp"; says 1 'no bundle'; ok "inspect_of_another_directory"
bare "$rt" doctor --bundle "$tmp/small" --json; [ "$(field runs_here)" = true ]; ok "rt_doctor_bundle"
call "$kgen" emit --bundle -m $small --target sm_90a -o "$tmp/sm_90a"; [ $status_of = 0 ] && ls "$tmp"/sm_90a/kernels/*.ptx >"$tmp/out" &&
    grep -q '^\.target sm_90a' "$tmp"/sm_90a/kernels/00-*.ptx; ok "emit_bundle_for_a_gpu"
bare "$rt" doctor --bundle "$tmp/sm_90a" --json; [ "$(field runs_here)" = false ] && grep -q 'is for sm_90a' "$tmp/out"
ok "rt_doctor_bundle_for_elsewhere"
bare "$rt" perplexity --bundle "$tmp/sm_90a" -m $small $ids; says 1 'is for sm_90a'; ok "a_gpus_bundle_without_a_gpu"
bare "$rt" perplexity --bundle "$tmp/small" --device cuda $ids; [ $status_of != 0 ] && [ ! -s "$tmp/out" ]; ok "a_processors_bundle_for_cuda"
bare "$rt" perplexity --bundle "$tmp/native" -m verify/data/families/llama-bias.gguf $ids; says 1 'is not the model'; ok "another_model"
bare "$rt" perplexity --bundle "$tmp/native" $ids; says 2 'llama-mixed.gguf with -m'; ok "no_model"

# ---- the PTX machine ----
if [ -f $ptxvm/libcuda.so.1 ]; then
    call "$kgen" emit --bundle -m $small --target sm_80 -o "$tmp/sm_80"
    bare LD_LIBRARY_PATH=$ptxvm "$rt" doctor --bundle "$tmp/sm_80" --json; [ "$(field runs_here)" = true ]; ok "rt_doctor_bundle_for_the_gpu"
    bare LD_LIBRARY_PATH=$ptxvm KGEN_PTXVM_ARCH=75 "$rt" perplexity --bundle "$tmp/sm_80" -m $small $ids
    says 1 'make one with --target sm_75'; ok "a_newer_gpus_bundle"
    bare LD_LIBRARY_PATH=$ptxvm KGEN_PTXVM_ARCH=100 "$rt" perplexity --bundle "$tmp/sm_90a" -m $small $ids
    says 1 'is older or another kind'; ok "a_bundle_of_one_architecture_alone"

    # Machine code beside the PTX, where ptxas was there when the bundle was made. The machine has no use for it; a shim that
    # gives its device another name gets it, and loads the PTX beside the cubin that it is handed.
    if [ -x "$(command -v ptxas || echo "${CUDA_HOME:-/usr/local/cuda}/bin/ptxas")" ]; then
        mkdir "$tmp/shim" "$tmp/broken"
        gcc -O1 -shared -fPIC -o "$tmp/shim/libcuda.so.1" verify/gpu/shim.c -ldl
        printf '#!/bin/sh\nexit 3\n' >"$tmp/broken/ptxas"; chmod +x "$tmp/broken/ptxas"
        # through ARCH NAME VARIABLES…: a run on the machine of that architecture and name; its text, its loads, those of cubins.
        through() {
            bare LD_LIBRARY_PATH="$tmp/shim" KGEN_SHIM_DRIVER=$PWD/$ptxvm/libcuda.so.1 KGEN_PTXVM_ARCH="$1" KGEN_SHIM_NAME="$2" \
                KGEN_SHIM_COUNT="$tmp/count" "${@:3}" "$rt" perplexity --bundle "$tmp/sm_80" -m $small $ids
            loads=$(sed -n 's/^cuModuleLoadDataEx //p' "$tmp/count") cubins=$(sed -n 's/^cubin //p' "$tmp/count")
        }
        kernels=$(ls "$tmp"/sm_80/kernels/*.ptx | wc -l)
        [ "$(head -qc 4 "$tmp"/sm_80/kernels/*.cubin | tr -d '\177')" = "$(printf 'ELF%.0s' $(seq "$kernels"))" ] &&
            [ "$(grep -c '"file": "kernels/.*\.cubin"' "$tmp/sm_80/manifest.json")" = "$kernels" ]; ok "a_bundle_has_machine_code"
        bare "$rt" inspect "$tmp/sm_80" --json; [ "$(field cubins)" = "$kernels" ]; ok "inspect_counts_it"
        through 80 'PTX machine'; [ $status_of = 0 ] && [ "$loads" -gt 5 ] && [ -z "$cubins" ] && [ ! -s "$tmp/err" ]; ok "the_ptx_machine_gets_ptx"
        cp "$tmp/out" "$tmp/of_ptx"; of_ptx=$loads
        for arch in 80 86; do
            through $arch 'Some GPU' KGEN_SHIM_CUBINS="$tmp/sm_80/kernels"
            [ $status_of = 0 ] && cmp -s "$tmp/out" "$tmp/of_ptx" && [ "$loads" = "$of_ptx" ] && [ "$cubins" = "$of_ptx" ] && [ ! -s "$tmp/err" ]
            ok "a_device_of_its_generation_gets_the_machine_code_$arch"
        done
        through 90 'Some GPU' KGEN_SHIM_CUBINS="$tmp/sm_80/kernels"
        [ $status_of = 0 ] && cmp -s "$tmp/out" "$tmp/of_ptx" && [ "$loads" = "$of_ptx" ] && [ -z "$cubins" ] && [ ! -s "$tmp/err" ]
        ok "a_device_of_another_gets_ptx"
        through 80 'Some GPU'
        [ $status_of = 0 ] && cmp -s "$tmp/out" "$tmp/of_ptx" && [ "$loads" = $((2 * of_ptx)) ] &&
            [ "$(grep -c 'refuses assembled code (CUDA_ERROR_NO_BINARY_FOR_GPU); it compiles' "$tmp/err")" = 1 ]
        ok "refused_machine_code_is_no_error"
        cubin=$(cd "$tmp/sm_80" && ls kernels/*.cubin | head -n 1)
        cp "$tmp/sm_80/$cubin" "$tmp/kept"
        printf x | dd of="$tmp/sm_80/$cubin" bs=1 seek=100 conv=notrunc 2>/dev/null
        bare "$rt" inspect "$tmp/sm_80"; says 1 "$cubin: its contents changed"; ok "damaged_machine_code"
        rm "$tmp/sm_80/$cubin"; bare "$rt" inspect "$tmp/sm_80"; says 1 "$cubin: the bundle is incomplete"; ok "missing_machine_code"
        cp "$tmp/kept" "$tmp/sm_80/$cubin"; bare "$rt" inspect "$tmp/sm_80"; [ $status_of = 0 ]; ok "restored_machine_code"
        call env KGEN_CACHE_DIR="$tmp/fresh" PATH="$tmp/broken:$PATH" "$kgen" emit --bundle -m $small --target sm_80 -o "$tmp/without"
        [ $status_of = 0 ] && grep -q 'exit status 3; the driver compiles' "$tmp/err"; ok "emit_bundle_with_a_broken_assembler"
        bare "$rt" inspect "$tmp/without" --json; [ "$(field cubins)" = 0 ] && [ "$(ls "$tmp"/without/kernels/*.ptx | wc -l)" = "$kernels" ]
        ok "and_it_has_the_ptx"
    else
        skip "machine code in a bundle" "there is no ptxas"
    fi
else
    skip "the PTX machine" "there is no $ptxvm/libcuda.so.1"
fi

# ---- a real model ----
if [ -f $smol ]; then
    run=(run -p "Why is the sky blue?" -n 12 --temp 0)
    call "$kgen" "${run[@]}" -m $smol; cp "$tmp/out" "$tmp/text"
    call "$kgen" emit --bundle -m $smol -o "$tmp/smol"; [ $status_of = 0 ]; ok "smollm2_bundle"
    bare "$rt" "${run[@]}" --bundle "$tmp/smol" -m $smol; [ "$(wc -w <"$tmp/out")" -gt 5 ] && cmp -s "$tmp/out" "$tmp/text" &&
        grep -q '0 kernels compiled' "$tmp/err"; ok "smollm2_says_the_same_from_a_bundle"
    call "$kgen" perplexity -m $smol $ids; cp "$tmp/out" "$tmp/compiled"
    bare "$rt" perplexity --bundle "$tmp/smol" -m $smol $ids; [ -s "$tmp/out" ] && cmp -s "$tmp/out" "$tmp/compiled"
    ok "rt_computes_the_same_bits"
    bare "$kgen" perplexity --bundle "$tmp/smol" -m $smol $ids; cmp -s "$tmp/out" "$tmp/compiled"; ok "kgen_computes_the_same_bits_from_it"
    if [ -f $ptxvm/libcuda.so.1 ]; then
        run=(run -p "The capital of France is" -n 3 --temp 0 --raw)
        call env LD_LIBRARY_PATH=$ptxvm KGEN_PTXVM=fast "$kgen" "${run[@]}" -m $smol --device cuda; cp "$tmp/out" "$tmp/text"
        call "$kgen" emit --bundle -m $smol --target sm_90 -o "$tmp/smol90" --with-model
        bare LD_LIBRARY_PATH=$ptxvm KGEN_PTXVM=fast "$rt" "${run[@]}" --bundle "$tmp/smol90"
        grep -q Paris "$tmp/out" && cmp -s "$tmp/out" "$tmp/text"; ok "smollm2_says_the_same_from_a_gpus_bundle"
    else
        skip "SmolLM2 on the PTX machine" "there is no $ptxvm/libcuda.so.1"
    fi
else
    skip "SmolLM2 from a bundle" "no $smol"
fi
finish
