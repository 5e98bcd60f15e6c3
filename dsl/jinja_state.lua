--- The state of a rendering: its limits, its output, and the operators, which are what the limits bite on.
--
-- Steps are counted (a node is one; making n bytes of text costs n/32 more, n elements cost n, so that steps bound
-- memory too); the nesting of evaluation, the size of any one string and of the output are bounded. The state holds the
-- line being run, for errors.

local value = require "dsl.jinja_value"
local format = require "dsl.jinja_format"

local M = {}

-- Limits -------------------------------------------------------------------------------------------------------------

local State = {}
State.__index = State

function State:fail(fmt, ...) error(("template line %d: " .. fmt):format(self.line, ...), 0) end

function State:spend(n)
  self.steps = self.steps - n
  if self.steps < 0 then
    self:fail("stopped after %d steps: a loop without end, or a hostile template", self.max_steps)
  end
end

function State:too_big(bytes) self:fail("a text of %d bytes is over the limit of %d", bytes, self.max_bytes) end

function State:check_bytes(bytes)
  if bytes > self.max_bytes then self:too_big(bytes) end
end

--- Announces a new string of `bytes`, before it is made.
function State:grow(bytes)
  self:check_bytes(bytes)
  self:spend(bytes // 32)
end

function State:emit(s)
  self.out_bytes = self.out_bytes + #s
  self:check_bytes(self.out_bytes)
  local out = self.out
  out.n = out.n + 1
  out[out.n] = s
end

-- Operators ----------------------------------------------------------------------------------------------------------

local function overflow(st, op) st:fail("the result of %s does not fit in 64 bits", op) end

local function integer_power(st, base, exponent)
  local result = 1
  for _ = 1, exponent do
    if base == 0 or base == 1 then return base end
    if base == -1 then return exponent % 2 == 0 and 1 or -1 end
    local next_value = result * base
    if math.abs(result * 1.0 * base) >= 2 ^ 63 then overflow(st, "**") end
    result = next_value
  end
  return result
end

--- + - * on two integers, checked through float arithmetic (exact enough near 2^63 to be refused there).
local function checked(st, op, x, y, exact, approximate)
  if math.type(x) == "integer" and math.type(y) == "integer" and math.abs(approximate) >= 2 ^ 63 then
    overflow(st, op)
  end
  return exact
end

local NUMERIC = {
  ["+"] = function(st, x, y) return checked(st, "+", x, y, x + y, x * 1.0 + y) end,
  ["-"] = function(st, x, y) return checked(st, "-", x, y, x - y, x * 1.0 - y) end,
  ["*"] = function(st, x, y) return checked(st, "*", x, y, x * y, x * 1.0 * y) end,
  ["/"] = function(_, x, y) return x / y end,
  ["//"] = function(_, x, y) return x // y end,
  ["%"] = function(_, x, y) return x % y end,
  ["**"] = function(st, x, y)
    if math.type(x) == "integer" and math.type(y) == "integer" and y >= 0 then return integer_power(st, x, y) end
    return (x + 0.0) ^ y
  end,
}

local function repeated(st, v, n)
  n = math.max(n, 0)
  if type(v) == "string" then
    if #v > 0 then
      if n > st.max_bytes then st:too_big(n) end
      st:grow(#v * n)
    end
    return v ~= "" and v:rep(n) or ""
  end
  if v.n > 0 and n > st.max_steps then st:spend(n) end
  local out = { n = v.n * n }
  st:spend(out.n)
  for i = 0, out.n - 1 do out[i + 1] = v[i % v.n + 1] end
  return getmetatable(v) == value.List and value.new_list(out) or value.new_tuple(out)
end

local function joined(st, a, b)
  local out = table.move(a, 1, a.n, 1, { n = a.n + b.n })
  st:spend(out.n)
  table.move(b, 1, b.n, a.n + 1, out)
  return getmetatable(a) == value.List and value.new_list(out) or value.new_tuple(out)
end

local function is_repeatable(v) return type(v) == "string" or value.is_sequence(v) end

--- a op b for the arithmetic operators.
function State:binary(op, a, b)
  local x, y = value.number(a), value.number(b)
  if x and y then
    if y == 0 and (op == "/" or op == "//" or op == "%") then self:fail("division by zero") end
    return NUMERIC[op](self, x, y)
  end
  if op == "+" then
    if type(a) == "string" and type(b) == "string" then
      self:grow(#a + #b)
      return a .. b
    end
    if value.is_sequence(a) and getmetatable(a) == getmetatable(b) then return joined(self, a, b) end
  elseif op == "%" and type(a) == "string" then
    return format.percent(self, a, b)
  elseif op == "*" then
    if is_repeatable(a) and math.type(y) == "integer" then return repeated(self, a, y) end
    if is_repeatable(b) and math.type(x) == "integer" then return repeated(self, b, x) end
  end
  for _, v in ipairs { a, b } do
    if value.is_undefined(v) then self:fail("'%s' is undefined", v.name) end
  end
  return self:fail("'%s' is not defined between %s and %s", op, value.type_name(a), value.type_name(b))
end

--- item in container.
function State:contains(container, item)
  if type(container) == "string" then
    if type(item) ~= "string" then self:fail("'in' needs a string on its left, found %s", value.type_name(item)) end
    self:spend(#container // 32)
    return container:find(item, 1, true) ~= nil
  end
  if value.is_map(container) then return value.get(container, item) ~= nil end
  local items = value.elements(self, container)
  for i = 1, items.n do
    if value.equal(self, items[i], item) then return true end
  end
  return false
end

--- A new state under `limits` {steps, depth, bytes}, looking names up in `scope`.
function M.new(limits, scope)
  return setmetatable({ steps = limits.steps, max_steps = limits.steps, max_depth = limits.depth, depth = 0,
    max_bytes = limits.bytes, line = 1, out = { n = 0 }, out_bytes = 0, scope = scope }, State)
end

return M
