#!/usr/bin/env bash
# The GPU as a person meets it, on the PTX machine (docs/ptxvm.md): absent devices, memory that is not there, what a token
# costs, damaged kernels under --check, and every driver call made to fail.
set -u
cd "$(dirname "$0")/.." || exit 1
kgen=${KGEN:-build/kgen}
machine=$PWD/build/ptxvm
model=verify/data/families/llama-f32.gguf
smol=build/models/smollm2-135m-instruct-q4_1.gguf
if [ ! -e "$machine/libcuda.so.1" ]; then
    echo 'gpu: skipped, there is no PTX machine: make ptxvm (needs cuda.h)'
    exit 0
fi
. verify/tap.sh
export XDG_STATE_HOME=$tmp/state KGEN_THREADS=1

# kg ARGS…: without a driver. on ARGS…: on the PTX machine. through ARGS…: with the shim before it.
kg() { call env -u LD_LIBRARY_PATH "$kgen" "$@"; }
on() { LD_LIBRARY_PATH=$machine call "$kgen" "$@"; }
through() {
    KGEN_PTXVM=leaks KGEN_SHIM_DRIVER=$machine/libcuda.so.1 LD_LIBRARY_PATH=$tmp/${shim:-shim} \
        call timeout 60 "$kgen" "$@"
}
# new_shim DIR FLAGS…: -DNAME=other leaves the function NAME out.
new_shim() { mkdir "$tmp/$1" && gcc -O1 -shared -fPIC -o "$tmp/$1/libcuda.so.1" "${@:2}" verify/gpu/shim.c -ldl; }
new_shim shim
# With f32 activations two devices write the same text.
run=(run -m $model --raw --act f32 -p abc -n 6)

# ---- no GPU ----
kg "${run[@]}"; [ $status_of = 0 ] && [ -s "$tmp/out" ]; ok "cpu_runs"
cp "$tmp/out" "$tmp/cpu"
kg "${run[@]}" --device cuda; says 1 'there is no CUDA driver'; ok "device_cuda_without_a_driver_is_an_error"
kg "${run[@]}" --gpu
[ $status_of = 0 ] && cmp -s "$tmp/out" "$tmp/cpu" && grep -qF 'computing on the CPU' "$tmp/err"; ok "gpu_without_a_driver_runs_on_the_cpu"
CUDA_VISIBLE_DEVICES='' on "${run[@]}" --device cuda; says 1 'CUDA_ERROR_NO_DEVICE'; ok "device_cuda_without_a_device_is_an_error"
CUDA_VISIBLE_DEVICES='' on "${run[@]}" --gpu
[ $status_of = 0 ] && cmp -s "$tmp/out" "$tmp/cpu" && grep -qF 'computing on the CPU' "$tmp/err"; ok "gpu_without_a_device_runs_on_the_cpu"
on "${run[@]}" --device cuda:3; says 1 'there is no CUDA device 3'; ok "device_that_is_not_there"
KGEN_PTXVM_ARCH=70 on "${run[@]}" --device cuda; says 1 'sm_75'; ok "device_that_is_too_old"
kg run -m nothing.gguf --gpu -p abc; says 1 'nothing.gguf'; ok "gpu_and_no_file_is_one_error"
on "${run[@]}" --device cuda; [ $status_of = 0 ] && cmp -s "$tmp/out" "$tmp/cpu"; ok "cuda_writes_the_cpus_text"
on "${run[@]}" --gpu
[ $status_of = 0 ] && cmp -s "$tmp/out" "$tmp/cpu" && grep -qF 'Backend: CUDA (PTX machine' "$tmp/err"; ok "gpu_says_what_it_uses"
for flags in '--temp 0.9 --seed 3' '--temp 1.2 --seed 4 --top-k 7 --top-p 1 --min-p 0' '--temp 1 --seed 5 --top-k 0' \
    '--temp 0.8 --seed 6 --repeat-penalty 1.3' '--repeat-penalty 1.5 --frequency-penalty 0.3' \
    '--temp 0.9 --seed 7 --repeat-penalty 0.8' '--temp 0.9 --seed 8 --presence-penalty 0.5 --penalty-window 0'; do
    # shellcheck disable=SC2086
    kg "${run[@]}" $flags; cp "$tmp/out" "$tmp/sampled"; on "${run[@]}" $flags --device cuda
    [ $status_of = 0 ] && cmp -s "$tmp/out" "$tmp/sampled"; ok "sampled_as_on_the_cpu: $flags"
done

# ---- a prompt in chunks ----
yes 'ab' | head -n 200 >"$tmp/long"
kg perplexity -m $model --act f32 -p "$(cat "$tmp/long")" --json; cp "$tmp/out" "$tmp/whole"
on perplexity -m $model --act f32 -p "$(cat "$tmp/long")" --json --device cuda
[ $status_of = 0 ] && python3 - "$tmp/whole" "$tmp/out" <<'P'
import json, sys
a, b = (json.load(open(f)) for f in sys.argv[1:])
assert a["ids"] == b["ids"] and len(a["ids"]) > 512
assert max(abs(x - y) for x, y in zip(a["next_token_nll"], b["next_token_nll"])) < 1e-3
P
ok "a_prompt_of_several_chunks"

# ---- memory ----
KGEN_PTXVM_MEMORY=5100K on "${run[@]}" --device cuda
says 1 'MiB are needed with a context of 640' && grep -qE 'weights [0-9.]+, KV cache [0-9.]+, buffers [0-9.]+, code [0-9.]+' "$tmp/err"
ok "memory_is_foreseen"
fits=$(sed -nE 's/.*try -c ([0-9]+), which fits.*/\1/p' "$tmp/err")
[ -n "$fits" ]; ok "a_context_that_fits_is_named"
KGEN_PTXVM_MEMORY=5100K on "${run[@]}" --device cuda -c "${fits:-1}"
[ $status_of = 0 ] && cmp -s "$tmp/out" "$tmp/cpu"; ok "and_it_fits"
KGEN_PTXVM_MEMORY=5100K on "${run[@]}" --device cuda -c $((${fits:-1} + 1)); says 1 "try -c $fits, which fits"; ok "and_a_larger_one_does_not"
KGEN_PTXVM_MEMORY=2M on "${run[@]}" --device cuda; says 1 'the model itself does not fit'; ok "a_model_that_does_not_fit"
KGEN_PTXVM_MEMORY=2M on "${run[@]}" --gpu
[ $status_of = 0 ] && cmp -s "$tmp/out" "$tmp/cpu" && grep -qF 'computing on the CPU' "$tmp/err"; ok "gpu_with_too_little_memory_runs_on_the_cpu"

# ---- what a token costs: the differences between two lengths ----
# host FILE NAME: that counter of a report.
host() { python3 -c 'import json,sys; print(json.load(open(sys.argv[1]))["host"][sys.argv[2]][sys.argv[3]])' "$1" "$2" "${3:-count}"; }
costs() { # costs NAME FLAGS…: of 8 tokens more
    local name=$1; shift
    KGEN_PTXVM_REPORT=$tmp/few.json on run -m $model --raw -p abc --device cuda -n 4 "$@"
    KGEN_PTXVM_REPORT=$tmp/many.json on run -m $model --raw -p abc --device cuda -n 12 "$@"
    for what in synchronizations graph_launches copies_to_device copies_to_host allocations copies_on_device fills host_functions; do
        local want=8
        case $what in allocations | copies_on_device | fills | host_functions) want=0 ;; esac
        [ $(($(host "$tmp/many.json" $what) - $(host "$tmp/few.json" $what))) = $want ]; ok "${name}_${what}_per_token"
    done
    local out=$(($(host "$tmp/many.json" copies_to_host bytes) - $(host "$tmp/few.json" copies_to_host bytes)))
    [ $out = $((8 * bytes)) ]; ok "${name}_copies_out_what_was_chosen"
}
bytes=8 costs greedy
bytes=8 costs sampled --temp 1 --seed 1
top() { echo $((($1 * 4 + 63) / 64 * 128)); } # bytes of the $1 largest logits and their ids
bytes=$(top 50) costs penalized --temp 1 --seed 1 --repeat-penalty 1.2 --presence-penalty 0.1 --penalty-window 10
bytes=$(top 11) costs penalized_greedy --frequency-penalty 0.2 --penalty-window 10
python3 - "$tmp/few.json" "$tmp/many.json" <<'P'
import json, sys
few, many = ({k["name"]: k["launches"] for k in json.load(open(f))["kernels"]} for f in sys.argv[1:])
print("# launches a token:", (sum(many.values()) - sum(few.values())) / 8)
P

# ---- how kernels use memory: at least 95 % of each sector (32 bytes) that a warp asks for, no bank conflicts ----
uses_memory_well() { # uses_memory_well REPORT
    python3 - "$1" >"$tmp/out" 2>"$tmp/err" <<'P'
import json, sys
bad = 0
for k in json.load(open(sys.argv[1]))["kernels"]:
    for way in ("loads", "stores"):
        m = k["memory"]["global"][way]
        # Keys are stored across the lanes in which attention reads them: a token's lie a sector each.
        if way == "stores" and "kv_append" in k["name"]: continue
        # A lane has 16 neighbours of an output of attention over a prompt, four of which one store takes: half a sector.
        least = 0.5 if way == "stores" and k["name"].startswith("attention") else 0.95
        if m["ideal_sectors"] < least * m["sectors"]:
            bad += 1
            print(k["name"], way, "take", m["sectors"], "sectors where", m["ideal_sectors"], "would do")
    if k["bank_conflicts"]:
        bad += 1
        print(k["name"], "has", k["bank_conflicts"], "bank conflicts")
sys.exit(bad > 0)
P
}
uses_memory_well "$tmp/many.json"; ok "memory_use_of_a_small_model"
if [ -e $smol ]; then
    KGEN_PTXVM=fast KGEN_PTXVM_REPORT=$tmp/smol.json on run --device cuda -m $smol --raw -c 256 -p The -n 2 --temp 1 --seed 1
    uses_memory_well "$tmp/smol.json"; ok "memory_use_of_smollm2"
else skip memory_use_of_smollm2 "there is no $smol; make setup fetches it"; fi

# ---- one token more, the likeliest: its launches; all of them together touch the weights and the keys and values of few
# tokens, and no more than 5 % beside ----
gemma=build/models/gemma-3-270m-q4_k_m.gguf
a_token() { # a_token MIB LAUNCHES: of weights, rounded to one digit; at most so many launches
    python3 - "$tmp/1.json" "$tmp/2.json" "$1" "$2" >"$tmp/out" 2>"$tmp/err" <<'P'
import json, sys
one, two = (json.load(open(f))["kernels"] for f in sys.argv[1:3])
def more(get): return sum(map(get, two)) - sum(map(get, one))
launches, touched = more(lambda k: k["launches"]), 32 * more(lambda k: k["unique_sectors"]["either"])
weights = (float(sys.argv[3]) - 0.05) * 2**20
print("launches", launches, "of", sys.argv[4], "bytes", touched, "weights", weights)
sys.exit(not (0 < launches <= int(sys.argv[4]) and weights < touched <= 1.05 * weights))
P
}
two_lengths() {
    for tokens in 1 2; do
        KGEN_PTXVM=fast KGEN_PTXVM_REPORT=$tmp/$tokens.json on run --device cuda -m "$1" --raw -c 256 -p The -n $tokens
    done
}
# The weights as the file has them; those of gemma3 as they lie on the device, since their formats get larger there.
if [ -e $smol ]; then
    two_lengths $smol
    a_token "$("$kgen" inspect $smol | sed -n 's/^ *weights *\([0-9.]*\) MiB in .*/\1/p')" $((5 * 30 + 4)); ok "a_token_of_smollm2"
else skip a_token_of_smollm2 "there is no $smol; make setup fetches it"; fi
if [ -e $gemma ]; then
    two_lengths $gemma
    a_token "$(sed -n 's/^load .* \([0-9.]*\) MiB of weights.*/\1/p' "$tmp/err")" $((7 * 18 + 3)); ok "a_token_of_gemma3"
else skip a_token_of_gemma3 "there is no $gemma; make setup fetches it"; fi

# ---- --check ----
on "${run[@]}" --device cuda --check; [ $status_of = 0 ] && cmp -s "$tmp/out" "$tmp/cpu"; ok "check_is_silent_where_nothing_is_wrong"
# With 8-bit activations a prompt is computed in halves, a lone token in 8 bits.
on run -m $model --raw -p abcabcacb -n 3 --device cuda --check; [ $status_of = 0 ] && [ -s "$tmp/out" ]; ok "check_of_a_prompt_in_halves"
kg run -m $model --raw -p abc -n 3 --check; [ $status_of = 0 ]; ok "check_on_the_cpu"
# What adds is made to multiply, or the other way, in each of its launches: the first of them is named, with an element and
# both values. (The shim aborts where a function has no such instruction.)
KGEN_PTXVM_REPORT=$tmp/f32.json on "${run[@]}" --device cuda
kernels=$(python3 -c 'import json,sys; print(*(k["name"] for k in json.load(open(sys.argv[1]))["kernels"]))' "$tmp/f32.json")
for kernel in $kernels; do
    case $kernel in argmax* | embed*) continue ;; esac
    for change in add.rn.f32:mul.rn.f32 mul.rn.f32:add.rn.f32; do
        KGEN_SHIM_DAMAGE="$kernel:$change" through "${run[@]}" --device cuda --check 2>/dev/null
        [ $status_of = 134 ] || break
    done 2>/dev/null
    [ $status_of = 134 ] && continue
    name=$(sed -E 's/\$_[0-9]+$//; s/_/./g' <<<"$kernel")
    [ $status_of = 1 ] && grep -qE "^kgen run: --check: launch [0-9]+ \\($name\\), output .*\[[0-9]+\]\[[0-9]+\] is [^ ]+; the reference kernel gives [^ ]+, " "$tmp/err"
    ok "check_finds_a_damaged_$kernel"
    damaged=$((${damaged:-0} + 1))
done
[ "${damaged:-0}" -ge 10 ]; ok "damage_was_done"

# ---- dependent launches: the machine finds a kernel that does not wait for the ones before it, and without them, or where
# the device has none, the same text is written ----
for kernel in $kernels; do
    case $kernel in *rmsnorm* | *linear* | argmax*) ;; *) continue ;; esac
    KGEN_SHIM_DAMAGE="$kernel:griddepcontrol.wait;:/*                */" through "${run[@]}" --device cuda
    [ $status_of = 1 ] && grep -qF "ptxvm: missing griddepcontrol.wait: kernel $kernel," "$tmp/err"; ok "a_missing_wait_is_found_in_$kernel"
    hasty=$((${hasty:-0} + 1))
done
[ "${hasty:-0}" -ge 3 ]; ok "waits_were_removed"
KGEN_DEPENDENT_LAUNCH=0 KGEN_SHIM_COUNT=$tmp/count through "${run[@]}" --device cuda
[ $status_of = 0 ] && cmp -s "$tmp/out" "$tmp/cpu" && ! grep -q cuLaunchKernelEx "$tmp/count"; ok "dependent_launches_can_be_turned_off"
KGEN_PTXVM_ARCH=89 KGEN_SHIM_COUNT=$tmp/count through "${run[@]}" --device cuda
[ $status_of = 0 ] && cmp -s "$tmp/out" "$tmp/cpu" && ! grep -q cuLaunchKernelEx "$tmp/count"; ok "older_devices_launch_plainly"
KGEN_SHIM_VERSION=12020 KGEN_SHIM_COUNT=$tmp/count through "${run[@]}" --device cuda
[ $status_of = 0 ] && cmp -s "$tmp/out" "$tmp/cpu" && ! grep -q cuLaunchKernelEx "$tmp/count"; ok "drivers_before_12.3_launch_plainly"
new_shim older -DcuLaunchKernelEx=without -DcuMemPoolCreate=without_too
shim=older KGEN_SHIM_COUNT=$tmp/count through "${run[@]}" --device cuda
[ $status_of = 0 ] && cmp -s "$tmp/out" "$tmp/cpu" && grep -q 'cuLaunchKernel ' "$tmp/count"; ok "older_drivers_launch_plainly"
grep -q 'cuMemAlloc_v2 ' "$tmp/count" && ! grep -q 'cuMemAllocFromPoolAsync' "$tmp/count" && ! grep -q ptxvm: "$tmp/err"; ok "older_drivers_allocate_plainly"

# ---- machine code: a device that is not the PTX machine gets what ptxas makes, kept in the cache. The machine refuses it, as a
# driver does that cannot use it, and gets the PTX. What comes of code that is taken: test_bundle.sh ----
toolkit=$(dirname "$(command -v ptxas || echo "${CUDA_HOME:-/usr/local/cuda}/bin/ptxas")")
loads() { sed -n 's/^cuModuleLoadDataEx //p' "$tmp/count"; }
mkdir "$tmp/toolkit" "$tmp/broken"
printf '#!/bin/sh\necho ptxas >>"%s"\nexec "%s/ptxas" "$@"\n' "$tmp/assembled" "$toolkit" >"$tmp/toolkit/ptxas"
printf '#!/bin/sh\nexit 3\n' >"$tmp/broken/ptxas"
chmod +x "$tmp"/toolkit/* "$tmp"/broken/*
if [ -x "$toolkit/ptxas" ]; then
    export KGEN_SHIM_NAME='Some GPU' KGEN_SHIM_COUNT=$tmp/count
    KGEN_CACHE_DIR=$tmp/images PATH=$tmp/toolkit:$PATH through "${run[@]}" --device cuda
    assembled=$(wc -l <"$tmp/assembled")
    [ $status_of = 0 ] && cmp -s "$tmp/out" "$tmp/cpu" && [ "$assembled" -gt 5 ] && [ "$(loads)" = $((2 * assembled)) ]
    ok "code_is_assembled"
    [ "$(grep -c 'refuses assembled code (CUDA_ERROR_NO_BINARY_FOR_GPU); it compiles' "$tmp/err")" = 1 ]; ok "refused_code_is_compiled_by_the_driver"
    rm "$tmp/assembled"
    KGEN_CACHE_DIR=$tmp/images PATH=$tmp/toolkit:$PATH through "${run[@]}" --device cuda
    [ $status_of = 0 ] && cmp -s "$tmp/out" "$tmp/cpu" && [ "$(loads)" = $((2 * assembled)) ] && [ ! -e "$tmp/assembled" ]; ok "assembled_code_is_cached"
    KGEN_CACHE_DIR=$tmp/none PATH=$tmp/broken:$PATH through "${run[@]}" --device cuda
    [ $status_of = 0 ] && cmp -s "$tmp/out" "$tmp/cpu" && grep -q 'exit status 3; the driver compiles' "$tmp/err"; ok "an_assembler_that_fails"
    unset KGEN_SHIM_NAME KGEN_SHIM_COUNT
else skip machine_code "there is no ptxas"; fi
KGEN_SHIM_COUNT=$tmp/count KGEN_CACHE_DIR=$tmp/plain PATH=$tmp/broken:$PATH through "${run[@]}" --device cuda
[ $status_of = 0 ] && cmp -s "$tmp/out" "$tmp/cpu" && ! grep -q 'driver compiles' "$tmp/err"; ok "the_ptx_machine_gets_ptx"

# ---- every driver call fails once: the first of each function and the last. The message names what was done, the call,
# the error and what to try ----
driver_functions=$(sed -n 's/.*X([a-z_]*, "\(cu[A-Za-z0-9_]*\)".*/\1/p' runtime/dev_cuda.c | sort)
: >"$tmp/failed"
# fails NAME AT CODE COMMAND…: one call of a run fails. says_so NAME: as an error, that names it.
fails() { echo "$1" >>"$tmp/failed"; KGEN_SHIM_FAIL=$1:$2:$3 through "${@:4}"; }
says_so() {
    [ "$status_of" = 1 ] && [ "$(grep -ac "^kgen [a-z]*: .*CUDA, [a-z' ]*: $1 gives CUDA_ERROR[A-Z_]* ([^)]*)[;:] .* .*" "$tmp/err")" = 1 ] &&
        ! grep -q 'ptxvm:' "$tmp/err"
}
# fail_all NAME COMMAND…: every function that is called by the command, whose output is in $tmp/right. Functions that give
# something back are asked nothing more: their failure changes nothing.
fail_all() {
    local kind=$1 name calls at code; shift
    while read -r name calls <&3; do
        case $name in
        cuMemAlloc*) code=2 ;; cuModuleLoadDataEx) code=218 ;; cuModuleGetFunction) code=500 ;; cuLaunchKernel*) code=701 ;;
        cuStreamSynchronize) code=719 ;; cuStreamEndCapture) code=901 ;; *) code=999 ;;
        esac
        for at in 1 "$calls"; do
            [ "$at" = 1 ] || [ "$calls" -gt 1 ] || continue
            fails "$name" "$at" $code "$@"
            case $name in
            *Free* | *Destroy* | *Unload | *Release*) [ $status_of = 0 ] && as_right ;;
            cuCtxSetCurrent) [ $status_of = 0 ] || says_so "$name" ;; # the last is one before something is given back
            cuMemAllocFromPoolAsync) [ $status_of = 0 ] && as_right ;; # the pool is trimmed, and asked again
            cuMemAlloc_v2) [ $status_of = 1 ] && grep -q 'MiB do not fit: .* are free; try a smaller context' "$tmp/err" ;;
            *) says_so "$name" ;;
            esac
            ok "failing_${name}_${at}$kind"
        done
    done 3<"$tmp/counted"
}
as_right() { cmp -s "$tmp/out" "$tmp/cpu"; }
KGEN_SHIM_COUNT=$tmp/counted through "${run[@]}" --device cuda
[ $status_of = 0 ] && as_right && ! grep -q ptxvm: "$tmp/err"; ok "nothing_leaks"
fail_all '' "${run[@]}" --device cuda
while read -r name calls <&3; do
    KGEN_SHIM_FAIL=$name:1:999 through "${run[@]}" --gpu
    if [ $status_of = 0 ]; then as_right; else says_so "$name"; fi
    ok "failing_${name}_with_gpu"
done 3<"$tmp/counted"

# Drivers without pools and dependent launches: the functions that they have instead.
shim=older KGEN_SHIM_COUNT=$tmp/all through "${run[@]}" --device cuda
grep -E '^cu(MemAlloc_v2|MemFree_v2|LaunchKernel) ' "$tmp/all" >"$tmp/counted"; [ "$(wc -l <"$tmp/counted")" = 3 ]; ok "older_drivers_are_asked_otherwise"
shim=older; fail_all _of_older_drivers "${run[@]}" --device cuda; shim=shim

# Time, which benchmarks ask for, as often as it takes.
bench=(bench --kernel rmsnorm --shape tok=1,d=64 -r 1 --device cuda)
KGEN_SHIM_COUNT=$tmp/all through "${bench[@]}"
sed -n 's/^\(cuEvent[^ ]*\) .*/\1 1/p' "$tmp/all" >"$tmp/counted"; [ $status_of = 0 ] && [ "$(wc -l <"$tmp/counted")" = 5 ]; ok "benchmarks_ask_for_time"
as_right() { grep -q '^rmsnorm' "$tmp/out"; }
fail_all _of_a_benchmark "${bench[@]}"
as_right() { cmp -s "$tmp/out" "$tmp/cpu"; }

# Two calls in turn: trimming the pool is a try; no memory stays an error; and one whose name the driver does not know is one.
fails cuMemPoolTrimTo 1 999,cuMemAllocFromPoolAsync:1:2 "${run[@]}" --device cuda; [ $status_of = 0 ] && as_right; ok "failing_cuMemPoolTrimTo"
fails cuMemAllocFromPoolAsync 1 2,cuMemAllocFromPoolAsync:2:2 "${run[@]}" --device cuda
[ $status_of = 1 ] && grep -q 'MiB do not fit: .* are free; try a smaller context' "$tmp/err" && ! grep -q ptxvm: "$tmp/err"; ok "no_memory_twice"
fails cuMemAllocFromPoolAsync 1 999 "${run[@]}" --device cuda; says_so cuMemAllocFromPoolAsync; ok "failing_allocation_of_another_kind"
fails cuGetErrorName 1 1,cuInit:1:999 "${run[@]}" --device cuda; says 1 'cuInit gives an unknown error ('; ok "failing_cuGetErrorName"
fails cuGetErrorString 1 1,cuInit:1:999 "${run[@]}" --device cuda; says 1 'cuInit gives CUDA_ERROR_UNKNOWN (no description)'; ok "failing_cuGetErrorString"
sort -u "$tmp/failed" >"$tmp/out"; diff "$tmp/out" - <<<"$driver_functions" >"$tmp/err"; ok "every_function_of_the_driver_failed"

finish
