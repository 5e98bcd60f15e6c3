#!/usr/bin/env bash
# kgen beside llama.cpp on this machine: `bench/peers.sh --help` lists the options. The rival is installed in a scratch
# environment under build/; nothing of it enters the product.
set -eu
cd "$(dirname "$0")/.."
venv=build/peers/venv
rival=llama-cpp-python==0.3.36

if [ ! -e "$venv/ready" ]; then
    echo "installing $rival in $venv (it is compiled: some minutes)"
    rm -rf "$venv"
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet "$rival"
    touch "$venv/ready"
fi
[ -x build/kgen ] || make build/kgen
exec "$venv/bin/python" bench/peers.py "$@"
