--- Filters ({{ v | name(args) }}) and tests ({{ v is name(args) }}).
--
-- Both are declared as methods are: the names of the parameters after the value, and fn(st, v, p1, p2, …). `tojson` is
-- transformers' (no HTML escapes, non-ASCII text as it is). Filters that give a generator in Python give a list here.

local text = require "dsl.jinja_text"
local value = require "dsl.jinja_value"
local format = require "dsl.jinja_format"
local methods = require "dsl.jinja_methods"

local M = {}

local FILTERS, TESTS = {}, {}
local integer, string_arg = methods.integer, methods.string

local function filter(name, params, fn) FILTERS[name] = { params = params, fn = fn } end
local function test(name, params, fn) TESTS[name] = { params = params, fn = fn } end

local NO_ARGS, NO_KW = { n = 0 }, value.new_map()

function M.filter(st, name, v, args, kw)
  local f = FILTERS[name]
  if not f then st:fail("there is no filter '%s'", name) end
  if type(v) == "string" then st:spend(#v // 32) end
  return methods.bind(st, "the filter '" .. name .. "'", f.params, f.fn, v, args or NO_ARGS, kw or NO_KW)
end

function M.test(st, name, v, args, kw)
  local t = TESTS[name]
  if not t then st:fail("there is no test '%s'", name) end
  return methods.bind(st, "the test '" .. name .. "'", t.params, t.fn, v, args or NO_ARGS, kw or NO_KW)
end

--- Missing and None arguments that mean "not given".
local function given(v) return v ~= nil and v ~= value.none end
local function flag(v, default)
  if v == nil then return default end
  return value.truthy(v)
end

local function list_of(st, items)
  items.n = items.n or #items
  st:spend(items.n)
  return value.new_list(items)
end

-- Text ---------------------------------------------------------------------------------------------------------------

for name, fn in next, { upper = text.upper, lower = text.lower, capitalize = text.capitalize,
  title = text.title_words } do
  filter(name, {}, function(st, v)
    local s = value.str(st, v)
    st:grow(#s)
    return fn(s)
  end)
end

filter("trim", { "chars" }, function(st, v, chars)
  return text.strip(value.str(st, v), given(chars) and string_arg(st, chars, nil, "chars") or nil, true, true)
end)

filter("string", {}, function(st, v) return value.str(st, v) end)
filter("safe", {}, function(st, v) return value.str(st, v) end)

filter("replace", { "old", "new", "count" }, function(st, v, old, new, count)
  if old == nil or new == nil then st:fail("replace takes two arguments: old and new") end
  return methods.replace(st, value.str(st, v), value.str(st, old), value.str(st, new),
    given(count) and integer(st, count, -1, "count") or -1)
end)

local HTML = { ["&"] = "&amp;", ["<"] = "&lt;", [">"] = "&gt;", ['"'] = "&#34;", ["'"] = "&#39;" }
filter("escape", {}, function(st, v)
  local s = value.str(st, v)
  st:grow(#s * 5)
  return (s:gsub("[&<>\"']", HTML))
end)
FILTERS.e, FILTERS.forceescape = FILTERS.escape, FILTERS.escape

filter("indent", { "width", "first", "blank" }, function(st, v, width, first, blank)
  local s = value.str(st, v)
  local indent = type(width) == "string" and width or nil
  if not indent then
    local n = integer(st, width, 4, "width")
    st:grow(math.max(n, 0))
    indent = (" "):rep(n)
  end
  local lines = text.splitlines(s .. "\n")
  st:grow(#s + #lines * (#indent + 1))
  for i = 2, #lines do
    if flag(blank, false) or lines[i] ~= "" then lines[i] = indent .. lines[i] end
  end
  if flag(first, false) then lines[1] = indent .. lines[1] end
  return table.concat(lines, "\n")
end)

filter("format", nil, function(st, v, args, kw)
  local fmt = value.str(st, v)
  if kw.n > 0 then return format.percent(st, fmt, kw) end
  return format.percent(st, fmt, value.new_tuple(args))
end)

filter("center", { "width" }, function(st, v, width)
  width = integer(st, width, 80, "width")
  local s = value.str(st, v)
  return methods.attribute(st, s, "center").call(st, { n = 1, width }, NO_KW)
end)

filter("wordcount", {}, function(st, v) return #text.split(value.str(st, v), nil, -1, false) end)

filter("tojson", { "ensure_ascii", "indent", "separators", "sort_keys" },
  function(st, v, ensure_ascii, indent, separators, sort_keys)
    local opt = { ensure_ascii = flag(ensure_ascii, false), sort_keys = flag(sort_keys, false) }
    if given(indent) then
      opt.indent = type(indent) == "string" and indent or nil
      if not opt.indent then
        local n = integer(st, indent, 0, "indent")
        st:grow(math.max(n, 0))
        opt.indent = (" "):rep(n)
      end
    end
    opt.item_sep, opt.key_sep = opt.indent and "," or ", ", ": "
    if given(separators) then
      local pair = value.elements(st, separators)
      if pair.n ~= 2 then st:fail("tojson: separators are two strings") end
      opt.item_sep = string_arg(st, pair[1], nil, "a separator")
      opt.key_sep = string_arg(st, pair[2], nil, "a separator")
    end
    return value.json(st, v, opt)
  end)

-- Numbers ------------------------------------------------------------------------------------------------------------

--- An integer from a float: towards zero; nil when there is none in 64 bits.
local function truncate(x)
  if x ~= x or x >= 2 ^ 63 or x < -2 ^ 63 then return nil end
  return math.tointeger(x < 0 and math.ceil(x) or math.floor(x))
end

--- What Python's int() or float() reads from a string in base 10, or nil.
local function decimal(s)
  s = text.strip(s, nil, true, true):gsub("(%d)_(%d)", "%1%2")
  local word = s:lower():match("^[-+]?(%a+)$")
  if word == "inf" or word == "infinity" then return s:sub(1, 1) == "-" and -math.huge or math.huge end
  if word == "nan" then return 0 / 0 end
  if not s:find("^[-+]?[%d.]+[eE]?[-+]?%d*$") or not s:find("%d") then return nil end
  return tonumber((s:gsub("^%+", "")))
end

filter("int", { "default", "base" }, function(st, v, default, base)
  base = integer(st, base, 10, "base")
  if default == nil then default = 0 end
  local n = value.number(v)
  if type(v) == "string" then
    if base >= 2 and base <= 36 and base ~= 10 then
      local digits = v:lower():gsub("^0[xob]", "")
      return tonumber(digits, base) or default
    end
    n = decimal(v)
  end
  if n == nil then return default end
  return math.type(n) == "integer" and n or truncate(n) or default
end)

filter("float", { "default" }, function(_, v, default)
  local n = value.number(v)
  if type(v) == "string" then n = decimal(v) end
  if n then return n + 0.0 end
  return default == nil and 0.0 or default
end)

local function number_of(st, v, what)
  local n = value.number(v)
  if not n then st:fail("%s needs a number, found %s", what, value.type_name(v)) end
  return n
end

filter("abs", {}, function(st, v) return math.abs(number_of(st, v, "abs")) end)

filter("round", { "precision", "method" }, function(st, v, precision, method)
  local n = number_of(st, v, "round")
  precision = integer(st, precision, 0, "precision")
  method = string_arg(st, method, "common", "method")
  if precision > 99 or precision < -99 then st:fail("round: the precision %d is out of range", precision) end
  local scale = 10.0 ^ precision
  if method == "ceil" then return math.ceil(n * scale) / scale end
  if method == "floor" then return math.floor(n * scale) / scale end
  if method ~= "common" then st:fail("round: the method must be common, ceil or floor") end
  if math.type(n) == "integer" and precision >= 0 then return n end
  -- C's printf rounds the exact binary value half to even, as Python's round() does
  if precision >= 0 then return tonumber(("%." .. precision .. "f"):format(n)) + 0.0 end
  local rounded = tonumber(("%.0f"):format(n * scale)) / scale
  return math.type(n) == "integer" and truncate(rounded) or rounded
end)

-- Lists and dicts ----------------------------------------------------------------------------------------------------

filter("length", {}, function(st, v)
  if type(v) == "string" then return text.len(v) end
  if value.is_undefined(v) then return 0 end
  if not value.is_map(v) and not value.is_sequence(v) then
    st:fail("a value of type %s has no length", value.type_name(v))
  end
  return v.n
end)
FILTERS.count = FILTERS.length

filter("default", { "default_value", "boolean" }, function(_, v, default, boolean)
  if default == nil then default = "" end
  if value.is_undefined(v) or (flag(boolean, false) and not value.truthy(v)) then return default end
  return v
end)
FILTERS.d = FILTERS.default

filter("list", {}, function(st, v)
  local items = value.elements(st, v)
  return list_of(st, table.move(items, 1, items.n, 1, { n = items.n }))
end)

filter("items", {}, function(st, v)
  if value.is_undefined(v) then return value.new_list { n = 0 } end
  if not value.is_map(v) then st:fail("items needs a mapping, found %s", value.type_name(v)) end
  return methods.attribute(st, v, "items").call(st, NO_ARGS, NO_KW)
end)

filter("first", {}, function(st, v)
  local items = value.elements(st, v)
  if items.n == 0 then return value.undefined("first of nothing") end
  return items[1]
end)
filter("last", {}, function(st, v)
  local items = value.elements(st, v)
  if items.n == 0 then return value.undefined("last of nothing") end
  return items[items.n]
end)

filter("reverse", {}, function(st, v)
  local items = value.elements(st, v)
  local out = { n = items.n }
  for i = 1, items.n do out[i] = items[items.n + 1 - i] end
  st:spend(out.n)
  return type(v) == "string" and table.concat(out) or value.new_list(out)
end)

--- v.a.b.0 for attribute=; `default` replaces what is undefined on the way.
local function attribute_getter(st, path, default)
  if type(path) == "number" then
    return function(v) return methods.item(st, v, path) end
  end
  local parts = text.split(string_arg(st, path, nil, "attribute"), ".", -1, false)
  for i, part in ipairs(parts) do parts[i] = part:find("^%d+$") and math.tointeger(tonumber(part)) or part end
  return function(v)
    for _, part in ipairs(parts) do
      v = methods.item(st, v, part)
      if default ~= nil and value.is_undefined(v) then v = default end
    end
    return v
  end
end

--- A getter of what is compared: an attribute when given, strings without case unless asked.
local function key_getter(st, attribute, case_sensitive)
  local get = given(attribute) and attribute_getter(st, attribute) or function(v) return v end
  if case_sensitive then return get end
  return function(v)
    local key = get(v)
    if type(key) ~= "string" then return key end
    st:grow(#key)
    return text.lower(key)
  end
end

filter("join", { "d", "attribute" }, function(st, v, sep, attribute)
  local get = given(attribute) and attribute_getter(st, attribute) or function(x) return x end
  return methods.join(st, sep == nil and "" or value.str(st, sep), value.elements(st, v),
    function(x) return value.str(st, get(x)) end)
end)

--- Sorts items by key(item), in reverse without breaking ties' order.
local function sort_by(st, items, key, reverse)
  local keyed = { n = items.n }
  for i = 1, items.n do keyed[i] = { key(items[i]), items[i] } end
  local sorted = value.sorted(st, keyed, function(a, b)
    if reverse then a, b = b, a end
    return value.less(st, a[1], b[1])
  end)
  for i = 1, sorted.n do sorted[i] = sorted[i][2] end
  return list_of(st, sorted)
end

filter("sort", { "reverse", "case_sensitive", "attribute" }, function(st, v, reverse, case_sensitive, attribute)
  return sort_by(st, value.elements(st, v), key_getter(st, attribute, flag(case_sensitive, false)),
    flag(reverse, false))
end)

filter("dictsort", { "case_sensitive", "by", "reverse" }, function(st, v, case_sensitive, by, reverse)
  by = string_arg(st, by, "key", "by")
  if by ~= "key" and by ~= "value" then st:fail("dictsort: by is 'key' or 'value'") end
  local key = key_getter(st, by == "key" and 0 or 1, flag(case_sensitive, false))
  return sort_by(st, FILTERS.items.fn(st, v), key, flag(reverse, false))
end)

filter("unique", { "case_sensitive", "attribute" }, function(st, v, case_sensitive, attribute)
  local key = key_getter(st, attribute, flag(case_sensitive, false))
  local seen, out, items = value.new_map(), {}, value.elements(st, v)
  for i = 1, items.n do
    local k = key(items[i])
    if value.get(seen, k) == nil then
      if not value.put(seen, k, true) then st:fail("unique: a %s cannot be compared by hash", value.type_name(k)) end
      out[#out + 1] = items[i]
    end
  end
  return list_of(st, out)
end)

local function extreme(name, wanted)
  filter(name, { "case_sensitive", "attribute" }, function(st, v, case_sensitive, attribute)
    local key = key_getter(st, attribute, flag(case_sensitive, false))
    local items = value.elements(st, v)
    if items.n == 0 then return value.undefined(name .. " of nothing") end
    local best = items[1]
    for i = 2, items.n do
      if wanted(st, key(items[i]), key(best)) then best = items[i] end
    end
    return best
  end)
end
extreme("min", function(st, a, b) return value.less(st, a, b) end)
extreme("max", function(st, a, b) return value.less(st, b, a) end)

filter("sum", { "attribute", "start" }, function(st, v, attribute, start)
  local get = given(attribute) and attribute_getter(st, attribute) or function(x) return x end
  local total, items = start == nil and 0 or start, value.elements(st, v)
  for i = 1, items.n do total = st:binary("+", total, get(items[i])) end
  return total
end)

filter("attr", { "name" }, function(st, v, name) return methods.attribute(st, v, string_arg(st, name, nil, "name")) end)

--- Arguments from the k-th on.
local function rest_args(args, k)
  local n = math.max(0, args.n - k + 1)
  return table.move(args, k, args.n, 1, { n = n })
end

filter("map", nil, function(st, v, args, kw)
  local each
  local attribute = value.get(kw, "attribute")
  if attribute ~= nil then
    each = attribute_getter(st, attribute, value.get(kw, "default"))
  else
    local name = string_arg(st, args[1], nil, "map: the filter's name")
    local more = rest_args(args, 2)
    function each(x) return M.filter(st, name, x, more, kw) end
  end
  local items, out = value.elements(st, v), {}
  for i = 1, items.n do
    st:spend(1)
    out[i] = each(items[i])
  end
  out.n = items.n
  return list_of(st, out)
end)

--- select, reject, selectattr, rejectattr.
local function chooser(name, keep, by_attribute)
  filter(name, nil, function(st, v, args, kw)
    local get = by_attribute and attribute_getter(st, args[1]) or function(x) return x end
    local test_at = by_attribute and 2 or 1
    local test_name = args[test_at]
    if test_name ~= nil then string_arg(st, test_name, nil, name .. ": the test's name") end
    local more = rest_args(args, test_at + 1)
    local items, out = value.elements(st, v), {}
    for i = 1, items.n do
      st:spend(1)
      local x = get(items[i])
      local holds = test_name and M.test(st, test_name, x, more, kw)
      if not test_name then holds = value.truthy(x) end
      if holds == keep then out[#out + 1] = items[i] end
    end
    return list_of(st, out)
  end)
end
chooser("select", true, false)
chooser("reject", false, false)
chooser("selectattr", true, true)
chooser("rejectattr", false, true)

-- Tests --------------------------------------------------------------------------------------------------------------

local function is_type(name, holds)
  test(name, {}, function(_, v) return holds(v) end)
end
is_type("defined", function(v) return not value.is_undefined(v) end)
is_type("undefined", value.is_undefined)
is_type("none", function(v) return v == value.none end)
is_type("boolean", function(v) return type(v) == "boolean" end)
is_type("true", function(v) return v == true end)
is_type("false", function(v) return v == false end)
is_type("string", function(v) return type(v) == "string" end)
is_type("number", function(v) return value.number(v) ~= nil end)
is_type("integer", function(v) return math.type(v) == "integer" end)
is_type("float", function(v) return math.type(v) == "float" end)
is_type("mapping", value.is_map)
is_type("callable", function(v) return getmetatable(v) == value.Callable or value.is_undefined(v) end) -- as in Python
local function iterable(v)
  return type(v) == "string" or value.is_sequence(v) or value.is_map(v) or value.is_undefined(v)
end
is_type("iterable", iterable)
is_type("sequence", iterable)
is_type("escaped", function() return false end)
test("lower", {}, function(st, v) return methods.all_case(value.str(st, v), text.is_lower, text.is_upper) end)
test("upper", {}, function(st, v) return methods.all_case(value.str(st, v), text.is_upper, text.is_lower) end)
test("filter", {}, function(_, v) return FILTERS[v] ~= nil end)
test("test", {}, function(_, v) return TESTS[v] ~= nil end)
test("odd", {}, function(st, v) return number_of(st, v, "odd") % 2 == 1 end)
test("even", {}, function(st, v) return number_of(st, v, "even") % 2 == 0 end)
test("divisibleby", { "num" }, function(st, v, num)
  local n = number_of(st, num == nil and value.none or num, "divisibleby")
  if n == 0 then st:fail("divisibleby: division by zero") end
  return number_of(st, v, "divisibleby") % n == 0
end)

local function compares(names, holds)
  for _, name in ipairs(names) do
    test(name, { "other" }, function(st, v, other)
      if other == nil then st:fail("the test '%s' needs a value to compare with", name) end
      return holds(st, v, other)
    end)
  end
end
compares({ "==", "eq", "equalto" }, value.equal)
compares({ "!=", "ne" }, function(st, a, b) return not value.equal(st, a, b) end)
compares({ "<", "lt", "lessthan" }, value.less)
compares({ ">", "gt", "greaterthan" }, function(st, a, b) return value.less(st, b, a) end)
compares({ "<=", "le" }, function(st, a, b) return value.less(st, a, b) or value.equal(st, a, b) end)
compares({ ">=", "ge" }, function(st, a, b) return value.less(st, b, a) or value.equal(st, a, b) end)
compares({ "in" }, function(st, a, b) return st:contains(b, a) end)
compares({ "sameas" }, function(st, a, b)
  if type(a) == "table" or type(b) == "table" then return rawequal(a, b) end
  return value.type_name(a) == value.type_name(b) and value.equal(st, a, b)
end)

return M
