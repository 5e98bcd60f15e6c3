#!/usr/bin/env bash
# Builds every verify/fuzz_NAME.c with clang's libFuzzer and runs each for FUZZ_SECONDS (2 unless told), as TAP.
# Seeds come from verify/data/fuzz_NAME/; what a long run finds is kept in build/fuzz/corpus/NAME, a crash in build/fuzz.
set -u
unset MAKEFLAGS MFLAGS MAKELEVEL
cd "$(dirname "$0")/.." || exit 1
seconds=${FUZZ_SECONDS:-2}
targets=(verify/fuzz_*.c)
[ -e "${targets[0]}" ] || { echo "1..0"; exit 0; }
echo "1..${#targets[@]}"
n=0 bad=0
clang=${CLANG:-clang-22}
if ! command -v "$clang" >/dev/null; then
    for target in "${targets[@]}"; do
        echo "# skip: $clang is not installed (./setup.sh test installs it)"
        echo "ok $((++n)) # SKIP $(basename "$target" .c)"
    done
    exit 0
fi
make --keep-going fuzz-build CLANG="$clang" 2>&1 | sed 's/^/# /'
for target in "${targets[@]}"; do
    name=$(basename "$target" .c)
    corpora=("build/fuzz/corpus/${name#fuzz_}")
    mkdir -p "${corpora[0]}"
    [ -d "verify/data/$name" ] && corpora+=("verify/data/$name")
    if [ -x "build/fuzz/$name" ] &&
        "build/fuzz/$name" -max_total_time="$seconds" -timeout=5 -rss_limit_mb=2048 -print_final_stats=1 -verbosity=0 \
            -artifact_prefix="build/fuzz/$name-" "${corpora[@]}" 2>&1 |
        sed 's/^/# /' && [ "${PIPESTATUS[0]}" = 0 ]; then
        echo "ok $((++n)) - $name, $seconds s"
    else
        echo "not ok $((++n)) - $name, $seconds s"
        bad=1
    fi
done
exit $bad
