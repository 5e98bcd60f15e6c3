-- A traced kernel as text to read: loops over named axes, a line for each store or shared value, infix expressions.
--
--   local text = show.kernel(kernel, trace)     -- trace: lower.trace(spec)
--
-- Values used more than once are named by `let` at the outermost place where all they depend on is known.

local E = require "dsl.expr"
local language = require "dsl.language"

local M = {}

local function number(x)
  if x == math.tointeger(x) and math.abs(x) < 1e15 then return ("%d"):format(x) end
  return (("%.9g"):format(x))
end

-- Binding strength: 1 + and -, 2 * and /, 3 unary minus, 4 what needs no parentheses.
local infix = { fadd = { " + ", 1 }, fsub = { " - ", 1 }, fmul = { " * ", 2 }, fdiv = { " / ", 2 }, imul = { " * ", 2 },
                idiv = { " // ", 2 }, imod = { " % ", 2 } }
local calls = { fsqrt = "sqrt", fabs = "abs", frint = "round", fmax = "max", fmin = "min", imax = "max", imin = "min",
                itof = "float", ilt = "lt", flt = "lt", ile = "le", fle = "le", ieq = "eq", feq = "eq", band = "both",
                bor = "either", exp = "exp", tanh = "tanh", select = "select" }

-- Worth a name of its own when used twice?
local function trivial(n)
  return n.op == "const" or n.op == "var" or n.op == "dim" or n.op == "free" or n.op == "lin" or n.op == "get" or n.op == "at"
end

-- The k-th field of a fold's element: they stand last among its arguments.
local function element(n, k) return n.args[#n.args - #n.fields + k] end

local S = {}
S.__index = S

function S:wrap(n, strength)
  local text, own = self:expr(n)
  return own < strength and "(" .. text .. ")" or text
end

function S:list(args)
  local out = {}
  for k, a in ipairs(args) do out[k] = self:wrap(a, 0) end
  return table.concat(out, ", ")
end

function S:indices(args)
  local out = {}
  for k, a in ipairs(args) do out[k] = "[" .. self:wrap(a, 0) .. "]" end
  return table.concat(out)
end

function S:linear(n)
  if #n.args == 0 then return tostring(n.const), 4 end
  local out
  for k, a in ipairs(n.args) do
    local c = n.coefs[k]
    local term = math.abs(c) == 1 and self:wrap(a, 2) or math.abs(c) .. " * " .. self:wrap(a, 2)
    if not out then out = (c < 0 and "-" or "") .. term else out = out .. (c < 0 and " - " or " + ") .. term end
  end
  if n.const ~= 0 then out = ("%s %s %d"):format(out, n.const < 0 and "-" or "+", math.abs(n.const)) end
  return out, (#n.args > 1 or n.const ~= 0) and 1 or 2
end

-- "let a = …; let b = …; value" of what a binder computes for each of its values.
function S:inner(var, roots, render)
  local outer = self.names
  self.names = setmetatable({}, { __index = outer })
  self.known[var] = true
  local lets = self:lets(roots)
  local text = (#lets > 0 and table.concat(lets, "; ") .. "; " or "") .. render()
  self.known[var] = nil
  self.names = outer
  return text
end

function S:range(var, from, len)
  local lo = from and self:wrap(from, 0) or "0"
  return ("%s in %s … %s"):format(var.axis, lo, self:wrap(len.exact and len.args[1] or len, 0))
end

function S:fold(n)
  local number_of = self.monoids[n.monoid]
  if not number_of then
    number_of = #self.monoids + 1
    self.monoids[number_of], self.monoids[n.monoid] = { monoid = n.monoid, node = n }, number_of
  end
  local elements, fields = {}, {}
  for k in ipairs(n.fields) do elements[k] = element(n, k) end
  local when = n.args[2]
  local masked = not (when.op == "const" and when.imm == 1)
  if masked then elements[#elements + 1] = when end
  local body = self:inner(n.binds, elements, function()
    for k, f in ipairs(n.fields) do fields[k] = f .. " = " .. self:wrap(element(n, k), 0) end
    if masked then fields[#fields + 1] = "when = " .. self:wrap(when, 0) end
    return "{" .. table.concat(fields, ", ") .. "}"
  end)
  return ("fold(monoid%d, %s: %s)"):format(number_of, self:range(n.binds, n.args[3], n.args[1]), body)
end

function S:expr(n)
  local name = self.names[n]
  if name then return name, 4 end
  local op = n.op
  if op == "const" then
    if n.ty == "bool" then return n.imm == 1 and "true" or "false", 4 end
    local x = tonumber(n.imm)
    return x and number(x) or tostring(n.imm), x and x < 0 and 3 or 4
  elseif op == "var" then return n.axis, 4
  elseif op == "dim" or op == "free" then return n.imm, 4
  elseif op == "lin" then return self:linear(n)
  elseif op == "load" then return n.array.name .. self:indices(n.args), 4
  elseif op == "at" then return self:wrap(n.args[1], 4) .. self:indices { n.args[2] }, 4
  elseif op == "get" then
    return ("%s.%s%s"):format(self:wrap(n.args[1], 4), n.imm, n.args[2] and self:indices { n.args[2] } or ""), 4
  elseif op == "rounded" then return ("rounded(%s, %s)"):format(n.imm, self:wrap(n.args[1], 0)), 4
  elseif op == "fneg" then return "-" .. self:wrap(n.args[1], 3), 3
  elseif op == "reduce" or op == "vec" then
    local body = self:inner(n.binds, { n.args[2] }, function() return (self:wrap(n.args[2], 0)) end)
    local fmt = op == "vec" and n.imm:match("^as:(.+)")
    local verb = op == "reduce" and n.imm or "vec"
    local text = ("%s(%s: %s)"):format(verb, self:range(n.binds, nil, n.args[1]), body)
    return fmt and ("as(%s, %s)"):format(fmt, text) or text, 4
  elseif op == "fold" then return self:fold(n), 4
  elseif infix[op] then
    local sign, strength = infix[op][1], infix[op][2]
    -- Left to right, so the right operand of - and / binds tighter.
    local tight = (op == "fadd" or op == "fmul" or op == "imul") and strength or strength + 1
    return self:wrap(n.args[1], strength) .. sign .. self:wrap(n.args[2], tight), strength
  elseif calls[op] then return ("%s(%s)"):format(calls[op], self:list(n.args)), 4
  end
  return ("%s(%s)"):format(op, self:list(n.args)), 4
end

-- Names what depends on known variables only and is used more than once below the roots; with `hoist`, which is for
-- roots inside further loops, what loops itself as well. Returns the lines.
function S:lets(roots, hoist)
  local uses, order, seen = {}, {}, {}
  local function visit(n)
    uses[n] = (uses[n] or 0) + 1
    if seen[n] or self.names[n] then return end
    seen[n] = true
    for _, a in ipairs(n.args) do visit(a) end
    order[#order + 1] = n -- after its operands
  end
  for _, r in ipairs(roots) do visit(r) end
  local lines = {}
  for _, n in ipairs(order) do
    local known = (uses[n] > 1 or hoist and n.binds) and not trivial(n) and not self.names[n]
    for var in pairs(n.deps) do known = known and self.known[var] end
    if known then
      local text = self:wrap(n, 0)
      self.n_lets = self.n_lets + 1
      self.names[n] = "v" .. self.n_lets
      lines[#lines + 1] = ("let v%d = %s"):format(self.n_lets, text)
    end
  end
  return lines
end

local function parameter(p, given)
  local g = given[p.name]
  if not p.dims then return ("%s = %s"):format(p.name, E.is_node(g) and "at run time" or type(g) == "number" and number(g) or tostring(g)) end
  local dims = {}
  for k, d in ipairs(g.dims) do dims[k] = d.size and tostring(d.size) or d.name .. "?" end
  return ("%s: %s%s[%s]"):format(p.name, g.fmt, p.layout ~= "dense" and "@" .. p.layout or "", table.concat(dims, ","))
end

-- zero and merge on symbolic operands.
function S:monoid(number_of, m)
  local function operand(name)
    local t = {}
    for k, f in ipairs(m.node.fields) do
      local ty = element(m.node, k).ty
      t[f] = E.node("free", ty == "vec" and "f32" or ty, {}, name .. "." .. f)
    end
    return t
  end
  local function fields(t)
    local roots, out = {}, {}
    for _, f in ipairs(m.node.fields) do
      local x = t[f]
      if type(x) == "number" then t[f] = E.f32(x) end
      roots[#roots + 1] = t[f]
    end
    local lets = self:lets(roots)
    for k, f in ipairs(m.node.fields) do out[k] = ("%s = %s"):format(f, self:wrap(t[f], 0)) end
    return (#lets > 0 and table.concat(lets, "; ") .. "; " or "") .. "{" .. table.concat(out, ", ") .. "}"
  end
  return { ("monoid%d: zero %s"):format(number_of, fields(m.monoid.zero())),
           ("  merge(a, b): %s"):format(fields(m.monoid.merge(operand "a", operand "b"))) }
end

-- The stores inside `depth` open loops: those right here, and runs of those that share the next loop.
function S:level(stores, depth, lines)
  local indent, outer = ("  "):rep(depth), self.names
  self.names = setmetatable({}, { __index = outer })
  local at = 1
  while at <= #stores do
    local var, group = stores[at].axes[depth + 1], { stores[at] }
    while var and stores[at + #group] and rawequal(stores[at + #group].axes[depth + 1], var) do
      group[#group + 1] = stores[at + #group]
    end
    local roots = {}
    for _, st in ipairs(group) do
      table.move(st.idx, 1, #st.idx, #roots + 1, roots)
      roots[#roots + 1] = st.value
    end
    for _, line in ipairs(self:lets(roots, var ~= nil)) do lines[#lines + 1] = indent .. line end
    if var then
      lines[#lines + 1] = ("%sfor %s"):format(indent, self:range(var, nil, var.len))
      self.known[var] = true
      self:level(group, depth + 1, lines)
      self.known[var] = nil
    else
      local st = group[1]
      lines[#lines + 1] = ("%s%s%s = %s"):format(indent, st.array.name, self:indices(st.idx), self:wrap(st.value, 0))
    end
    at = at + #group
  end
  self.names = outer
end

--- @param k table the kernel's definition (name, sig)
--- @param trace table what language.trace returned
--- @return string
function M.kernel(k, trace)
  local s = setmetatable({ names = {}, known = {}, n_lets = 0, monoids = {} }, S)
  local ins, outs, lines = {}, {}, {}
  for _, p in ipairs(k.sig.params) do table.insert(p.io == "in" and ins or outs, parameter(p, trace.given)) end
  lines[1] = ("kernel %s(%s)"):format(k.name, table.concat(ins, ", "))
  lines[2] = ("  -> %s"):format(table.concat(outs, ", "))
  language.during(trace, function()
    s:level(trace.stores, 0, lines)
    local at = 3
    for number_of, m in ipairs(s.monoids) do
      s.names = {}
      for _, line in ipairs(s:monoid(number_of, m)) do
        table.insert(lines, at, line)
        at = at + 1
      end
    end
  end)
  return table.concat(lines, "\n") .. "\n"
end

return M
