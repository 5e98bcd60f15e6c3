#!/usr/bin/env bash
# Runs every test given, all of them whatever fails, and ends with one line: `N passed, N failed, N skipped`.
#   verify/run_tests.sh [--build DIR] [--only "NAME…"] TEST…
# A TEST is a cmocka binary, a .lua or .sh file, or make:TARGET; each writes TAP to standard output. `# skip: REASON`
# before a skipped line says why. Counted as one failure each: a crash, a time-out, a plan not fulfilled, no test at all.
# Exit status 1 when anything failed. Logs stay in DIR/test-logs.
set -u
build=build only=
while [ $# -gt 0 ]; do
    case $1 in
    --build) build=$2; shift 2 ;;
    --only) only=$2; shift 2 ;;
    *) break ;;
    esac
done
limit=${TEST_TIMEOUT:-900}
logs=$build/test-logs
mkdir -p "$logs"
export CMOCKA_MESSAGE_OUTPUT=TAP KGEN="${KGEN:-$build/kgen}"
# A test must not depend on what its caller has set, nor write into its caller's cache. The cache is kept between runs
# of the tests: entries are addressed by content, so an old one is either right or unused.
unset MAKEFLAGS MFLAGS MAKELEVEL KGEN_THREADS KGEN_DEVICE KGEN_DUMP
export KGEN_CACHE_DIR=${KGEN_TEST_CACHE_DIR:-$PWD/$build/test-cache} XDG_CONFIG_HOME=$PWD/$build/test-config

# Reads one test's output; prints "passed failed skipped", then a line for each failure and skip.
# A log without TAP lines may carry the counts of a nested run instead, or "NAME: skipped, REASON" for all of it.
count() {
    awk -v status="$1" -v limit="$2" '
        /^1\.\.[0-9]+/ { planned += substr($1, 4); next }
        /^[0-9]+ passed, [0-9]+ failed, [0-9]+ skipped/ { nested = 1; np += $1; nf += $3; ns += $5; next }
        /^[a-z-]+: skipped, / { whole = $0; sub(/^[a-z-]+: skipped, /, "", whole); next }
        /^# skip: / { reason = substr($0, 9); next }
        /^(not )?ok([ \t]|$)/ {
            ran++
            if (toupper($0) ~ /# SKIP/) {
                name = $0; sub(/.*# [Ss][Kk][Ii][Pp][ \t]*/, "", name)
                note[++n] = "skipped: " name (reason == "" ? "" : ": " reason); skipped++
            } else if ($1 == "ok") passed++
            else { failed++; note[++n] = "FAILED: " $0 }
            reason = ""
        }
        END {
            if (nested && !ran) { passed = np; failed = nf; skipped = ns }
            if (status == 124 || status == 137) { failed++; note[++n] = "FAILED: over " limit " s, or out of memory" }
            else if (status > 128) { failed++; note[++n] = "FAILED: ended by signal " status - 128 }
            else if (ran < planned) { failed++; note[++n] = "FAILED: " planned " tests planned, " ran + 0 " ran" }
            else if (status != 0 && !failed) { failed++; note[++n] = "FAILED: exit status " status }
            else if (!ran && whole != "") { skipped++; note[++n] = "skipped: all of it: " whole }
            else if (!ran && !nested) { failed++; note[++n] = "FAILED: no test ran" }
            print passed + 0, failed + 0, skipped + 0
            for (i = 1; i <= n; i++) print note[i]
        }'
}

wanted() {
    [ -z "$only" ] && return 0
    for word in $only; do [ "$1" = "$word" ] || [ "$1" = "test_$word" ] && return 0; done
    return 1
}

passed=0 failed=0 skipped=0 all_skips=
for test in "$@"; do
    name=${test##*/} name=${name#make:}
    wanted "${name%.*}" || continue
    case $test in
    make:*) command=(make -s "${test#make:}") ;;
    *.lua) command=(lua5.4 "$test") ;;
    *.sh) command=(bash "$test") ;;
    */*) command=("$test") ;;
    *) command=("./$test") ;;
    esac
    log=$logs/$name.log
    started=$(date +%s.%N)
    if [[ ${command[0]} == */* && ! -x $test ]]; then
        echo "not ok 1 - $name did not build" >"$log"
        status=1
    else
        timeout -k 10 "$limit" "${command[@]}" >"$log" 2>&1 </dev/null
        status=$?
    fi
    { read -r p f s; notes=$(cat); } < <(count $status "$limit" <"$log")
    passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
    printf '%-28s %5d passed %3d failed %3d skipped %8.1f s\n' "$name" "$p" "$f" "$s" \
        "$(awk -v a="$started" -v b="$(date +%s.%N)" 'BEGIN { print b - a }')"
    if [ "$f" -gt 0 ]; then
        grep '^FAILED' <<<"$notes" | head -n 40 | sed 's/^/    /'
        echo "    the end of $log:"
        tail -n 25 "$log" | cut -c 1-300 | sed 's/^/    | /'
    fi
    skips=$(grep '^skipped' <<<"$notes" | sed "s/^skipped: /  $name: /")
    [ -z "$skips" ] || all_skips+=$skips$'\n'
done

[ -z "$all_skips" ] || printf 'skipped, and why:\n%s' "$all_skips"
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" = 0 ] && [ "$passed" -gt 0 ]
