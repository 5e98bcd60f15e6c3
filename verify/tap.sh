# What the tests in shell share: a scratch directory, and TAP. Sourced by verify/test_*.sh, from the repository's root.
#
# A command under test leaves its standard output in $tmp/out, its standard error in $tmp/err and its status in $status_of;
# a failed check shows the beginnings of them.
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
# A caller's settings are none of a test's.
unset KGEN_DEVICE KGEN_DUMP KGEN_ACT KGEN_KV KGEN_CONTEXT
export XDG_CONFIG_HOME=$tmp/config

n=0 failed=0
ok() { # ok NAME: by the status of the command before
    local status=$?
    n=$((n + 1))
    if [ $status = 0 ]; then echo "ok $n - $1"; else
        echo "not ok $n - $1"
        sed 's/^/#   out: /' "$tmp/out" | head -n 20 | cut -c 1-300
        sed 's/^/#   err: /' "$tmp/err" | head -n 20 | cut -c 1-600
        echo "#   status: ${status_of:-}"
        failed=1
    fi
}
skip() { n=$((n + 1)); echo "# skip: $2"; echo "ok $n # SKIP $1"; } # skip NAME REASON
finish() { echo "1..$n"; exit $failed; }

call() { "$@" >"$tmp/out" 2>"$tmp/err" </dev/null; status_of=$?; }
# says STATUS TEXT: the last command ended so, with one line on standard error that contains TEXT, and no output.
says() {
    [ "$status_of" = "$1" ] && [ ! -s "$tmp/out" ] && [ "$(wc -l <"$tmp/err")" = 1 ] && grep -qF -- "$2" "$tmp/err"
}
# field NAME: that field of the JSON object in $tmp/out, as it stands there: a text, a number or a flat list.
field() { sed -nE 's/.*"'"$1"'": ("([^"\\]|\\.)*"|\[[^]]*\]|[^],}]*).*/\1/p' "$tmp/out"; }
# json EXPRESSION: of d, the JSON value in $tmp/out, in Python.
json() { python3 -c 'import json, sys; d = json.load(open(sys.argv[1])); print(eval(sys.argv[2]))' "$tmp/out" "$1"; }
