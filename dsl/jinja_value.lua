--- The values of a chat template: Python's, held in Lua.
--
--   str      Lua string (UTF-8)            list, tuple  {n = count, [1..n]}, metatable List or Tuple
--   int      Lua integer                   dict         Map: insertion order, see `put` and `get`
--   float    Lua float                     namespace    Namespace: {vars = {name = value}}
--   bool     Lua boolean                   undefined    Undefined: {name = what was looked up}
--   None     the table `none`              callable     Callable: {name =, call = function(st, args, kw)}
--
-- No value is ever nil. Functions that walk a value take the render state `st` first: it counts steps, limits sizes and
-- nesting, and st:fail(format, ...) raises an error with the template's line (see jinja_state). The few functions
-- without `st` are for building contexts.

local text = require "dsl.jinja_text"

local M = {}

local List, Tuple, Map, Namespace, Undefined, Callable, None = {}, {}, {}, {}, {}, {}, {}
M.List, M.Tuple, M.Map, M.Namespace, M.Undefined, M.Callable = List, Tuple, Map, Namespace, Undefined, Callable
M.none = setmetatable({}, None)
local none = M.none

--- Values nest at most this deep when printed, compared or converted (a list may contain itself).
local MAX_NESTING = 100

-- Construction -------------------------------------------------------------------------------------------------------

function M.new_list(items) return setmetatable(items, List) end
function M.new_tuple(items) return setmetatable(items, Tuple) end
function M.new_map() return setmetatable({ n = 0, keys = {}, vals = {}, at = {} }, Map) end
function M.undefined(name) return setmetatable({ name = name }, Undefined) end
function M.callable(name, call) return setmetatable({ name = name, call = call }, Callable) end

--- What stands for a key in Map.at: Python's 1, 1.0 and True are one key. nil when the value cannot be a key.
local function key_id(key)
  if key == true then return 1 end
  if key == false then return 0 end
  local mt = getmetatable(key)
  if type(key) ~= "table" then return key ~= key and "\0nan" or key end
  if mt == None then return key end
  if mt ~= Tuple then return nil end
  local parts = {}
  for i = 1, key.n do
    local id = key_id(key[i])
    if id == nil then return nil end
    parts[i] = math.type(id) or type(id)
    parts[i] = parts[i] .. ":" .. (type(id) == "table" and "none" or tostring(id))
  end
  return "\0tuple(" .. table.concat(parts, "\0,") .. ")"
end

--- Sets map[key]; false when the key is of a kind that Python cannot hash.
function M.put(map, key, value)
  local id = key_id(key)
  if id == nil then return false end
  local at = map.at[id]
  if not at then
    at = map.n + 1
    map.n, map.at[id], map.keys[at] = at, at, key
  end
  map.vals[at] = value
  return true
end

--- map[key], or nil.
function M.get(map, key)
  local id = key_id(key)
  local at = id ~= nil and map.at[id] or nil
  if at then return map.vals[at] end
  return nil
end

local function is_container(v)
  local mt = getmetatable(v)
  return mt == List or mt == Tuple or mt == Map or mt == Namespace or mt == Undefined or mt == Callable or mt == None
end

--- A template value from plain Lua data: tables with [1] become lists, other tables dicts with their keys in sorted
--- order (an empty table is a list); values made by list{}, map{} and none keep what they are. `nil` is undefined.
function M.from_plain(v, depth)
  depth = depth or 0
  if depth > MAX_NESTING then error("a value for the template nests deeper than " .. MAX_NESTING, 0) end
  if v == nil then return M.undefined("value") end
  if type(v) == "string" or type(v) == "number" or type(v) == "boolean" then return v end
  if type(v) == "function" then
    return M.callable("function", function(_, args) return M.from_plain(v(table.unpack(args, 1, args.n))) end)
  end
  if type(v) ~= "table" then error("a value for the template is a " .. type(v) .. ", which has no meaning there", 0) end
  if is_container(v) then return v end
  if v[1] ~= nil then
    local out = { n = #v }
    for i = 1, #v do out[i] = M.from_plain(v[i], depth + 1) end
    return M.new_list(out)
  end
  local keys = {}
  for k in next, v do
    if type(k) ~= "string" then error("a mapping for the template has a key that is no string", 0) end
    keys[#keys + 1] = k
  end
  if #keys == 0 then return M.new_list { n = 0 } end
  table.sort(keys, text.less)
  local map = M.new_map()
  for _, k in ipairs(keys) do M.put(map, k, M.from_plain(v[k], depth + 1)) end
  return map
end

--- list{a, b, …}: also an empty one; elements go through from_plain.
function M.list(items)
  local out = { n = #items }
  for i = 1, #items do out[i] = M.from_plain(items[i]) end
  return M.new_list(out)
end

--- map{{"key", value}, …}: a dict that keeps this order.
function M.map(pairs_in_order)
  local map = M.new_map()
  for _, p in ipairs(pairs_in_order) do M.put(map, p[1], M.from_plain(p[2])) end
  return map
end

-- Types and truth ----------------------------------------------------------------------------------------------------

--- Python's name of the value's type.
function M.type_name(v)
  if type(v) == "string" then return "str" end
  if type(v) == "boolean" then return "bool" end
  if type(v) == "number" then return math.type(v) == "integer" and "int" or "float" end
  local mt = getmetatable(v)
  return mt == List and "list" or mt == Tuple and "tuple" or mt == Map and "dict" or mt == Namespace and "Namespace"
    or mt == Undefined and "Undefined" or mt == None and "NoneType" or "function"
end

function M.is_undefined(v) return getmetatable(v) == Undefined end
function M.is_map(v) return getmetatable(v) == Map end
function M.is_sequence(v)
  local mt = getmetatable(v)
  return mt == List or mt == Tuple
end

function M.truthy(v)
  if type(v) == "boolean" then return v end
  if type(v) == "string" then return v ~= "" end
  if type(v) == "number" then return v ~= 0 end
  local mt = getmetatable(v)
  if mt == List or mt == Tuple or mt == Map then return v.n > 0 end
  return mt ~= None and mt ~= Undefined
end

--- The number a value counts as in arithmetic (bools are 0 and 1), or nil.
function M.number(v)
  if type(v) == "number" then return v end
  if type(v) == "boolean" then return v and 1 or 0 end
  return nil
end

local function nested(st, depth)
  if depth > MAX_NESTING then st:fail("a value nests deeper than %d levels, or contains itself", MAX_NESTING) end
  st:spend(1)
end

-- Comparison ---------------------------------------------------------------------------------------------------------

--- a == b as in Python.
function M.equal(st, a, b, depth)
  depth = depth or 0
  nested(st, depth)
  local x, y = M.number(a), M.number(b)
  if x and y then return x == y end
  if rawequal(a, b) then return true end
  local mt = getmetatable(a)
  if type(a) ~= "table" or type(b) ~= "table" or mt ~= getmetatable(b) then return false end
  if mt == Undefined then return true end
  if mt == List or mt == Tuple then
    if a.n ~= b.n then return false end
    for i = 1, a.n do
      if not M.equal(st, a[i], b[i], depth + 1) then return false end
    end
    return true
  end
  if mt == Map then
    if a.n ~= b.n then return false end
    for i = 1, a.n do
      local other = M.get(b, a.keys[i])
      if other == nil or not M.equal(st, a.vals[i], other, depth + 1) then return false end
    end
    return true
  end
  return false
end

--- a < b as in Python; an error where Python has none.
function M.less(st, a, b, depth)
  depth = depth or 0
  nested(st, depth)
  local x, y = M.number(a), M.number(b)
  if x and y then return x < y end
  if type(a) == "string" and type(b) == "string" then
    st:spend(math.min(#a, #b) // 32)
    return text.less(a, b)
  end
  if M.is_sequence(a) and getmetatable(a) == getmetatable(b) then
    for i = 1, math.min(a.n, b.n) do
      if not M.equal(st, a[i], b[i], depth + 1) then return M.less(st, a[i], b[i], depth + 1) end
    end
    return a.n < b.n
  end
  return st:fail("'<' is not defined between %s and %s", M.type_name(a), M.type_name(b))
end

-- Printing -----------------------------------------------------------------------------------------------------------

--- repr(float): the shortest digits that read back as the same number, in Python's notation.
function M.float_repr(x)
  if x ~= x then return "nan" end
  if x == math.huge then return "inf" end
  if x == -math.huge then return "-inf" end
  local sci
  for digits = 0, 16 do
    sci = ("%." .. digits .. "e"):format(x)
    if tonumber(sci) == x then break end
  end
  local sign, mantissa, exponent = sci:match("^(-?)([%d.]+)e([-+]%d+)$")
  exponent = math.tointeger(tonumber(exponent))
  local digits = mantissa:gsub("%.", "")
  if exponent < -4 or exponent >= 16 then
    local rest = digits:sub(2)
    return ("%s%s%se%s%02d"):format(sign, digits:sub(1, 1), rest ~= "" and "." .. rest or "",
      exponent < 0 and "-" or "+", math.abs(exponent))
  end
  if exponent < 0 then return sign .. "0." .. ("0"):rep(-exponent - 1) .. digits end
  if #digits <= exponent + 1 then return sign .. digits .. ("0"):rep(exponent + 1 - #digits) .. ".0" end
  return sign .. digits:sub(1, exponent + 1) .. "." .. digits:sub(exponent + 2)
end

--- A piece-wise builder that checks the size of the text as it grows.
local function sink(st)
  local out, bytes = {}, 0
  local function put(s)
    bytes = bytes + #s
    if bytes > st.max_bytes then st:too_big(bytes) end
    out[#out + 1] = s
  end
  return put, function()
    st:spend(bytes // 32)
    return table.concat(out)
  end
end

local function scalar(v)
  if type(v) == "boolean" then return v and "True" or "False" end
  if type(v) == "number" then return math.type(v) == "integer" and ("%d"):format(v) or M.float_repr(v) end
  local mt = getmetatable(v)
  if mt == None then return "None" end
  if mt == Undefined then return "Undefined" end
  if mt == Namespace then return "<Namespace>" end
  return "<" .. v.name .. ">"
end

local function put_repr(st, put, v, depth)
  nested(st, depth)
  local mt = getmetatable(v)
  if type(v) == "string" then return put(text.repr(v)) end
  if mt == List or mt == Tuple then
    put(mt == List and "[" or "(")
    for i = 1, v.n do
      if i > 1 then put(", ") end
      put_repr(st, put, v[i], depth + 1)
    end
    return put(mt == List and "]" or v.n == 1 and ",)" or ")")
  end
  if mt ~= Map then return put(scalar(v)) end
  put("{")
  for i = 1, v.n do
    if i > 1 then put(", ") end
    put_repr(st, put, v.keys[i], depth + 1)
    put(": ")
    put_repr(st, put, v.vals[i], depth + 1)
  end
  put("}")
end

function M.repr(st, v)
  local put, done = sink(st)
  put_repr(st, put, v, 0)
  return done()
end

--- str(v): what {{ v }} prints.
function M.str(st, v)
  if type(v) == "string" then return v end
  local mt = getmetatable(v)
  if mt == Undefined then return "" end
  if mt == List or mt == Tuple or mt == Map then return M.repr(st, v) end
  return scalar(v)
end

-- JSON ---------------------------------------------------------------------------------------------------------------

local JSON_ESCAPE = { ['"'] = '\\"', ["\\"] = "\\\\", ["\n"] = "\\n", ["\r"] = "\\r", ["\t"] = "\\t", ["\b"] = "\\b",
  ["\f"] = "\\f" }

local function json_string(s, ensure_ascii)
  s = s:gsub('[%z\1-\31"\\]', function(c) return JSON_ESCAPE[c] or ("\\u%04x"):format(c:byte()) end)
  if not ensure_ascii or not s:find("[\x7f-\xff]") then return '"' .. s .. '"' end
  local out = text.chars(s)
  for i, c in ipairs(out) do
    local code = text.code(c) or 0xFFFD
    if code >= 0x10000 then
      local low = code - 0x10000
      out[i] = ("\\u%04x\\u%04x"):format(0xD800 + (low >> 10), 0xDC00 + (low & 0x3FF))
    elseif code >= 0x7F then
      out[i] = ("\\u%04x"):format(code)
    end
  end
  return '"' .. table.concat(out) .. '"'
end

local function json_scalar(st, v, ensure_ascii)
  if type(v) == "string" then return json_string(v, ensure_ascii) end
  if type(v) == "boolean" then return v and "true" or "false" end
  if v == none then return "null" end
  if math.type(v) == "integer" then return ("%d"):format(v) end
  if type(v) == "number" then
    return v ~= v and "NaN" or v == math.huge and "Infinity" or v == -math.huge and "-Infinity" or M.float_repr(v)
  end
  return st:fail("tojson: a value of type %s has no JSON form", M.type_name(v))
end

local function put_json(st, put, v, opt, depth)
  nested(st, depth)
  local is_map = M.is_map(v)
  if not is_map and not M.is_sequence(v) then return put(json_scalar(st, v, opt.ensure_ascii)) end
  if v.n == 0 then return put(is_map and "{}" or "[]") end
  local function line(level)
    if opt.indent then put("\n" .. opt.indent:rep(level)) end
  end
  put(is_map and "{" or "[")
  local order = {}
  for i = 1, v.n do order[i] = i end
  if is_map and opt.sort_keys then
    order = M.sorted(st, order, function(a, b) return M.less(st, v.keys[a], v.keys[b]) end)
  end
  for i = 1, v.n do
    if i > 1 then put(opt.item_sep) end
    line(depth + 1)
    if is_map then
      local key = v.keys[order[i]]
      if type(key) == "string" then
        put(json_string(key, opt.ensure_ascii))
      else
        put('"' .. json_scalar(st, key, false) .. '"')
      end
      put(opt.key_sep)
      put_json(st, put, v.vals[order[i]], opt, depth + 1)
    else
      put_json(st, put, v[i], opt, depth + 1)
    end
  end
  line(depth)
  put(is_map and "}" or "]")
end

--- json.dumps(v). `opt`: ensure_ascii, sort_keys, indent (a string, or nil for one line), item_sep, key_sep.
function M.json(st, v, opt)
  local put, done = sink(st)
  put_json(st, put, v, opt, 0)
  return done()
end

-- Iteration and order ------------------------------------------------------------------------------------------------

--- The elements that iterating over `v` gives, as an array with n (a new one for strings and dicts; lists are
--- themselves, so callers must not write to it).
function M.elements(st, v)
  local mt = getmetatable(v)
  if mt == List or mt == Tuple then return v end
  if mt == Undefined then return { n = 0 } end
  local out
  if type(v) == "string" then
    st:spend(#v)
    out = text.chars(v)
    out.n = #out
  elseif mt == Map then
    st:spend(v.n)
    out = { n = v.n }
    table.move(v.keys, 1, v.n, 1, out)
  else
    return st:fail("a value of type %s cannot be iterated over", M.type_name(v))
  end
  return out
end

--- A stable merge sort (as Python's sort is) into a new array; `less` may be inconsistent, the result is then just
--- some order.
function M.sorted(st, items, less)
  local n = items.n or #items
  local from, to = table.move(items, 1, n, 1, {}), {}
  local width = 1
  while width < n do
    for lo = 1, n, 2 * width do
      local mid, hi = math.min(lo + width, n + 1), math.min(lo + 2 * width, n + 1)
      local i, j = lo, mid
      for k = lo, hi - 1 do
        st:spend(1)
        if i < mid and (j >= hi or not less(from[j], from[i])) then
          to[k], i = from[i], i + 1
        else
          to[k], j = from[j], j + 1
        end
      end
    end
    from, to = to, from
    width = width * 2
  end
  from.n = n
  return from
end

return M
