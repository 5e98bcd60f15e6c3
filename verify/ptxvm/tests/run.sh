#!/bin/sh
# run.sh: runs every test of the PTX machine and counts. B is the build directory; called by `make ptxvm-test`.
#
# A test is a program beside the library (build/ptxvm/tests/NAME, from tests/NAME.c), or a script tests/*.sh or tests/*.py.
# Each prints one line per test, "ok NAME", "FAIL NAME: why" or "skip NAME: why" (cmocka's TAP lines are made into these); one
# that prints none, or dies, has failed. ONLY="name name" runs those alone.
set -u
B=${B:-build}
here=verify/ptxvm/tests
lib=$PWD/$B/ptxvm
passed=0 failed=0 skipped=0
out=$(mktemp)
trap 'rm -f "$out" "$out.err" "$out.raw"' EXIT

run() { # NAME COMMAND...
    name=$1
    shift
    case " ${ONLY:-$name} " in *" $name "*) ;; *) return ;; esac
    LD_LIBRARY_PATH=$lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH} CMOCKA_MESSAGE_OUTPUT=TAP \
        timeout 600 "$@" > "$out.raw" 2> "$out.err"
    rc=$?
    sed -E -e 's/^ok [0-9]+ - (.*) # SKIP.*/skip \1: by the test itself/' -e 's/^ok [0-9]+ - /ok /' \
        -e 's/^not ok [0-9]+ - /FAIL /' "$out.raw" > "$out"
    grep -E '^(ok|FAIL|skip) ' "$out"
    ok=$(grep -c '^ok ' "$out") bad=$(grep -c '^FAIL ' "$out") skip=$(grep -c '^skip ' "$out")
    if [ $((ok + bad + skip)) -eq 0 ] || { [ $rc -ne 0 ] && [ "$bad" -eq 0 ]; }; then
        echo "FAIL $name: exit status $rc"
        bad=$((bad + 1))
    fi
    [ "$bad" -eq 0 ] || { grep '^#' "$out.raw"; cat "$out.err"; } | sed "s/^/    $name: /" | tail -n 20
    passed=$((passed + ok)) failed=$((failed + bad)) skipped=$((skipped + skip))
}

for program in "$B"/ptxvm/tests/*; do
    [ -f "$program" ] && [ -x "$program" ] || continue
    name=$(basename "$program")
    case $name in
    fuzz_*) run "$name" "$program" 2 ;; # a short one; make ptxvm-fuzz runs longer
    *) [ -f "$here/$name.c" ] && run "$name" "$program" ;;
    esac
done
for script in "$here"/*.sh "$here"/*.py; do
    [ -f "$script" ] || continue
    name=$(basename "$script")
    case $name in
    run.sh) ;;
    *.sh) run "${name%.sh}" sh "$script" ;;
    *.py) run "${name%.py}" python3 "$script" ;;
    esac
done
echo "ptxvm: $passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ]
