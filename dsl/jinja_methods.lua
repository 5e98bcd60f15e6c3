--- Attributes, items and slices of values, and the methods of str, list and dict.
--
-- A method is declared with the names of its parameters; `bind` matches a call's arguments to them, a missing one is
-- nil. Methods that change their object are refused as transformers' sandbox refuses them, with one exception:
-- list.append, which some templates in GGUF files rely on.

local text = require "dsl.jinja_text"
local value = require "dsl.jinja_value"
local format = require "dsl.jinja_format"

local M = {}

-- Arguments ----------------------------------------------------------------------------------------------------------

--- Calls fn(st, self, p1, p2, …) with a call's arguments in the order of `params`; nil for those not given. A `params`
--- of nil passes args and kw as they are.
function M.bind(st, what, params, fn, self, args, kw)
  if not params then return fn(st, self, args, kw) end
  if args.n > #params then st:fail("%s takes %d argument(s), %d given", what, #params, args.n) end
  local given = table.move(args, 1, args.n, 1, {})
  for i = 1, kw.n do
    local found
    for p, name in ipairs(params) do
      if name == kw.keys[i] then found = p end
    end
    if not found then st:fail("%s has no argument '%s'", what, kw.keys[i]) end
    if given[found] ~= nil then st:fail("%s is given the argument '%s' twice", what, kw.keys[i]) end
    given[found] = kw.vals[i]
  end
  return fn(st, self, table.unpack(given, 1, #params))
end

--- An optional integer argument.
function M.integer(st, v, default, what)
  if v == nil then return default end
  local n = value.number(v)
  n = n and math.type(n) == "integer" and n
  if not n then st:fail("%s must be an integer, found %s", what, value.type_name(v)) end
  return n
end

--- A required (default nil) or optional string argument; None counts as not given when there is a default.
function M.string(st, v, default, what)
  if default ~= nil and (v == nil or v == value.none) then return default end
  if type(v) ~= "string" then
    st:fail("%s must be a string, found %s", what, v == nil and "nothing" or value.type_name(v))
  end
  return v
end

local integer, string_arg = M.integer, M.string

-- str ----------------------------------------------------------------------------------------------------------------

local STR, LIST, DICT = {}, {}, {}

local function def(class, name, params, fn) class[name] = { params = params, fn = fn } end

local function list_of(st, items)
  items.n = #items
  st:spend(items.n)
  return value.new_list(items)
end

local function strip_method(name, left, right)
  def(STR, name, { "chars" }, function(st, s, chars)
    chars = string_arg(st, chars, false, name)
    st:spend(chars and #chars or 0)
    return text.strip(s, chars or nil, left, right)
  end)
end
strip_method("strip", true, true)
strip_method("lstrip", true, false)
strip_method("rstrip", false, true)

for _, name in ipairs { "upper", "lower", "title", "capitalize", "swapcase" } do
  def(STR, name, {}, function(st, s)
    st:grow(#s)
    return text[name](s)
  end)
end
STR.casefold = STR.lower

local function split_method(name, from_right)
  def(STR, name, { "sep", "maxsplit" }, function(st, s, sep, max)
    sep = string_arg(st, sep, false, name .. "'s separator")
    if sep == "" then st:fail("%s: the separator is empty", name) end
    st:spend(#s // 8)
    return list_of(st, text.split(s, sep or nil, integer(st, max, -1, "maxsplit"), from_right))
  end)
end
split_method("split", false)
split_method("rsplit", true)

def(STR, "splitlines", { "keepends" }, function(st, s, keepends)
  st:spend(#s // 8)
  return list_of(st, text.splitlines(s, keepends ~= nil and value.truthy(keepends)))
end)

local function partition_method(name, from_right)
  def(STR, name, { "sep" }, function(st, s, sep)
    local parts = text.split(s, string_arg(st, sep, nil, "the separator"), 1, from_right)
    if #parts == 2 then
      parts = { parts[1], sep, parts[2] }
    else
      parts = from_right and { "", "", s } or { s, "", "" }
    end
    parts.n = 3
    return value.new_tuple(parts)
  end)
end
partition_method("partition", false)
partition_method("rpartition", true)

--- startswith and endswith: `what` is a string or a tuple of them.
local function affix_method(name, has)
  def(STR, name, { "what" }, function(st, s, what)
    if getmetatable(what) == value.Tuple then
      for i = 1, what.n do
        if has(s, string_arg(st, what[i], nil, name)) then return true end
      end
      return false
    end
    return has(s, string_arg(st, what, nil, name))
  end)
end
local function starts(s, what) return s:sub(1, #what) == what end
local function ends(s, what) return what == "" or s:sub(-#what) == what end
affix_method("startswith", starts)
affix_method("endswith", ends)

def(STR, "removeprefix", { "prefix" }, function(st, s, what)
  return starts(s, string_arg(st, what, nil, "prefix")) and s:sub(#what + 1) or s
end)
def(STR, "removesuffix", { "suffix" }, function(st, s, what)
  return ends(s, string_arg(st, what, nil, "suffix")) and s:sub(1, #s - #what) or s
end)

--- s.replace(old, new, count), with the size of the result known before it is made.
function M.replace(st, s, old, new, count)
  local n = old == "" and text.len(s) + 1 or text.count(s, old)
  if count >= 0 and count < n then n = count end
  if old == "" then st:spend(#s) end
  st:grow(#s + n * (#new - #old))
  return text.replace(s, old, new, count)
end

def(STR, "replace", { "old", "new", "count" }, function(st, s, old, new, count)
  return M.replace(st, s, string_arg(st, old, nil, "old"), string_arg(st, new, nil, "new"),
    integer(st, count, -1, "count"))
end)

def(STR, "count", { "what" }, function(st, s, what)
  st:spend(#s // 32)
  if string_arg(st, what, nil, "what") == "" then return text.len(s) + 1 end
  return text.count(s, what)
end)

local function find_method(name, from_right, must)
  def(STR, name, { "what" }, function(st, s, what)
    st:spend(#s // 8)
    local at = text.find(s, string_arg(st, what, nil, "what"), from_right)
    if at < 0 and must then st:fail("%s: the substring is not there", name) end
    return at
  end)
end
find_method("find", false, false)
find_method("rfind", true, false)
find_method("index", false, true)
find_method("rindex", true, true)

--- s.join(items) and the join filter.
function M.join(st, sep, items, to_string)
  local out, bytes = {}, 0
  for i = 1, items.n do
    out[i] = to_string(items[i])
    bytes = bytes + #out[i] + (i > 1 and #sep or 0)
    st:check_bytes(bytes)
  end
  st:grow(bytes)
  st:spend(items.n)
  return table.concat(out, sep)
end

def(STR, "join", { "items" }, function(st, s, items)
  return M.join(st, s, value.elements(st, items), function(v) return string_arg(st, v, nil, "join: an element") end)
end)

local function pad_method(name, align, centered)
  def(STR, name, { "width", "fill" }, function(st, s, width, fill)
    width = integer(st, width, 0, "width")
    fill = string_arg(st, fill, " ", "fill")
    if text.len(fill) ~= 1 then st:fail("%s: the fill must be one character", name) end
    st:grow(#s + math.max(0, width) * #fill)
    -- Python puts the odd blank of center() on the left when the width is odd
    local missing = width - text.len(s)
    if centered and missing > 0 then
      local left = missing // 2 + (missing & width & 1)
      return fill:rep(left) .. s .. fill:rep(missing - left)
    end
    return format.pad(s, width, align, fill)
  end)
end
pad_method("ljust", "<")
pad_method("rjust", ">")
pad_method("center", "^", true)
def(STR, "zfill", { "width" }, function(st, s, width)
  width = integer(st, width, 0, "width")
  st:grow(#s + math.max(0, width))
  return format.pad(s, width, "=", "0")
end)

--- Tests that hold for a string that is not empty when `each` holds for every character.
local function every(name, each)
  def(STR, name, {}, function(st, s)
    st:spend(#s // 8)
    for _, c in ipairs(text.chars(s)) do
      if not each(c) then return false end
    end
    return s ~= ""
  end)
end
local function is_digit(c) return c:find("^[0-9]$") ~= nil end
local function is_alpha(c) return text.is_letter(c) or (text.code(c) or 0) >= 0x250 and not text.SPACE[c] end
every("isdigit", is_digit)
every("isnumeric", is_digit)
every("isdecimal", is_digit)
every("isspace", function(c) return text.SPACE[c] == true end)
every("isalpha", is_alpha)
every("isalnum", function(c) return is_alpha(c) or is_digit(c) end)

function M.all_case(s, is_right, is_wrong)
  local found = false
  for _, c in ipairs(text.chars(s)) do
    if is_wrong(c) then return false end
    found = found or is_right(c)
  end
  return found
end
def(STR, "isupper", {}, function(_, s) return M.all_case(s, text.is_upper, text.is_lower) end)
def(STR, "islower", {}, function(_, s) return M.all_case(s, text.is_lower, text.is_upper) end)

def(STR, "format", nil, function(st, s, args, kw)
  return format.braces(st, s, args, kw, function(v, name, is_item)
    return is_item and M.item(st, v, name) or M.attribute(st, v, name)
  end)
end)

-- list and tuple -----------------------------------------------------------------------------------------------------

def(LIST, "append", { "item" }, function(st, list, item)
  if getmetatable(list) ~= value.List then st:fail("append: a tuple cannot change") end
  if item == nil then st:fail("append takes 1 argument, 0 given") end
  list.n = list.n + 1
  list[list.n] = item
  return value.none
end)
def(LIST, "count", { "item" }, function(st, list, item)
  local n = 0
  for i = 1, list.n do n = n + (value.equal(st, list[i], item) and 1 or 0) end
  return n
end)
def(LIST, "index", { "item" }, function(st, list, item)
  for i = 1, list.n do
    if value.equal(st, list[i], item) then return i - 1 end
  end
  return st:fail("index: the element is not in the list")
end)

-- dict ---------------------------------------------------------------------------------------------------------------

def(DICT, "get", { "key", "default" }, function(_, map, key, default)
  local v = value.get(map, key)
  if v ~= nil then return v end
  if default ~= nil then return default end
  return value.none
end)

local function columns(name, row)
  def(DICT, name, {}, function(st, map)
    local out = { n = map.n }
    st:spend(map.n)
    for i = 1, map.n do out[i] = row(map, i) end
    return value.new_list(out)
  end)
end
columns("keys", function(map, i) return map.keys[i] end)
columns("values", function(map, i) return map.vals[i] end)
columns("items", function(map, i) return value.new_tuple { n = 2, map.keys[i], map.vals[i] } end)

def(DICT, "copy", {}, function(st, map)
  st:spend(map.n)
  local out = value.new_map()
  for i = 1, map.n do value.put(out, map.keys[i], map.vals[i]) end
  return out
end)

local REFUSED = { pop = true, clear = true, update = true, setdefault = true, popitem = true, extend = true,
  insert = true, remove = true, sort = true, reverse = true }
for name in next, REFUSED do
  local function refuse(st) st:fail("%s() would change a value, which templates may not", name) end
  if name ~= "sort" and name ~= "reverse" then def(DICT, name, nil, refuse) end
  def(LIST, name, nil, refuse)
end
for _, name in ipairs { "extend", "insert", "remove" } do DICT[name] = nil end

-- Access -------------------------------------------------------------------------------------------------------------

local function class_of(v)
  return type(v) == "string" and STR or value.is_sequence(v) and LIST or value.is_map(v) and DICT or nil
end

local function method(v, name)
  local class = type(name) == "string" and class_of(v)
  local m = class and class[name]
  if not m then return nil end
  return value.callable(name, function(st, args, kw)
    if type(v) == "string" then st:spend(#v // 32) end
    return M.bind(st, name .. "()", m.params, m.fn, v, args, kw)
  end)
end

local function own_item(v, key)
  local mt = getmetatable(v)
  if mt == value.Map then return value.get(v, key) end
  local index = (type(v) == "string" or mt == value.List or mt == value.Tuple) and value.number(key)
  index = index and math.type(index) == "integer" and index
  if not index then return nil end
  if type(v) ~= "string" then return v[index < 0 and index + v.n + 1 or index + 1] end
  local chars = text.chars(v)
  return chars[index < 0 and index + #chars + 1 or index + 1]
end

local function own_attribute(v, name)
  local mt = getmetatable(v)
  if (mt == value.Namespace or mt == value.Callable) and v.vars then return v.vars[name] end
  return method(v, name)
end

local function defined_base(st, v, key)
  if value.is_undefined(v) then st:fail("'%s' is undefined, so it has no '%s'", v.name, value.str(st, key)) end
  if type(v) == "string" then st:spend(#v // 8) end
end

--- v.name: an attribute or method, else v["name"], else undefined.
function M.attribute(st, v, name)
  defined_base(st, v, name)
  local found = own_attribute(v, name)
  if found == nil then found = own_item(v, name) end
  if found == nil then return value.undefined(name) end
  return found
end

--- v[key]: an item, else an attribute of that name, else undefined.
function M.item(st, v, key)
  defined_base(st, v, key)
  local found = own_item(v, key)
  if found == nil and type(key) == "string" then found = own_attribute(v, key) end
  if found == nil then return value.undefined(value.str(st, key)) end
  return found
end

--- v[first:last:step] with Python's rules; nil and None mean left out.
function M.slice(st, v, first, last, step)
  local function bound(x, what)
    if x == value.none then x = nil end
    return integer(st, x, nil, what)
  end
  first, last, step = bound(first, "a slice's start"), bound(last, "a slice's end"), bound(step, "a slice's step") or 1
  if step == 0 then st:fail("a slice's step is zero") end
  if value.is_undefined(v) then st:fail("'%s' is undefined, so it has no slice", v.name) end
  if type(v) ~= "string" and not value.is_sequence(v) then
    st:fail("a value of type %s has no slices", value.type_name(v))
  end
  local items = value.elements(st, v)
  local n = items.n
  local low, high = step < 0 and -1 or 0, step < 0 and n - 1 or n
  local function clamp(x, default)
    if not x then return default end
    if x < 0 then x = x + n end
    return math.max(low, math.min(x, high))
  end
  local out = { n = 0 }
  local from, stop = clamp(first, step < 0 and high or low), clamp(last, step < 0 and low or high)
  for i = from, stop + (step < 0 and 1 or -1), step do
    out.n = out.n + 1
    out[out.n] = items[i + 1]
  end
  st:spend(out.n)
  if type(v) == "string" then return table.concat(out, "", 1, out.n) end
  return getmetatable(v) == value.List and value.new_list(out) or value.new_tuple(out)
end

return M
