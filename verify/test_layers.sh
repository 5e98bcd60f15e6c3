#!/usr/bin/env bash
# Proves which way the dependencies point, by the #include and require lines of every source file:
#   kernels.lua -> dsl/ -> codegen/ -> LLVM      models/ -> runtime/ -> codegen/, dsl/host.h      cli/ -> runtime/
# Then plants one breach of each rule in a scratch tree and expects it to be found.
set -u
cd "$(dirname "$0")/.." || exit 1

# Prints "FILE -> DEPENDENCY: RULE" for every breach below the current directory.
breaches() {
    # A deleted but still listed file is passed over; so is what git does not know, unless there is no git here.
    { git ls-files --cached --others --exclude-standard 2>/dev/null || find . -type f | sed 's|^\./||'; } |
        grep -E '\.(c|h|lua)$' | while read -r file; do
        [ -f "$file" ] || continue
        case $file in
        *.lua) sed -nE 's/.*require[ (]*["'\'']([^"'\'']+)["'\''].*/\1/p' "$file" | tr . / | sed "s|^|$file |" ;;
        *) sed -nE 's/^[ \t]*#[ \t]*include[ \t]*[<"]([^>"]+)[>"].*/\1/p' "$file" | sed "s|^|$file |" ;;
        esac
    done | awk '
        function breach(rule) { print file " -> " dep ": " rule }
        {
            file = $1; dep = $2
            layer = file; if (!sub(/\/.*/, "", layer)) layer = "kernels"
            to = dep; if (!sub(/\/.*/, "", to)) to = ""
            if (dep ~ /(^|\/)(lua|lauxlib|lualib)\.h$/) to = "lua.h"
            if (dep ~ /^(cuda|nvrtc|cuda_runtime)(_api)?\.h$/) to = "cuda.h"

            if (to == "llvm-c" && file !~ /^codegen\/(llvm|target)_[^\/]*\.[ch]$/)
                breach("only codegen/llvm_* and codegen/target_* see LLVM")
            if (to == "lua.h" && (layer != "dsl" || file == "dsl/host.h"))
                breach("only dsl/ sees Lua, and dsl/host.h hides it")
            if (to == "cuda.h" && layer != "verify")
                breach("CUDA is reached by dlopen, never by its headers")
            if (layer == "codegen" && to ~ /^(dsl|runtime|models|kernels)$/)
                breach("codegen/ knows neither language nor models")
            if (layer == "dsl" && to ~ /^(runtime|models|kernels)$/)
                breach("dsl/ knows neither runtime nor models")
            if (layer == "dsl" && file ~ /\/formats\// && dep ~ /kernels/)
                breach("a format knows no kernel")
            if ((layer == "kernels" || layer == "models") && to ~ /^(codegen|runtime)$/)
                breach("kernels and families see only the language")
            if (layer == "runtime" && to == "dsl" && dep != "dsl/host.h")
                breach("runtime/ sees of dsl/ only dsl/host.h")
            if (to ~ /^(cli|verify|bench)$/ && layer !~ /^(cli|verify|bench)$/)
                breach("nothing depends on cli/, verify/ or bench/")
        }'
}

n=0 failed=0
ok() { # ok STATUS NAME
    n=$((n + 1))
    if [ "$1" = 0 ]; then echo "ok $n - $2"; else echo "not ok $n - $2"; failed=1; fi
}

found=$(breaches)
[ -z "$found" ]
ok $? "every include and require follows the arrows"
[ -z "$found" ] || sed 's/^/# /' <<<"$found"

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
plant() { # plant FILE LINE
    rm -rf "${scratch:?}"/*
    mkdir -p "$scratch/$(dirname "$1")"
    printf '%s\n' "$2" >"$scratch/$1"
    [ "$(cd "$scratch" && GIT_DIR=/nonexistent breaches | wc -l)" = 1 ]
    ok $? "finds $2 in $1"
}
plant codegen/ir.c '#include "dsl/host.h"'
plant codegen/ir.c '#include "runtime/gguf.h"'
plant codegen/ir.c '#include <llvm-c/Core.h>'
plant codegen/codegen.h '# include <llvm-c/Core.h>'
plant dsl/host.c '#include "runtime/gguf.h"'
plant dsl/host.c '#include <llvm-c/Core.h>'
plant dsl/host.h '#include <lua.h>'
plant dsl/host.c '#include <cuda.h>'
plant dsl/lower.lua 'local graph = require("runtime.graph")'
plant dsl/formats/q4_k.lua 'local k = require "kernels"'
plant runtime/tokenizer.c '#include <lauxlib.h>'
plant runtime/tokenizer.c '#include <llvm-c/Core.h>'
plant runtime/tokenizer.c '#include "dsl/lua_state.h"'
plant runtime/tokenizer.c '#include "cli/cli.h"'
plant codegen/ir.c '#include "verify/ref.h"'
plant dsl/host.c '#include "bench/peak.h"'
plant cli/run.c '#include <lua.h>'
plant models/llama.lua 'require "runtime.graph"'
echo "1..$n"
exit $failed
