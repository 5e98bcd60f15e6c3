--- Python's two ways of formatting: "%s …" % values and "{} …".format(values).
--
-- Widths and precisions are bounded (MAX_WIDTH), so that a format string cannot ask for a gigabyte of blanks.

local text = require "dsl.jinja_text"
local value = require "dsl.jinja_value"

local M = {}

local MAX_WIDTH = 1000

local function width_of(st, digits)
  local n = digits == "" and 0 or tonumber(digits)
  if n > MAX_WIDTH then st:fail("a width of %s in a format is over %d", digits, MAX_WIDTH) end
  return math.tointeger(n)
end

--- `s` in a field of `width` characters: align is "<", ">", "^" or "=" (zeros after the sign).
local function pad(s, width, align, fill)
  local missing = width - text.len(s)
  if missing <= 0 then return s end
  if align == "<" then return s .. fill:rep(missing) end
  if align == "^" then return fill:rep(missing // 2) .. s .. fill:rep(missing - missing // 2) end
  local sign = align == "=" and s:match("^[-+ ]") or ""
  return sign .. fill:rep(missing) .. s:sub(#sign + 1)
end
M.pad = pad

local function integer_of(st, v, conv)
  local n = value.number(v)
  local int = n and (math.tointeger(n) or (n == n and math.abs(n) < 2 ^ 63 and math.tointeger(n < 0 and math.ceil(n)
    or math.floor(n))))
  if not int then st:fail("a format asks for a number (%s), found %s", conv, value.type_name(v)) end
  return int
end

local function float_of(st, v, conv)
  local n = value.number(v)
  if not n then st:fail("a format asks for a number (%s), found %s", conv, value.type_name(v)) end
  return n + 0.0
end

--- One number by a C-like conversion; `sign` is "", "+" or " ".
local function number(st, v, conv, sign, precision)
  local n, s
  if conv == "d" or conv == "x" or conv == "X" or conv == "o" then
    n = integer_of(st, v, conv)
    local digits = conv == "d" and "%d" or "%" .. conv
    -- math.mininteger has no positive counterpart, but C prints it unsigned as its magnitude
    s = n < 0 and "-" .. (conv == "d" and ("%d"):format(n):sub(2) or digits:format(-n)) or digits:format(n)
  else
    n = float_of(st, v, conv)
    s = n ~= n and "nan" or n == math.huge and "inf" or n == -math.huge and "-inf"
      or ("%." .. math.min(precision or 6, 99) .. conv):format(n)
  end
  return (sign ~= "" and s:sub(1, 1) ~= "-") and sign .. s or s
end

local NUMBER_CONVERSION = { d = "d", i = "d", u = "d", x = "x", X = "X", o = "o", e = "e", E = "E", f = "f", F = "f",
  g = "g", G = "G" }

--- fmt % arg, where a tuple gives several values and a dict gives named ones.
function M.percent(st, fmt, arg)
  local is_tuple = getmetatable(arg) == value.Tuple
  local at, next_value, out, bytes = 1, 1, {}, 0
  local function put(s)
    bytes = bytes + #s
    st:check_bytes(bytes)
    out[#out + 1] = s
  end
  while true do
    local i = fmt:find("%", at, true)
    if not i then break end
    put(fmt:sub(at, i - 1))
    local name, flags, width, dot, precision, conv, stop =
      fmt:match("^(%(?[^()%%]*%)?)([-+ 0#]*)(%d*)(%.?)(%d*)([%a%%])()", i + 1)
    if not name or (name ~= "" and not name:find("^%(.*%)$")) then
      name = ""
      flags, width, dot, precision, conv, stop = fmt:match("^([-+ 0#]*)(%d*)(%.?)(%d*)([%a%%])()", i + 1)
    end
    if not conv then st:fail("an incomplete format after '%%'") end
    at = stop
    if conv == "%" then
      put("%")
    else
      local v
      if name ~= "" then
        v = value.is_map(arg) and value.get(arg, name:sub(2, -2))
        if v == nil or not value.is_map(arg) then st:fail("the format names %s, which is not given", name) end
      elseif is_tuple then
        v = arg[next_value]
        if v == nil then st:fail("not enough values for the format: %d given", arg.n) end
      else
        if next_value > 1 then st:fail("not enough values for the format: 1 given") end
        v = arg
      end
      if name == "" then next_value = next_value + 1 end
      local field_width, digits = width_of(st, width), dot ~= "" and width_of(st, precision) or nil
      local s
      if conv == "s" or conv == "r" then
        s = conv == "s" and value.str(st, v) or value.repr(st, v)
        if digits then s = table.concat(text.chars(s), "", 1, math.min(digits, text.len(s))) end
        flags = flags:gsub("0", "")
      elseif NUMBER_CONVERSION[conv] then
        local sign = flags:find("+", 1, true) and "+" or flags:find(" ", 1, true) and " " or ""
        s = number(st, v, NUMBER_CONVERSION[conv], sign, digits)
      else
        st:fail("the format '%%%s' is not supported", conv)
      end
      local left, zeros = flags:find("-", 1, true), flags:find("0", 1, true)
      put(pad(s, field_width, left and "<" or zeros and "=" or ">", zeros and not left and "0" or " "))
    end
  end
  put(fmt:sub(at))
  local given = is_tuple and arg.n or value.is_map(arg) and 0 or 1
  if next_value <= given then st:fail("not all values were used by the format") end
  return table.concat(out)
end

--- format(v, spec): [[fill]align][sign][0][width][,][.precision][type].
local function by_spec(st, v, spec)
  if spec == "" then return value.str(st, v) end
  local fill, align, rest = spec:match("^([%z\1-\127\194-\253][\128-\191]*)([<>=^])(.*)$")
  if not fill then
    fill, align, rest = " ", spec:match("^([<>=^]?)(.*)$")
  end
  local sign, zero, width, comma, dot, precision, conv = rest:match("^([-+ ]?)(0?)(%d*)(,?)(%.?)(%d*)(%a?%%?)$")
  if not sign then st:fail("the format '%s' is not supported", spec) end
  if sign == "-" then sign = "" end
  local digits = dot ~= "" and width_of(st, precision) or nil
  local s
  local is_number = type(v) == "number"
  if conv == "%" then
    s = number(st, float_of(st, v, conv) * 100, "f", sign, digits) .. "%"
  elseif NUMBER_CONVERSION[conv] then
    s = number(st, v, NUMBER_CONVERSION[conv], sign, digits)
  elseif conv ~= "" and conv ~= "s" then
    st:fail("the format type '%s' is not supported", conv)
  elseif is_number and (digits or comma ~= "" or sign ~= "") then
    s = math.type(v) == "integer" and number(st, v, "d", sign) or number(st, v, digits and "g" or "f", sign, digits)
  else
    s = value.str(st, v)
    if digits then s = table.concat(text.chars(s), "", 1, math.min(digits, text.len(s))) end
  end
  if comma ~= "" then
    local head, whole, tail = s:match("^([-+ ]?)(%d+)(.*)$")
    if whole then s = head .. whole:reverse():gsub("(%d%d%d)", "%1,"):reverse():gsub("^,", "") .. tail end
  end
  if align == "" then align = zero ~= "" and "=" or is_number and ">" or "<" end
  if zero ~= "" and fill == " " then fill = "0" end
  return pad(s, width_of(st, width), align, fill)
end

--- fmt.format(*args, **kw).
-- @param lookup function(v, name, is_item) gives attributes and items of a value
function M.braces(st, fmt, args, kw, lookup)
  local out, bytes, at, automatic = {}, 0, 1, 0
  local function put(s)
    bytes = bytes + #s
    st:check_bytes(bytes)
    out[#out + 1] = s
  end
  while true do
    local i = fmt:find("[{}]", at)
    if not i then break end
    put(fmt:sub(at, i - 1))
    if fmt:sub(i, i) == fmt:sub(i + 1, i + 1) then
      put(fmt:sub(i, i))
      at = i + 2
    else
      local name, path, conv, spec, stop = fmt:match("^{([%w_]*)([^!:{}]*)!?([rs]?):?([^{}]*)}()", i)
      if not name then st:fail("a brace in the format has no counterpart, or what is inside is not supported") end
      at = stop
      local v
      if name == "" then
        automatic = automatic + 1
        v = args[automatic]
      elseif name:find("^%d+$") then
        v = args[(math.tointeger(tonumber(name)) or args.n) + 1]
      else
        v = value.get(kw, name)
      end
      if v == nil then st:fail("the format names {%s}, which is not given", name) end
      for dot, attr, index in path:gmatch("(%.?)([%w_]*)%[?([^%].]*)%]?") do
        if dot ~= "" then v = lookup(v, attr, false) end
        if index ~= "" then v = lookup(v, math.tointeger(tonumber(index)) or index, true) end
      end
      if conv == "r" then v = value.repr(st, v) end
      put(by_spec(st, v, spec))
    end
  end
  put(fmt:sub(at))
  return table.concat(out)
end

return M
