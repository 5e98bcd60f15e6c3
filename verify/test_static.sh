#!/usr/bin/env bash
# kgen-static, which carries LLVM, Lua and every other library: where there is nothing but libc, it compiles and runs.
set -u
cd "$(dirname "$0")/.." || exit 1
kgen=${KGEN:-build/kgen}
static=${KGEN_STATIC:-$(dirname "$kgen")/kgen-static}
ptxvm=$PWD/build/ptxvm
smol=build/models/smollm2-135m-instruct-q4_1.gguf
if [ ! -x "$kgen" ] || [ ! -x "$static" ]; then
    printf '1..1\nnot ok 1 - there is no %s or no %s\n' "$kgen" "$static"
    exit 1
fi
. verify/tap.sh
unset CUDA_VISIBLE_DEVICES
# With nothing from this machine's environment, and a cache that is empty at first.
bare() { call env -i KGEN_CACHE_DIR="$tmp/cache" KGEN_THREADS=1 "$@"; }

: >"$tmp/err"
for lib in $(ldd "$static" | awk '/=>/ { print $1 }'); do
    case $lib in libc.so.6 | libm.so.6 | libdl.so.2 | libpthread.so.0 | linux-vdso.so.1) ;; *) echo "$lib" ;; esac
done >"$tmp/out"
[ ! -s "$tmp/out" ]; ok "needs_no_library_but_libc"
bytes=$(stat -c %s "$static")
[ "$bytes" -lt 62914560 ]; ok "can_be_carried_about_($((bytes >> 20))_MiB)"
bare "$static" --version; [ "$(cat "$tmp/out")" = "$("$kgen" --version)" ]; ok "version"

# ---- the same code as kgen's, which has LLVM's library ----
for target in x86-64 x86-64-v4-vnni sm_90; do
    for kernel in linear attention; do
        call "$kgen" emit $kernel --stage asm --target $target; cp "$tmp/out" "$tmp/expected"
        bare "$static" emit $kernel --stage asm --target $target
        [ "$(wc -l <"$tmp/out")" -gt 50 ] && cmp -s "$tmp/out" "$tmp/expected"; ok "emits_the_same_${kernel}_for_$target"
    done
done
env -i KGEN_CACHE_DIR="$tmp/cache" LD_DEBUG=files "$static" emit linear --stage obj -o "$tmp/linear.o" >"$tmp/out" 2>"$tmp/err" </dev/null
[ -s "$tmp/linear.o" ] && grep -q 'libc.so.6' "$tmp/err" && ! grep -qE 'libLLVM|liblua|libstdc' "$tmp/err"; ok "loads_no_library_to_compile"

# ---- nothing installed: a directory with the program, a model and libc is all of the machine ----
if [ -f $smol ]; then
    say=(run -p "Why is the sky blue?" -n 12 --temp 0 -t 1)
    call "$kgen" "${say[@]}" -m $smol; cp "$tmp/out" "$tmp/text"
    root=$tmp/root
    mkdir -p "$root"
    cp "$static" "$root/kgen"
    cp $smol "$root/model.gguf"
    ldd "$static" | grep -o '/[^ ]*' | while read -r lib; do mkdir -p "$root$(dirname "$lib")" && cp "$lib" "$root$lib"; done
    enter=()
    for way in "$(type -P unshare) -r $(type -P chroot)" "$(type -P chroot)"; do
        # shellcheck disable=SC2086 # a list of words
        [ ${#enter[@]} = 0 ] && $way "$root" /kgen --version >/dev/null 2>&1 && enter=($way)
    done
    if [ ${#enter[@]} != 0 ]; then
        call env -i "${enter[@]}" "$root" /kgen "${say[@]}" -m /model.gguf
        [ "$(wc -w <"$tmp/out")" -gt 5 ] && cmp -s "$tmp/out" "$tmp/text" && grep -qE '[1-9][0-9]* kernels compiled' "$tmp/err"
        ok "compiles_and_says_the_same_in_an_empty_root"
    else
        skip "an empty root" "neither unshare nor chroot is allowed here"
    fi
    bare "$static" "${say[@]}" -m $smol; cmp -s "$tmp/out" "$tmp/text"; ok "says_the_same_where_everything_is"
    if [ -f "$ptxvm/libcuda.so.1" ]; then
        bare LD_LIBRARY_PATH="$ptxvm" KGEN_PTXVM=fast "$static" run -p "The capital of France is" -n 2 --temp 0 --raw -m $smol --device cuda
        grep -q Paris "$tmp/out"; ok "finds_the_driver_and_computes_on_the_ptx_machine"
    else
        skip "the PTX machine" "there is no $ptxvm/libcuda.so.1"
    fi
else
    skip "SmolLM2" "no $smol"
fi
finish
