-- Chat templates against Python's Jinja2 (verify/data/jinja, written by make.py), and hostile ones against the limits.
-- TAP on standard output; run from the repository's root: lua5.4 verify/test_jinja.lua

package.path = "./?.lua;" .. package.path

-- The interpreter gets what the closed environment has, and nothing else: a use of io, os or load is an error here too.
local function closed_environment()
  local env = { string = string, table = table, math = math, utf8 = utf8, error = error, type = type, next = next,
    pairs = pairs, ipairs = ipairs, select = select, tostring = tostring, tonumber = tonumber, rawequal = rawequal,
    setmetatable = setmetatable, getmetatable = getmetatable }
  local loaded = {}
  function env.require(name)
    if not loaded[name] then
      loaded[name] = assert(loadfile(name:gsub("%.", "/") .. ".lua", "t", env))()
    end
    return loaded[name]
  end
  return env
end

local jinja = closed_environment().require "dsl.jinja"

local count, failed = 0, 0
local function ok(holds, name, detail)
  count = count + 1
  if not holds then failed = failed + 1 end
  print(("%sok %d - %s"):format(holds and "" or "not ", count, name))
  if not holds and detail then print("# " .. tostring(detail):gsub("\n", "\n# ")) end
end

local function read(path)
  local f = assert(io.open(path, "rb"))
  local s = f:read "a"
  f:close()
  return s
end

-- pcall, and that the error is a string that names a line
local function render(source, context, limits)
  return pcall(function() return jinja.render(jinja.compile(source, limits), context, limits) end)
end

-- Reference outputs --------------------------------------------------------------------------------------------------

local ROOT = "verify/data/jinja/"
local cases = assert(loadfile(ROOT .. "cases.lua", "t",
  { list = jinja.list, map = jinja.map, none = jinja.none, math = math }))()

for _, case in ipairs(cases) do
  local source = case.source or read(ROOT .. "templates/" .. case.template .. ".jinja")
  local context = {}
  for _, pair in ipairs(case.context) do context[pair[1]] = pair[2] end
  context.strftime_now = function(fmt) return "date(" .. fmt .. ")" end
  local fine, result = render(source, context)
  local name = (case.template or "expression") .. " " .. case.context_name
  if case.expect then
    ok(fine and result == case.expect, name, "expected " .. ("%q"):format(case.expect) .. "\nfound    "
      .. ("%q"):format(result))
  else
    local line = not fine and type(result) == "string" and result:match("^template line (%d+): ")
    -- Jinja2 gives no line for some errors of its own library; ours always has one
    ok(line and (case.error_line == 0 or tonumber(line) == case.error_line), name .. " is refused",
      ("Jinja2: line %d: %s\nfound: %s"):format(case.error_line, case.message, result))
  end
end

-- Hostile templates --------------------------------------------------------------------------------------------------

local SECONDS = 5 -- of processor time; the limits are reached in well under one on an ordinary machine

local function refused(name, source, expected, limits, context)
  collectgarbage()
  -- an eighth of the usual steps, for the sake of the test's time
  limits = limits or { steps = 600000 }
  local start = os.clock()
  local fine, message = render(source, context or {}, limits)
  local seconds = os.clock() - start
  local bytes = collectgarbage "count" * 1024
  local found = not fine and type(message) == "string" and #message < 1000 and message:find("^template line %d+: ")
    and message:find(expected)
  ok(found, name .. ": error with its line", tostring(message):sub(1, 300))
  ok(seconds < SECONDS and bytes < 150e6, name .. ": bounded", ("%.1f s, %.0f MB"):format(seconds, bytes / 1e6))
end

local many = 200000
refused("a million brackets", "{{ " .. ("["):rep(1000000), "at most")
refused("brackets never closed", "x\n{{ " .. ("["):rep(many) .. " }}", "^template line 2: unexpected '}'")
refused("nested brackets", "x\n{{ " .. ("["):rep(many // 2) .. ("]"):rep(many // 2) .. " }}",
  "^template line 2: nested deeper")
refused("nested parentheses", "{{ " .. ("("):rep(many // 2) .. "1" .. (")"):rep(many // 2) .. "}}", "nested deeper")
refused("nested not", "{{ " .. ("not "):rep(many // 5) .. "1 }}", "nested deeper")
refused("nested minus", "{{ " .. ("-"):rep(many) .. "1 }}", "nested deeper")
refused("nested conditional", "{{ " .. ("1 if 1 else "):rep(20000) .. "1 }}", "nested deeper")
refused("nested blocks", ("{% if 1 %}"):rep(20000), "nested deeper")
refused("nested dicts in tests", "{{ " .. ("1 is eq "):rep(20000) .. "}}", "line 1")
refused("long sum", "{{ 1" .. ("+1"):rep(100000) .. " }}", "nested deeper")
refused("long attribute chain", "{{ x" .. (".a"):rep(100000) .. " }}", "nested deeper")
refused("long filter chain", "{{ x" .. ("|e"):rep(100000) .. " }}", "nested deeper")
refused("endless loops", "\n{% for a in range(99999) %}{% for b in range(99999) %}\n{{ a }}{% endfor %}{% endfor %}",
  "^template line %d: stopped after 5000000 steps", {})
refused("loops without output", ("{% for a in range(99999) %}"):rep(6) .. ("{% endfor %}"):rep(6), "stopped after")
refused("endless recursion", "\n\n{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "^template line 3: nested deeper")
refused("mutual recursion", "{% macro a() %}{{ b() }}{% endmacro %}{% macro b() %}{{ a() }}{% endmacro %}{{ a() }}",
  "nested deeper")
refused("recursive loop",
  "{% set l = [1] %}{% set _ = l.append(l) %}{% for x in l recursive %}{{ loop(l) }}{% endfor %}",
  "nested deeper")
refused("exponential recursion",
  "{% macro m(n) %}{% if n %}{{ m(n-1) }}{{ m(n-1) }}{% endif %}{% endmacro %}{{ m(40) }}",
  "stopped after")
refused("huge repeat", "{{ 'x' * 99999999999 }}", "over the limit")
refused("huge list repeat", "{{ [1] * 99999999999 }}", "stopped after")
refused("doubling text",
  "{% set ns = namespace(s='ab') %}{% for i in range(99) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
  "over the limit", {})
refused("doubling list",
  "{% set ns = namespace(s=[1]) %}{% for i in range(99) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
  "stopped after")
refused("hoarded text",
  "{% set l = [] %}{% for i in range(9999) %}{% set _ = l.append(('x' * 9999999) ~ i) %}{% endfor %}",
  "stopped after")
refused("replace that multiplies", "{{ ('a' * 999999).replace('a', 'b' * 999999) }}", "over the limit")
refused("replace of nothing", "{{ ('a' * 999999).replace('', 'b' * 999999) }}", "over the limit", {})
refused("join that multiplies", "{{ ('x' * 99999)|join('y' * 9999) }}", "over the limit")
refused("wide indent", "{{ 'a\\nb'|indent(9999999999) }}", "over the limit")
refused("wide tojson", "{{ [[[1]]]|tojson(indent=9999999999) }}", "over the limit")
refused("deep wide tojson", "{{ ([[1]] * 9999)|tojson(indent=9999) }}", "over the limit")
refused("wide format", "{{ '%999999999999d' % 1 }}", "width")
refused("wide braces", "{{ '{:>999999999}'.format(1) }}", "width")
refused("wide center", "{{ 'a'.center(9999999999) }}", "over the limit")
refused("precise round", "{{ 1.5|round(999999999) }}", "out of range")
refused("huge power", "{{ 10 ** 100000000 }}", "64 bits")
refused("huge product", "{{ 9223372036854775807 * 2 }}", "64 bits")
refused("huge integer", "{{ 99999999999999999999 }}", "64 bits")
refused("long range", "{{ range(9999999999)|list }}", "more than 100000")
refused("range with a huge step", "{{ range(0, 9223372036854775807, 9223372036854775807)|list }}{{ x.y }}", "undefined")
refused("list that contains itself", "{% set l = [] %}{% set _ = l.append(l) %}\n{{ l }}",
  "^template line 2: .*nests deeper")
refused("itself as JSON", "{% set l = [] %}{% set _ = l.append(l) %}{{ l|tojson }}", "nests deeper")
refused("itself compared",
  "{% set a = [] %}{% set _ = a.append(a) %}{% set b = [] %}{% set _ = b.append(b) %}{{ a == b }}",
  "nests deeper")
refused("repr that explodes", "{% set ns = namespace(l=[1]) %}{% for i in range(60) %}{% set ns.l = [ns.l, ns.l] %}"
  .. "{% endfor %}{{ ns.l }}", "stopped after")
refused("many arguments", "{{ range(*range(99999)) }}", "too many")
refused("output over the limit", "{% for i in range(999) %}0123456789{% endfor %}",
  "over the limit of 1000", { bytes = 1000 })
refused("few steps", "{{ 1 + 1 }}", "stopped after 2 steps", { steps = 2 })
refused("template of 2 MB", ("x"):rep(2 << 20), "at most")
refused("open if", "a\nb\n{% if 1 %}\n", "^template line 3: the 'if' block opened here is never closed")
refused("open for", "{% for x in [] %}{% else %}", "never closed")
refused("open macro", "\n{% macro x() %}", "^template line 2: .*never closed")
refused("open comment", "\n\n{# x", "^template line 3: the comment")
refused("open raw", "\n{% raw %}{{", "^template line 2: the raw block")
refused("open tag", "\n{% if x", "^template line 2: a tag opened")
refused("open variable", "{{", "never closed")
refused("open string", "{{ 'a\n\n }}", "^template line 1: a string")
refused("crossed blocks", "{% if 1 %}{% for x in y %}{% endif %}{% endfor %}", "nothing is open for 'endif'")
refused("include", "{% include 'x' %}", "unknown tag 'include'")
refused("import", "{% from 'x' import y %}", "unknown tag 'from'")
refused("class of a value", "{{ ''.__class__.__mro__ }}", "'__class__' is undefined")
refused("globals of Lua", "{{ string.rep('x', 10) }}", "'string' is undefined")
refused("method of a Lua string", "{{ 'x'.rep(10) }}", "'rep' is undefined")
refused("binary", ("\0\255\200{{\1"):rep(10), "unexpected character")
refused("percent without end", "{{ '%' % 1 }}", "incomplete")
refused("sort of itself", "{% set l = [1] %}{% set _ = l.append(l) %}{{ l|sort }}", "not defined between")
refused("unhashable", "{{ [[1]]|unique }}", "hash")
refused("loop variable as a value", "{% for x in [1] %}{{ loop|tojson }}{% endfor %}", "no JSON form")
refused("error of the caller's function", "\n{{ f() }}", "f has failed", nil,
  { f = function() error("template line 2: f has failed", 0) end })

-- Damaged copies of the real templates: a text or an error with its line, nothing else
do
  local random = 12345
  local function below(n) -- the same damage in every run
    random = (random * 1103515245 + 12345) % 2147483648
    return random // 8 % n
  end
  local PIECES = { "{%", "%}", "{{", "}}", "-", "'", "[", "]", "(", "|", ".", "\0", "\255", "{#", " in ", " is ", ":",
    "9e9" }
  local bad, refused_ones, total = nil, 0, 0
  for _, case in ipairs(cases) do
    local source = case.source or read(ROOT .. "templates/" .. case.template .. ".jinja")
    local context = {}
    for _, pair in ipairs(case.context) do context[pair[1]] = pair[2] end
    for _ = 1, 4 do
      local at, cut = 1 + below(#source), below(6)
      local damaged = source:sub(1, at - 1) .. PIECES[1 + below(#PIECES)] .. source:sub(at + cut)
      local fine, result = render(damaged, context, { steps = 100000, bytes = 1 << 20 })
      total = total + 1
      if not fine then
        refused_ones = refused_ones + 1
        local has_line = type(result) == "string" and result:find("^template line %d+: ")
        if not has_line then bad = bad or damaged .. "\n" .. tostring(result) end
      end
    end
  end
  ok(not bad, total .. " damaged templates", bad)
  ok(refused_ones > total // 4 and refused_ones < total, "damage is noticed, and not always fatal", refused_ones)
end

-- Values from the caller ---------------------------------------------------------------------------------------------

local function gives(name, source, context, expected)
  local fine, result = render(source, context)
  ok(fine and result == expected, name, result)
end

gives("plain tables: arrays are lists", "{{ a }}", { a = { 1, "x", { true } } }, "[1, 'x', [True]]")
gives("plain tables: others are dicts in key order", "{{ a }}", { a = { b = 1, a = 2.5 } }, "{'a': 2.5, 'b': 1}")
gives("an empty table is a list", "{{ a }} {{ a is mapping }}", { a = {} }, "[] False")
gives("map keeps its order", "{{ a|tojson }}", { a = jinja.map { { "z", 1 }, { "b", { 1 } } } }, '{"z": 1, "b": [1]}')
gives("an empty map is a dict", "{{ a }}", { a = jinja.map {} }, "{}")
gives("none is None, absent is undefined", "{{ a is none }} {{ b is defined }}", { a = jinja.none }, "True False")
gives("functions are called with plain values", "{{ f('x', 2) }}", { f = function(s, n) return s:rep(n) end }, "xx")
gives("a context hides globals", "{{ range }}", { range = 3 }, "3")
gives("append", "{% set l = [1] %}{% set _ = l.append(2) %}{{ l }}", {}, "[1, 2]")
gives("bytes that are no UTF-8 pass", "{{ a }}{{ a|length }}{{ a[::-1] }}", { a = "\xff\xc3" }, "\xff\xc32\xc3\xff")
ok(not pcall(jinja.from_plain, print and io.stdout), "userdata is refused")
local cyclic = {}
cyclic[1] = cyclic
local fine, message = pcall(jinja.from_plain, cyclic)
ok(not fine and message:find("nests deeper"), "a cyclic table is refused", message)

print("1.." .. count)
if failed > 0 then print(("# %d of %d failed"):format(failed, count)) end
os.exit(failed == 0)
