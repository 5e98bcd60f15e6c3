-- Expressions: immutable, typed, hash-consed nodes. Equal expressions are the same table, so common subexpressions are
-- shared by construction and a rewrite memoizes on identity.
--
-- A node: op, ty, args (nodes), imm (a string or number that is part of its identity), id (creation order),
-- deps (the set of free variables: var node -> true), lane (the width of the lane variable it depends on, or nil).
-- Types: f32, i64 (indices), bool, and the storage types i8, i32, f16 that only lowered code uses.
--
-- Integers are kept in one canonical linear form, Σ coef·atom + const (op "lin"), so that addresses split by variable
-- and `(16·a + lane) // 16` is seen to be `a`.

local E = {}

local current -- the context of the kernel being traced: {nodes = {key -> node}, n = count, limit = bound}

function E.begin(limit)
  current = { nodes = {}, n = 0, limit = limit or 250000, vars = {} }
  return current
end

function E.use(ctx) current = ctx end

local node_mt = {}
E.node_mt = node_mt
E.fail = error -- replaced by the language, which knows the kernel and the line

local function is_node(x) return getmetatable(x) == node_mt end
E.is_node = is_node

local no_deps = {}

-- Operations whose result is the same in every lane although their operands are not.
local unlaned = { hsum = true, hmax = true, extract = true, loop = true }

local function union_deps(args)
  local out, owner
  for i = 1, #args do
    local d = args[i].deps
    if next(d) and d ~= out then
      if not out then
        out = d
      else
        for v in pairs(d) do
          if not out[v] then
            if not owner then
              local copy = {}
              for w in pairs(out) do copy[w] = true end
              out, owner = copy, true
            end
            out[v] = true
          end
        end
      end
    end
  end
  return out or no_deps
end

-- The generic constructor. `binds`: a variable bound by this node (not free in it).
function E.node(op, ty, args, imm, binds)
  local key = { op, ty, tostring(imm), binds and binds.id or "" }
  for i = 1, #args do key[#key + 1] = args[i].id end
  key = table.concat(key, "|")
  local found = current.nodes[key]
  if found then return found end
  current.n = current.n + 1
  if current.n > current.limit then
    E.fail(("the kernel grew past %d expression nodes; is an unroll factor or a loop too large?"):format(current.limit))
  end
  local deps = union_deps(args)
  if binds and deps[binds] then
    local copy = {}
    for v in pairs(deps) do if not rawequal(v, binds) then copy[v] = true end end
    deps = copy
  end
  if unlaned[op] then
    local copy = {}
    for v in pairs(deps) do if v.op ~= "lane" then copy[v] = true end end
    deps = copy
  end
  local lane
  for v in pairs(deps) do
    if v.op == "lane" then
      if lane and lane ~= v.imm then error("two lane widths in one expression: " .. lane .. " and " .. v.imm) end
      lane = v.imm
    end
  end
  local n = setmetatable({ op = op, ty = ty, args = args, imm = imm, binds = binds, id = current.n, deps = deps,
                           lane = lane }, node_mt)
  current.nodes[key] = n
  return n
end
local node = E.node

-- A loop variable. Canonical by (axis, extent, depth): two reductions over the same axis at the same nesting depth share
-- their variable, so that equal reductions are equal nodes. `n`: number of values, or nil when only known at run time.
function E.var(axis, n, depth)
  local v = node("var", "i64", {}, axis .. "#" .. tostring(n) .. "#" .. tostring(depth))
  if v.deps == no_deps then
    v.deps = { [v] = true }
    v.axis, v.count = axis, n
  end
  return v
end

-- The lane variable of a vector of `width` lanes: its value is 0 … width−1 across the lanes.
function E.lane_var(width)
  local v = node("lane", "i64", {}, width)
  if v.deps == no_deps then
    v.deps = { [v] = true }
    v.lane, v.count = width, width
  end
  return v
end

-- A digit of the lane number of `width` lanes: (lane div by) mod n.
function E.lane_digit(width, by, n)
  local v = node("lane", "i64", { E.int(by), E.int(n) }, width)
  if not v.digit then
    v.deps = { [v] = true }
    v.lane, v.count, v.digit = width, n, { by = by, n = n }
  end
  return v
end

-- Constants ---------------------------------------------------------------------------------------------------------

function E.f32(x)
  if x ~= x then return node("const", "f32", {}, "nan") end
  return node("const", "f32", {}, ("%a"):format(x))
end
function E.bool(b) return node("const", "bool", {}, b and 1 or 0) end

-- A value at run time known to the launch: dims[k].
function E.dim(name) return node("dim", "i64", {}, name) end

-- Integers ----------------------------------------------------------------------------------------------------------

local function lin(const, terms) -- terms: atom -> coef
  local atoms = {}
  for a, c in pairs(terms) do if c ~= 0 then atoms[#atoms + 1] = a end end
  if #atoms == 1 and const == 0 and terms[atoms[1]] == 1 then return atoms[1] end
  table.sort(atoms, function(a, b) return a.id < b.id end)
  local imm = { math.tointeger(const) }
  for i, a in ipairs(atoms) do imm[i + 1] = math.tointeger(terms[a]) end
  local n = node("lin", "i64", atoms, table.concat(imm, ","))
  if not n.coefs then
    n.const = imm[1]
    n.coefs = table.move(imm, 2, #imm, 1, {})
  end
  return n
end

local function terms_of(n) -- const, {atom -> coef}
  if n.op == "lin" then
    local t = {}
    for i, a in ipairs(n.args) do t[a] = n.coefs[i] end
    return n.const, t
  end
  return 0, { [n] = 1 }
end
E.terms_of = terms_of

function E.int(x)
  local i = math.tointeger(x)
  if not i then E.fail("an index must be a whole number, got " .. tostring(x)) end
  return lin(i, {})
end

local function int_const(n) return n.op == "lin" and #n.args == 0 and n.const or nil end
E.int_const = int_const

function E.iadd(a, b, sign)
  sign = sign or 1
  local ca, ta = terms_of(a)
  local cb, tb = terms_of(b)
  local t = {}
  for k, v in pairs(ta) do t[k] = v end
  for k, v in pairs(tb) do t[k] = (t[k] or 0) + sign * v end
  return lin(ca + sign * cb, t)
end

-- Products of sums are multiplied out, so that the constants in a stride known at run time stay in sight.
function E.imul(a, b)
  local ca, ta = terms_of(a)
  local cb, tb = terms_of(b)
  local out = {}
  local function put(x, v) out[x] = (out[x] or 0) + v end
  for x, v in pairs(ta) do
    put(x, v * cb)
    for y, w in pairs(tb) do put(node("imul", "i64", x.id < y.id and { x, y } or { y, x }), v * w) end
  end
  for y, w in pairs(tb) do put(y, w * ca) end
  return lin(ca * cb, out)
end

function E.imin(a, b) return node("imin", "i64", { a, b }) end
function E.imax(a, b) return node("imax", "i64", { a, b }) end
function E.idivup(a, n) return node("idivup", "i64", { a }, n) end

-- Inclusive bounds of an integer expression, nil where unknown.
local function bounds(n)
  if n.op == "var" or n.op == "lane" then return 0, n.count and n.count - 1 or nil end
  if n.op == "lin" then
    local lo, hi = n.const, n.const
    for i, a in ipairs(n.args) do
      local l, h = bounds(a)
      local c = n.coefs[i]
      if c < 0 then l, h = h, l end
      lo = lo and l and lo + c * l
      hi = hi and h and hi + c * h
    end
    return lo, hi
  end
  if n.op == "imod" then
    local c = int_const(n.args[2])
    return 0, c and c - 1
  end
  if n.op == "idiv" then
    local c = int_const(n.args[2])
    local l, h = bounds(n.args[1])
    return l and c and l >= 0 and l // c or nil, h and c and h // c
  end
  if n.op == "bounded" then return bounds(n.args[1]), n.imm end
  if n.op == "imin" then
    local la, ha = bounds(n.args[1])
    local lb, hb = bounds(n.args[2])
    return la and lb and math.min(la, lb), ha and hb and math.min(ha, hb) or ha or hb
  end
  if n.op == "dim" then return 0, nil end
  return nil, nil
end
E.bounds = bounds

-- The end of the whole runs of n in [lo, hi) from lo on.
function E.whole(lo, hi, n) return E.iadd(hi, node("imod", "i64", { E.iadd(hi, lo, -1), E.int(n) }), -1) end

-- Splits n into c·q + r with r known to lie in [0, c); nil where that is not known.
local function split(n, c)
  local const, t = terms_of(n)
  local q, r = {}, {}
  for a, k in pairs(t) do if k % c == 0 then q[a] = k // c else r[a] = k end end
  local rc = const % c
  local rest = lin(rc, r)
  local lo, hi = bounds(rest)
  if lo and hi and lo >= 0 and hi < c then return lin((const - rc) // c, q), rest end
  return nil
end

-- The largest divisor g of c for which n = g·q + r with r known to lie in [0, g): n // c is then q // (c/g).
local function coarse(n, c)
  local _, t = terms_of(n)
  local best
  for _, k in pairs(t) do
    local g, r = c, math.abs(k)
    while r ~= 0 do g, r = r, g % r end
    if g > 1 and g < c and (not best or g > best) and split(n, g) then best = g end
  end
  return best
end

-- Floor division and remainder by a positive constant; operands are never negative in kernels.
function E.idiv(a, b)
  local c = int_const(b)
  if not c or c <= 0 then E.fail("// needs a positive constant divisor") end
  if c == 1 then return a end
  local q = split(a, c)
  if q then return q end
  local g = coarse(a, c)
  if g then return E.idiv(split(a, g), E.int(c // g)) end
  return node("idiv", "i64", { a, b })
end

function E.imod(a, b)
  local c = int_const(b)
  if not c or c <= 0 then E.fail("% needs a positive constant divisor") end
  if c == 1 then return E.int(0) end
  local q, r = split(a, c)
  if q then return r end
  local g = coarse(a, c)
  if g then
    local coarse_q, fine = split(a, g)
    return E.iadd(E.imul(E.imod(coarse_q, E.int(c // g)), E.int(g)), fine)
  end
  return node("imod", "i64", { a, b })
end

-- The integer values[k + 1] where the digit of the lane number is k.
function E.pick(digit, values)
  local step, straight = values[2] - values[1], true
  local bits = 0
  for k, v in ipairs(values) do
    straight = straight and v == values[1] + (k - 1) * step
    bits = bits | v - values[1]
  end
  if straight then return E.iadd(E.int(values[1]), E.imul(digit, E.int(step))) end
  local unit, imm = bits & -bits, {}
  for k, v in ipairs(values) do imm[k] = (v - values[1]) // unit end
  local n = node("pick", "i64", { digit }, table.concat(imm, ","))
  n.values = imm
  return E.iadd(E.int(values[1]), E.imul(n, E.int(unit)))
end

-- Floats and the rest -----------------------------------------------------------------------------------------------

local function fconst(n) return n.op == "const" and n.ty == "f32" and tonumber(n.imm) or nil end
E.fconst = fconst

function E.fadd(a, b)
  if fconst(a) == 0 then return b end
  if fconst(b) == 0 then return a end
  return node("fadd", "f32", { a, b })
end
function E.fsub(a, b)
  if fconst(b) == 0 then return a end
  return node("fsub", "f32", { a, b })
end
function E.fmul(a, b)
  if fconst(a) == 1 then return b end
  if fconst(b) == 1 then return a end
  if a.id > b.id then a, b = b, a end
  return node("fmul", "f32", { a, b })
end
function E.fdiv(a, b)
  if fconst(b) == 1 then return a end
  return node("fdiv", "f32", { a, b })
end
function E.fma(a, b, c)
  if fconst(a) == 1 then return E.fadd(c, b) end
  if fconst(b) == 1 then return E.fadd(c, a) end
  return node("fma", "f32", { c, a, b }) -- the addend first: emission follows argument order, the chain comes first
end
function E.un(op, a) return node(op, "f32", { a }) end
function E.fmax(a, b) return node("fmax", "f32", { a, b }) end
function E.fmin(a, b) return node("fmin", "f32", { a, b }) end

function E.select(c, a, b)
  if c.op == "const" then return c.imm == 1 and a or b end
  return node("select", a.ty, { c, a, b })
end

function E.cmp(op, a, b)
  if a.ty == "i64" then
    local la, ha = bounds(a)
    local lb, hb = bounds(b)
    if op == "ilt" then
      if ha and lb and ha < lb then return E.bool(true) end
      if la and hb and la >= hb then return E.bool(false) end
    end
  end
  return node(op, "bool", { a, b })
end

function E.cast(op, ty, a) return node(op, ty, { a }) end

-- Rebuilding --------------------------------------------------------------------------------------------------------

-- Fields of a node, beside its arguments, that a rebuilt node keeps.
local carried = { "array", "monoid", "fields", "base", "storage", "inv", "max_align", "bytes", "fill", "exact" }

local rebuilders = {
  lin = function(n, args)
    local out = E.int(n.const)
    for i, a in ipairs(args) do out = E.iadd(out, E.imul(a, E.int(n.coefs[i]))) end
    return out
  end,
  imul = function(_, a) return E.imul(a[1], a[2]) end,
  idiv = function(_, a) return E.idiv(a[1], a[2]) end,
  imod = function(_, a) return E.imod(a[1], a[2]) end,
  ilt = function(n, a) return E.cmp(n.op, a[1], a[2]) end,
  select = function(_, a) return E.select(a[1], a[2], a[3]) end,
}

-- The same operation over new arguments, simplified again; extra fields that belong to the identity are carried over.
function E.with_args(n, args, binds)
  local f = rebuilders[n.op]
  if f then return f(n, args) end
  local m = node(n.op, n.ty, args, n.imm, binds or n.binds)
  for _, k in ipairs(carried) do
    if m[k] == nil then m[k] = n[k] end
  end
  return m
end

-- Replaces free variables: map is {var -> node}. A binder of a variable that is free in a replacement is renamed first.
local function captured(map, var)
  for _, r in pairs(map) do if r.deps[var] then return true end end
  return false
end

function E.subst(n, map)
  local memo = {}
  local function go(x)
    local hit = memo[x]
    if hit then return hit end
    local touched = false
    for v in pairs(map) do if x.deps[v] then touched = true break end end
    local out = x
    if touched then
      if map[x] then
        out = map[x]
      else
        local binds = x.binds
        if binds and captured(map, binds) then
          binds = E.var(binds.axis, binds.count, x.id .. "'")
          local renamed = {}
          for i, a in ipairs(x.args) do renamed[i] = E.subst(a, { [x.binds] = binds }) end
          x = E.with_args(x, renamed, binds)
        end
        local inner = map
        if binds and map[binds] then -- shadowed: the binder's own variable is not the one replaced
          inner = {}
          for v, r in pairs(map) do if not rawequal(v, binds) then inner[v] = r end end
        end
        local args = {}
        for i, a in ipairs(x.args) do
          if rawequal(inner, map) then args[i] = go(a) else args[i] = E.subst(a, inner) end
        end
        out = E.with_args(x, args)
      end
    end
    memo[x] = out
    return out
  end
  return go(n)
end

-- Rewrites bottom-up: f(node with rewritten args) -> node or nil (unchanged).
function E.rewrite(n, f, memo)
  memo = memo or {}
  local function go(x)
    local hit = memo[x]
    if hit then return hit end
    local args, changed = {}, false
    for i, a in ipairs(x.args) do
      args[i] = go(a)
      changed = changed or not rawequal(args[i], a)
    end
    local y = changed and E.with_args(x, args) or x
    y = f(y, x) or y
    memo[x] = y
    return y
  end
  return go(n)
end

return E
