#!/usr/bin/env python3
"""Writes cases.lua: every template in templates/ rendered by Python's Jinja2, set up as transformers sets it up.

Run in this directory with jinja2 (3.1) installed. A template FAMILY_*.jinja or chat_*.jinja is rendered with the
conversations of contexts.py, any other with its context FEATURES. What Jinja2 refuses is recorded as an error with its
line, when there is one.
"""
import json
import math
from pathlib import Path

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from contexts import CONVERSATIONS, FEATURES

HERE = Path(__file__).parent


class Generation(Extension):
    """{% generation %} … {% endgeneration %}: its text, as transformers gives outside of training."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("text"), [], [], body).set_lineno(line)

    def text(self, caller):
        return caller()


def raise_exception(message):
    raise jinja2.exceptions.TemplateError(message)


def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def environment():
    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = lambda fmt: "date(" + fmt + ")"
    return env


def lua_string(s):
    out = []
    for b in s.encode("utf-8"):
        c = chr(b)
        out.append("\\n" if c == "\n" else "\\" + c if c in '"\\' else c if 32 <= b < 127 else "\\%03d" % b)
    return '"' + "".join(out) + '"'


def lua(value):
    if value is None:
        return "none"
    if value is True or value is False:
        return str(value).lower()
    if isinstance(value, str):
        return lua_string(value)
    if isinstance(value, float):
        return "math.huge" if value == math.inf else repr(value)
    if isinstance(value, int):
        return str(value)
    if isinstance(value, list):
        return "list{" + ",".join(lua(v) for v in value) + "}"
    return "map{" + ",".join("{" + lua(k) + "," + lua(v) + "}" for k, v in value.items()) + "}"


def result(env, source, context):
    try:
        return "expect = " + lua_string(env.from_string(source).render(**context))
    except jinja2.TemplateSyntaxError as e:
        return "error_line = %d, message = %s" % (e.lineno, lua_string(e.message))
    except (jinja2.exceptions.TemplateError, ArithmeticError, LookupError, TypeError, ValueError, SyntaxError) as e:
        frame, line = e.__traceback__, 0
        while frame:
            if frame.tb_frame.f_code.co_filename == "<template>":
                line = frame.tb_lineno
            frame = frame.tb_next
        return "error_line = %d, message = %s" % (line, lua_string(str(e)))


def main():
    env = environment()
    out = ["-- Written by make.py with Python's Jinja2 " + jinja2.__version__ + "; do not edit.", "return {"]
    for path in sorted((HERE / "templates").glob("*.jinja")):
        source = path.read_text(encoding="utf-8")
        contexts = CONVERSATIONS if path.name.startswith("chat_") else {"features": FEATURES}
        for name, context in contexts.items():
            fields = ",".join("{" + lua(k) + "," + lua(v) + "}" for k, v in context.items())
            out.append('{ template = "%s", context_name = "%s", context = { %s },\n  %s },'
                       % (path.stem, name, fields, result(env, source, context)))
    # one expression a line: "expression" is rendered as {{ (expression)|tojson if it is … }} by printing it
    for number, line in enumerate((HERE / "expressions.txt").read_text(encoding="utf-8").splitlines(), 1):
        if line and not line.startswith("##"):
            source = line.replace("\\n", "\n")
            out.append("{ source = %s, context_name = \"expressions.txt:%d\", context = FEATURES,\n  %s },"
                       % (lua_string(source), number, result(env, source, FEATURES)))
    out.append("}")
    text = "\n".join(out) + "\n"
    fields = ",".join("{" + lua(k) + "," + lua(v) + "}" for k, v in FEATURES.items())
    text = text.replace("return {", "local FEATURES = { %s }\nreturn {" % fields, 1)
    (HERE / "cases.lua").write_text(text, encoding="ascii")


main()
