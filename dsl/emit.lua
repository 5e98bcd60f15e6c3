-- Emission: lowered expressions to flat IR text (docs/ir.md).
--
-- Placement is by dependence: a value is written in the outermost scope that binds everything it depends on, so loop
-- invariants leave their loops by construction. Lists of values are emitted in step: operand by operand across the whole
-- list, so that the instances of an unrolled loop share loads and their chains interleave; loops that meet at the same
-- place over the same range become one loop with several carries.

local E = require "dsl.expr"

local M = {}
M.__index = M

-- vregs: vector registers of the machine; strided: lanes need not be neighbours in memory. in_step, where set: how many sums
-- are continued together.
function M.new(vregs, strided)
  return setmetatable({ out = {}, next_id = 0, max_carries = vregs // 2, max_mats = strided and 1 or math.max(1, vregs // 8),
                       strided = strided }, M)
end

local function name(self)
  self.next_id = self.next_id + 1
  return "%" .. self.next_id
end

local function push_scope(self, binds)
  local parent = self.scope
  self.scope = { parent = parent, binds = binds, memo = {}, lines = {}, depth = parent and parent.depth + 1 or 1 }
  return self.scope
end

local function line(scope, fmt, ...) scope.lines[#scope.lines + 1] = fmt:format(...) end

local function splice(into, scope)
  for _, l in ipairs(scope.lines) do into.lines[#into.lines + 1] = "  " .. l end
end

local function place(self, n)
  local s = self.scope
  while s.parent do
    for v in pairs(s.binds) do if n.deps[v] then return s end end
    s = s.parent
  end
  return s
end

local function at_scope(self, scope, f)
  local saved = self.scope
  self.scope = scope
  f()
  self.scope = saved
end

-- IR type of a node's value; index expressions become i32 in lanes.
local function ir_type(n)
  local ty = n.ty
  if ty == "bool" then ty = "i1" end
  if n.lane then
    if ty == "i64" then ty = "i32" end
    return ty .. "x" .. n.lane
  end
  return ty
end
M.ir_type = ir_type

local function memo_get(self, n)
  local s = place(self, n)
  return s.memo[n], s
end

local function def(self, scope, ty, fmt, ...)
  local v = name(self)
  scope.lines[#scope.lines + 1] = v .. ":" .. ty .. " = " .. fmt:format(...)
  return v
end

local function const_text(n)
  if n.ty == "f32" then return n.imm end
  return tostring(n.imm)
end

-- The value of n as an operand for a consumer with `lanes` lanes (nil: scalar).
local function operand(self, n, lanes)
  local v, s = memo_get(self, n)
  if not v then error("internal: operand not emitted: " .. n.op) end
  if not lanes or n.lane then return v end
  local key = n.id .. ":" .. lanes
  local hit = s.memo[key]
  if hit then return hit end
  local ty = n.ty == "bool" and "i1" or n.ty
  if n.op == "const" then
    hit = def(self, s, ty .. "x" .. lanes, "const %s", const_text(n))
  else
    if ty == "i64" then
      v = def(self, s, "i32", "trunc %s", v)
      ty = "i32"
    end
    hit = def(self, s, ty .. "x" .. lanes, "splat %s", v)
  end
  s.memo[key] = hit
  return hit
end

local function low_bit(x) return x == 0 and 64 or math.min(64, x & -x) end

local function has_digit(n)
  for v in pairs(n.deps) do if v.digit then return true end end
  return false
end

-- Splits an address into constant, scalar part, the lane's coefficient, what it is a multiple of, and, where digits of the
-- lane number occur, the lanes' own offsets.
local function address(off)
  local const, terms = E.terms_of(off)
  local rest, lane, align, own = E.int(0), 0, low_bit(const), nil
  for a, c in pairs(terms) do
    if a.op == "lane" and not a.digit then
      lane = c
    else
      if a.lane and not has_digit(a) then return nil end
      if a.lane then
        own = E.iadd(own or E.int(0), E.imul(a, E.int(c)))
      else
        rest = E.iadd(rest, E.imul(a, E.int(c)))
      end
      align = math.min(align, low_bit(c))
    end
  end
  return const, rest, lane, align, own
end
M.address = address

local sizes = { f32 = 4, f16 = 2, i8 = 1, i16 = 2, i32 = 4, i64 = 8, bf16 = 2 }
M.sizes = sizes

local binary_ops = { fadd = "fadd", fsub = "fsub", fmul = "fmul", fdiv = "fdiv", fmax = "fmax", fmin = "fmin",
  iand = "and", ior = "or", ixor = "xor", ishl = "shl", ilshr = "lshr", iashr = "ashr", iadd32 = "add", imul32 = "mul",
  imin32 = "smin", imax32 = "smax", band = "and", bor = "or" }
local compare_ops = { ilt = "ilt", ile = "ile", ieq = "ieq", flt = "flt", fle = "fle", feq = "feq" }
local unary_ops = { fneg = "fneg", fabs = "fabs", fsqrt = "fsqrt", frint = "frint", fpext = "fpext", fptrunc = "fptrunc",
  sitofp = "sitofp", fptosi = "fptosi", zext = "zext", sext = "sext", trunc = "trunc", bitcast = "bitcast", tobf = "tobf" }

-- Which operands must be emitted first.
local function operands_of(n)
  if n.op == "lane" then return {} end
  if n.op == "ld" or n.op == "sld" then
    local _, rest, _, _, own = address(n.op == "ld" and n.args[1] or n.args[2])
    if not rest then error({ kernel_error = "array '" .. tostring(n.imm):match("^[^|]*") ..
      "' is not contiguous along the lanes here; change the map or the layout", lanes = true }) end
    if n.op == "sld" then return { n.args[1], rest } end
    return { rest, own }
  end
  if n.op == "lin" and n.lane then
    local _, rest, _, _, own = address(n)
    if rest and not own then return { rest } end
    return n.args
  end
  if n.op == "lin" and #n.args > 1 then return {} end
  return n.args
end

local emit_op = {}

function emit_op.const(self, s, n) return def(self, s, n.ty == "bool" and "i1" or n.ty, "const %s", const_text(n)) end
function emit_op.dim(self, s, n) return def(self, s, "i64", "dim %d", self.dim_index[n.imm]) end
function emit_op.lane(self, s, n)
  local ty = "i32x" .. n.imm
  local v = def(self, s, ty, "iota")
  local d = n.digit
  if d and d.by > 1 then v = def(self, s, ty, "udiv %s, %s", v, def(self, s, ty, "const %d", d.by)) end
  if d and d.by * d.n < n.imm then v = def(self, s, ty, "urem %s, %s", v, def(self, s, ty, "const %d", d.n)) end
  return v
end

function emit_op.pick(self, s, n)
  local digit = n.args[1]
  local ty = "i32x" .. n.lane
  local v = def(self, s, ty, "const %d", n.values[1])
  for k = 2, #n.values do
    local here = def(self, s, "i1x" .. n.lane, "ieq %s, %s", operand(self, digit), def(self, s, ty, "const %d", k - 1))
    v = def(self, s, ty, "select %s, %s, %s", here, def(self, s, ty, "const %d", n.values[k]), v)
  end
  return v
end

function emit_op.lin(self, s, n)
  if n.lane then
    local const, rest, coef, _, own = address(n)
    if const and not own then
      local base = def(self, s, "i32", "trunc %s", operand(self, rest))
      local L = "i32x" .. n.lane
      local v = def(self, s, L, "splat %s", base)
      local io = def(self, s, L, "iota")
      if coef ~= 1 then io = def(self, s, L, "mul %s, %s", io, def(self, s, L, "const %d", coef)) end
      v = def(self, s, L, "add %s, %s", v, io)
      if const ~= 0 then v = def(self, s, L, "add %s, %s", v, def(self, s, L, "const %d", const)) end
      return v
    end
    local L = "i32x" .. n.lane
    local v = def(self, s, L, "const %d", n.const)
    for i, a in ipairs(n.args) do
      local t = operand(self, a, n.lane)
      if n.coefs[i] ~= 1 then t = def(self, s, L, "mul %s, %s", t, def(self, s, L, "const %d", n.coefs[i])) end
      v = def(self, s, L, "add %s, %s", v, t)
    end
    return v
  end
  if #n.args == 0 then return def(self, s, "i64", "const %d", n.const) end
  -- The term bound innermost is added last, so that the others leave its loop.
  local inner, depth = 1, -1
  for i, a in ipairs(n.args) do
    local d = place(self, a).depth
    if d > depth then inner, depth = i, d end
  end
  local rest = E.int(n.const)
  for i, a in ipairs(n.args) do
    if i ~= inner then rest = E.iadd(rest, E.imul(a, E.int(n.coefs[i]))) end
  end
  local a = n.args[inner]
  self:values { a }
  local t = operand(self, a)
  if n.coefs[inner] ~= 1 then
    local k = E.int(n.coefs[inner])
    self:values { k }
    t = def(self, s, "i64", "mul %s, %s", t, operand(self, k))
  end
  if E.int_const(rest) == 0 then return t end
  self:values { rest }
  return def(self, s, "i64", "add %s, %s", operand(self, rest), t)
end

function emit_op.imul(self, s, n)
  return def(self, s, ir_type(n), "mul %s, %s", operand(self, n.args[1], n.lane), operand(self, n.args[2], n.lane))
end
function emit_op.idiv(self, s, n)
  return def(self, s, ir_type(n), "udiv %s, %s", operand(self, n.args[1], n.lane), operand(self, n.args[2], n.lane))
end
function emit_op.imod(self, s, n)
  return def(self, s, ir_type(n), "urem %s, %s", operand(self, n.args[1], n.lane), operand(self, n.args[2], n.lane))
end
function emit_op.imin(self, s, n)
  return def(self, s, ir_type(n), "smin %s, %s", operand(self, n.args[1], n.lane), operand(self, n.args[2], n.lane))
end
function emit_op.imax(self, s, n)
  return def(self, s, ir_type(n), "smax %s, %s", operand(self, n.args[1], n.lane), operand(self, n.args[2], n.lane))
end

function emit_op.idivup(self, s, n)
  local x = def(self, s, "i64", "add %s, %s", operand(self, n.args[1]), def(self, s, "i64", "const %d", n.imm - 1))
  return def(self, s, "i64", "udiv %s, %s", x, def(self, s, "i64", "const %d", n.imm))
end

function emit_op.itof(self, s, n)
  local v = operand(self, n.args[1])
  if not n.lane then v = def(self, s, "i32", "trunc %s", v) end
  return def(self, s, ir_type(n), "sitofp %s", v)
end

function emit_op.fma(self, s, n)
  local L = n.lane
  return def(self, s, ir_type(n), "fma %s, %s, %s", operand(self, n.args[2], L), operand(self, n.args[3], L),
    operand(self, n.args[1], L))
end

function emit_op.select(self, s, n)
  local c = n.args[1]
  return def(self, s, ir_type(n), "select %s, %s, %s", operand(self, c, c.lane), operand(self, n.args[2], n.lane),
    operand(self, n.args[3], n.lane))
end

function emit_op.dot4(self, s, n)
  local L = n.lane
  return def(self, s, ir_type(n), "dot4 %s, %s, %s umax=%d", operand(self, n.args[1], L), operand(self, n.args[2], L),
    operand(self, n.args[3], L), n.imm)
end

local function dot_of_pairs(self, s, n)
  local L = n.lane
  return def(self, s, ir_type(n), "%s %s, %s, %s", n.op, operand(self, n.args[1], L), operand(self, n.args[2], L),
    operand(self, n.args[3], L))
end
emit_op.dot2, emit_op.dotbf = dot_of_pairs, dot_of_pairs

-- A product of tiles: four registers of accumulators, then those of A and of B, each joined to one operand.
function emit_op.mma(self, s, n)
  local function join(first, last, ty)
    local parts, lanes = {}, 32
    for k = first, last do parts[#parts + 1] = operand(self, n.args[k], lanes) end
    while #parts > 1 do
      local pairs_of = {}
      lanes = 2 * lanes
      for k = 1, #parts, 2 do
        pairs_of[#pairs_of + 1] = def(self, s, ty .. "x" .. lanes, "concat %s, %s", parts[k], parts[k + 1])
      end
      parts = pairs_of
    end
    return parts[1]
  end
  local n_a = (#n.args - 4) // 3 * 2
  return def(self, s, n.ty .. "x128", "mma %s, %s, %s %s", join(1, 4, n.ty), join(5, 4 + n_a, "i32"),
    join(5 + n_a, #n.args, "i32"), n.imm)
end

-- An index in lanes, which is an i32 there already, among 32-bit values.
function emit_op.lane32(self, _, n) return operand(self, n.args[1]) end

function emit_op.register(self, s, n)
  return def(self, s, ir_type(n), "slice %s, %d", operand(self, n.args[1]), 32 * n.imm)
end

function emit_op.ld(self, s, n)
  local off = n.args[1]
  local const, rest, lane, align, own = address(off)
  local ty, size = n.storage, sizes[n.storage]
  if own then
    return def(self, s, ty .. "x" .. n.lane, "gather %s, %s, %s, %d align %d%s", self.base(n.base, n),
      operand(self, rest), operand(self, own), const, math.max(1, math.min(align, n.max_align or 64)), n.inv and " inv" or "")
  end
  local stride = ""
  if n.lane then
    if lane ~= size then
      if not self.strided or lane < size then error({ kernel_error = "array '" .. tostring(n.imm):match("^[^|]*") ..
        "' is not contiguous along the lanes here; change the map or the layout", lanes = true }) end
      stride = " stride " .. lane
    end
    ty = ty .. "x" .. n.lane
  end
  local v = def(self, s, ty, "load %s, %s, %d align %d%s%s", self.base(n.base, n), operand(self, rest), const,
    math.max(1, math.min(align, n.max_align or 64)), stride, n.inv and " inv" or "")
  if n.ty == "i64" and n.storage == "i32" and not n.lane then v = def(self, s, "i64", "sext %s", v) end
  return v
end

-- Bytes on the function's stack that `scope`'s function keeps for one value.
local function own_memory(self, s, bytes)
  local root = s
  while root.parent do root = root.parent end
  return def(self, root, "ptr", "stack %d align 64", bytes)
end

-- Memory on the stack of the function that is open, as a base of loads and stores.
function M:scratch(bytes)
  local p = own_memory(self, self.root, bytes)
  local name_of = "scratch " .. p
  self.own[name_of] = p
  return name_of
end

-- A panel of unpacked weights (dsl/panel.lua, dsl/passes.lua), filled where it is needed first; the value is the pointer.
function emit_op.panel(self, s, n)
  local p = own_memory(self, s, n.bytes)
  local name_of = "panel " .. p
  self.own[name_of] = p
  at_scope(self, s, function() n.fill(name_of) end)
  return p
end

-- Asks for the cache line of an address that will be read later.
function M:prefetch(base, off)
  local const, rest = address(off)
  self:values { rest }
  line(self.scope, "prefetch %s, %s, %d align 1", self.base(base), operand(self, rest), const)
end

-- A product of tiles in memory; the value is the pointer to C.
function emit_op.tiledot(self, s, n)
  local c, zero = own_memory(self, s, 1024), E.int(0)
  self:values { zero }
  line(s, "tiledot %s, %s, %s, %s, %s, %s %s", c, operand(self, zero), self.base("ws"), operand(self, n.args[2]),
    operand(self, n.args[1]), operand(self, n.args[3]), n.imm)
  return c
end

-- Loads from a vector in the function's own stack memory.
function emit_op.sld(self, s, n)
  local const, rest, lane, align = address(n.args[2])
  local ty = ir_type(n)
  if n.lane and lane ~= sizes[n.ty] then error({ kernel_error = "a vec() value is not read along the lanes here" }) end
  return def(self, s, ty, "load %s, %s, %d align %d", operand(self, n.args[1]), operand(self, rest), const, align)
end

-- A materialized vector: its lane vectors, stored to stack memory; the value is the pointer.
function emit_op.mat(self, s, n)
  local bytes, size = 0, sizes[n.storage]
  for _, v in ipairs(n.args) do bytes = bytes + size * (v.lane or n.imm) end
  local p = own_memory(self, s, bytes)
  local zero = E.int(0)
  self:values { zero }
  local at = 0
  for _, v in ipairs(n.args) do
    line(s, "store %s, %s, %s, %d align %d", operand(self, v, n.imm ~= 1 and n.imm or nil), p, operand(self, zero), at,
      low_bit(at))
    at = at + size * (v.lane or n.imm)
  end
  return p
end

function emit_op.hsum(self, s, n) return def(self, s, n.ty, "hsum %s", operand(self, n.args[1], n.imm)) end
function emit_op.hmax(self, s, n) return def(self, s, n.ty, "hmax %s", operand(self, n.args[1], n.imm)) end
function emit_op.pair(self, s, n)
  return def(self, s, ir_type(n), "pair_%s %s, %s", n.imm, operand(self, n.args[1], n.lane), operand(self, n.args[2], n.lane))
end
function emit_op.shuffle(self, s, n)
  return def(self, s, ir_type(n), "shuffle %s, %s", operand(self, n.args[1]), n.imm)
end
function emit_op.extract(self, s, n)
  local a = n.args[1]
  local v = def(self, s, a.ty == "i64" and "i32" or a.ty, "extract %s, %d", operand(self, a), n.imm)
  if a.ty == "i64" then v = def(self, s, "i64", "sext %s", v) end
  return v
end
function emit_op.res(self, _, n)
  local group = memo_get(self, n.args[1])
  return group[n.imm]
end

local streams

local function emit_one(self, n)
  local s = place(self, n)
  if s.memo[n] then return end
  local f = emit_op[n.op]
  local v
  if f then
    v = f(self, s, n)
  elseif binary_ops[n.op] then
    v = def(self, s, ir_type(n), "%s %s, %s", binary_ops[n.op], operand(self, n.args[1], n.lane),
      operand(self, n.args[2], n.lane))
  elseif compare_ops[n.op] then
    v = def(self, s, ir_type(n), "%s %s, %s", compare_ops[n.op], operand(self, n.args[1], n.lane),
      operand(self, n.args[2], n.lane))
  elseif unary_ops[n.op] then
    v = def(self, s, ir_type(n), "%s %s", unary_ops[n.op], operand(self, n.args[1], n.lane))
  else
    error("internal: no emission for " .. n.op)
  end
  s.memo[n] = v
end

-- What the trips of a loop read in lanes: the arrays, and the loads themselves. Loops over different arrays gain nothing from
-- being one (they share no loads, and their accumulators together do not fit the registers). What was read before the loop,
-- such as the query whose weights a sum of values takes, is not among it.
function streams(loop)
  if loop.streams then return loop.streams, loop.loads end
  local seen, set, ids = {}, {}, {}
  local function of_trip(n)
    if n.deps[loop.binds] then return true end
    for _, c in ipairs(loop.carries) do if n.deps[c] then return true end end
    return false
  end
  local function go(n)
    if seen[n] or not of_trip(n) then return end
    seen[n] = true
    if n.op == "ld" and n.lane then
      set[n.base] = true
      ids[#ids + 1] = n.id
    end
    for _, a in ipairs(n.args) do go(a) end
  end
  for k = 3, 2 + 2 * loop.n_carry do go(loop.args[k]) end
  local names = {}
  for base in pairs(set) do names[#names + 1] = base end
  table.sort(names)
  table.sort(ids)
  loop.streams, loop.loads = table.concat(names, ","), table.concat(ids, ",")
  return loop.streams, loop.loads
end

-- Does a loop run a loop in each of its trips?
local function has_inner(loop)
  if loop.inner == nil then
    local seen = {}
    local function go(n)
      if seen[n] then return false end
      seen[n] = true
      if n.op == "loop" and n.deps[loop.binds] then return true end
      for _, a in ipairs(n.args) do if go(a) then return true end end
      return false
    end
    loop.inner = false
    for k = 3 + loop.n_carry, 2 + 2 * loop.n_carry do loop.inner = loop.inner or go(loop.args[k]) end
  end
  return loop.inner
end

-- Cuts a list of loops into runs whose carries fit half of the registers, keeping together those that share all loads. Around
-- other loops a processor's carries are in memory most of the time: there it matters more that the inner ones share loads.
local function batches(self, loops)
  if not self.strided and has_inner(loops[1]) then return { loops } end
  local by_loads, order = {}, {}
  for _, l in ipairs(loops) do
    local _, loads = streams(l)
    if not by_loads[loads] then
      by_loads[loads] = {}
      order[#order + 1] = loads
    end
    table.insert(by_loads[loads], l)
  end
  local out, carries = { {} }, 0
  for _, loads in ipairs(order) do
    local n = #by_loads[loads] * by_loads[loads][1].n_carry
    if carries > 0 and carries + n > self.max_carries then
      out[#out + 1] = {}
      carries = 0
    end
    carries = carries + n
    for _, l in ipairs(by_loads[loads]) do table.insert(out[#out], l) end
  end
  return out
end

-- The merge of a split loop: the states of two parts, all lower ones before all upper ones, become one.
local function emit_merge(self, loops)
  local s, binds, names, merged = self.scope, {}, {}, {}
  self.team = true
  for _, side in ipairs { "lower", "upper" } do
    for _, l in ipairs(loops) do
      for _, c in ipairs(l.split[side]) do
        names[#names + 1] = name(self)
        binds[c] = names[#names]
      end
    end
  end
  local set = {}
  for c in pairs(binds) do set[c] = true end
  local scope = push_scope(self, set)
  for c, v in pairs(binds) do scope.memo[c] = v end
  for _, l in ipairs(loops) do table.move(l.args, 3 + 2 * l.n_carry, 2 + 3 * l.n_carry, #merged + 1, merged) end
  self:values(merged)
  local yields, k = {}, 0
  for _, l in ipairs(loops) do
    for _, c in ipairs(l.carries) do
      k = k + 1
      yields[k] = operand(self, merged[k], c.lane)
    end
  end
  line(scope, "yield %s", table.concat(yields, ", "))
  self.scope = s
  line(s, "merge %s", table.concat(names, ", "))
  splice(s, scope)
end

-- The activations of a trip of a staged loop on their way into the memory a team shares; `rows` of them there are.
local function emit_copies(self, s, trip, rows)
  for run = 0, s.runs - 1 do
    local to = E.iadd(E.imul(E.imod(trip, E.int(s.stages)), E.int(s.bytes)), E.int(run * s.run_bytes))
    local from = E.iadd(s.from, E.imul(E.iadd(E.imul(trip, E.int(s.runs)), E.int(run)), E.int(s.row_bytes)))
    self:values { to, from, rows }
    line(self.scope, "copy %s, %s, %s, %s, %s, %d rows %d stride %d", self.base(s.base), operand(self, to), self.base("ws"),
      operand(self, from), operand(self, rows), s.tokens, s.row_bytes, s.stride)
  end
end

-- Before a trip: its own copies have arrived, and those of the trip as many ahead as there are stages but one start, into
-- the memory that the trip before has read.
local function emit_stage(self, s, trip)
  line(self.scope, "wait %d", (s.stages - 2) * s.runs)
  local ahead = E.iadd(trip, E.int(s.stages - 1))
  emit_copies(self, s, ahead, E.select(E.cmp("ilt", ahead, E.int(s.trips)), s.rows, E.int(0)))
end

-- Loops with equal ranges in one place: one IR loop.
local function emit_loops(self, loops)
  local first = loops[1]
  local s = place(self, first)
  at_scope(self, s, function()
    local lo, hi = first.args[1], first.args[2]
    self:values { lo, hi }
    local width = first.n_carry
    for i = 1, width do
      local inits = {}
      for j, l in ipairs(loops) do inits[j] = l.args[2 + i] end
      self:values(inits)
    end
    local early, seen = {}, {} -- what the loops carry of their next trip's loads
    for _, l in ipairs(loops) do
      for _, e in ipairs(l.early) do
        if not seen[e.carry] then
          seen[e.carry] = true
          self:values { e.init }
          early[#early + 1] = e
        end
      end
    end
    local staged = first.staged
    for trip = 0, staged and staged.stages - 2 or -1 do
      emit_copies(self, staged, E.int(trip), trip < staged.trips and staged.rows or E.int(0))
    end
    local binds = { [first.binds] = true }
    local iv = name(self)
    local carries, header = {}, {}
    for _, l in ipairs(loops) do
      for i = 1, width do
        local c = l.carries[i]
        binds[c] = true
        local v = name(self)
        carries[c] = v
        header[#header + 1] = ("%s:%s = %s"):format(v, ir_type(c), operand(self, l.args[2 + i], c.lane))
      end
    end
    for _, e in ipairs(early) do
      binds[e.carry], carries[e.carry] = true, name(self)
      header[#header + 1] = ("%s:%s = %s"):format(carries[e.carry], ir_type(e.carry), operand(self, e.init, e.carry.lane))
    end
    local body = push_scope(self, binds)
    body.memo[first.binds] = iv
    for c, v in pairs(carries) do body.memo[c] = v end
    for _, e in ipairs(early) do self:values { e.next } end
    if staged then emit_stage(self, staged, first.binds) end
    local all = {}
    for _, l in ipairs(loops) do table.move(l.args, 3 + width, 2 + 2 * width, #all + 1, all) end
    self:force(all)
    for i = 1, width do
      local nexts = {}
      for j, l in ipairs(loops) do nexts[j] = l.args[2 + width + i] end
      self:values(nexts)
    end
    local yields = {}
    for _, l in ipairs(loops) do
      for i = 1, width do
        yields[#yields + 1] = operand(self, l.args[2 + width + i], l.carries[i].lane)
      end
    end
    for _, e in ipairs(early) do yields[#yields + 1] = operand(self, e.next, e.carry.lane) end
    line(body, "yield %s", table.concat(yields, ", "))
    self.scope = s
    line(s, "for %s = %s to %s step 1%s carry %s", iv, operand(self, lo), operand(self, hi),
      first.split and " split " .. first.split.parts or "", table.concat(header, ", "))
    splice(s, body)
    if first.split then emit_merge(self, loops) end
    local results = {}
    for _, l in ipairs(loops) do
      local mine = {}
      for i = 1, width do
        mine[i] = name(self)
        results[#results + 1] = mine[i]
      end
      s.memo[l] = mine
    end
    for _ = 1, #early do results[#results + 1] = name(self) end
    line(s, "end -> %s", table.concat(results, ", "))
    if staged then line(s, "wait 0") end
  end)
end

-- Emits the loops that the roots need and that can stand in this scope, joining those of one range that do not wait for
-- each other. Without this, loops under different operands of one operation would follow each other.
function M:force(roots)
  local level, found, count = {}, {}, 0
  local function visit(n)
    if level[n] then return level[n] end
    level[n] = 0
    local top = 0
    for _, a in ipairs(n.args) do top = math.max(top, visit(a)) end
    if n.op == "loop" then
      top = top + 1
      found[top] = found[top] or {}
      table.insert(found[top], n)
      count = count + 1
    end
    level[n] = top
    return top
  end
  for _, r in ipairs(roots) do visit(r) end
  if count < 2 then return end
  local depth = 0
  for d in pairs(found) do depth = math.max(depth, d) end
  for d = 1, depth do
    local ready = {}
    for _, n in ipairs(found[d] or {}) do
      local open = true
      for v in pairs(n.deps) do open = open and (v.op == "lane" or v.op == "dim" or self:bound(v)) end
      if open then ready[#ready + 1] = n end
    end
    self:values(ready)
  end
end

-- Whether a variable has a value in this scope.
function M:bound(v)
  local s = self.scope
  while s do
    if s.binds[v] then return true end
    s = s.parent
  end
  return false
end

-- Emits every node of the list (and what it needs), in step. A node may name others to come with it (`together`): what they
-- read in steps is then read once.
function M:values(list)
  local pending, seen = {}, {}
  local function add(n)
    if seen[n] or memo_get(self, n) then return end
    seen[n] = true
    pending[#pending + 1] = n
    for _, m in ipairs(n.together or {}) do add(m) end
  end
  for _, n in ipairs(list) do add(n) end
  if #pending == 0 then return end
  -- Same operation and operand count: in step; otherwise group by group, in order of appearance.
  local groups, index = {}, {}
  for _, n in ipairs(pending) do
    local key = n.op .. #n.args
    if n.op == "loop" then
      key = ("loop%d,%d,%d,%d,%d,%s"):format(n.binds.id, n.args[1].id, n.args[2].id, n.n_carry,
        n.split and n.split.parts or 0, (streams(n)))
    end
    if not index[key] then
      groups[#groups + 1] = {}
      index[key] = #groups
    end
    table.insert(groups[index[key]], n)
  end
  for _, g in ipairs(groups) do
    if g[1].op == "loop" then
      local by_place, order = {}, {}
      for _, n in ipairs(g) do
        local s = place(self, n)
        if not by_place[s] then
          by_place[s] = {}
          order[#order + 1] = s
        end
        table.insert(by_place[s], n)
      end
      for _, s in ipairs(order) do
        for _, run in ipairs(batches(self, by_place[s])) do emit_loops(self, run) end
      end
    else
      local ops, width = {}, 0
      for j, n in ipairs(g) do
        ops[j] = operands_of(n)
        width = math.max(width, #ops[j])
      end
      if g[1].op == "mat" then
        for from = 1, #g, self.max_mats do -- of a few at a time, so that their chains interleave and registers suffice
          local parts, to = {}, math.min(from + self.max_mats - 1, #g)
          for j = from, to do table.move(ops[j], 1, #ops[j], #parts + 1, parts) end
          self:values(parts)
          for j = from, to do emit_one(self, g[j]) end
        end
      else
        local function columns(first, last, from, to)
          for i = first, last do
            local column = {}
            for j = from, to do column[#column + 1] = ops[j][i] end
            self:values(column)
          end
        end
        -- Of a sum's next steps, what was added so far is computed for all, the rest a few at a time.
        local few = g[1].op == "fma" and self.in_step or #g
        if few < #g then columns(1, 1, 1, #g) end
        for from = 1, #g, few do
          local to = math.min(from + few - 1, #g)
          columns(1, width, from, to)
          if to < #g then for j = from, to do emit_one(self, g[j]) end end
        end
      end
      for _, n in ipairs(g) do emit_one(self, n) end
    end
  end
end

-- A loop over [lo, hi) in steps, without carries; body(var value) emits stores. split: the parts it is shared among, or nil.
function M:each(var, lo, hi, step, body, split)
  self:values { lo, hi }
  local s = self.scope
  local lo_v, hi_v = operand(self, lo), operand(self, hi)
  local iv = name(self)
  local scope = push_scope(self, { [var] = true })
  scope.memo[var] = iv
  body()
  self.scope = s
  self.team = self.team or split ~= nil
  line(s, "for %s = %s to %s step %d%s", iv, lo_v, hi_v, step, split and " split " .. split or "")
  splice(s, scope)
  line(s, "end")
end

-- stores: list of {base = array, off = node, value = node, storage = type, mask = node or nil}
function M:stores(list)
  local vals, offs = {}, {}
  for i, st in ipairs(list) do
    vals[i] = st.value
    local _, rest, _, _, own = address(st.off)
    if not rest then
      error({ kernel_error = "a store is not contiguous along the lanes; change the map", lanes = true })
    end
    offs[#offs + 1] = rest
    offs[#offs + 1] = own
    if st.mask then offs[#offs + 1] = st.mask end
  end
  self:force(vals)
  self:values(vals)
  self:values(offs)
  for _, st in ipairs(list) do
    local const, rest, lane, align, own = address(st.off)
    local width = st.lanes or st.value.lane
    local ty = st.storage
    local stride = ""
    if width and not own and lane > sizes[ty] and self.strided then
      stride = " stride " .. lane
    elseif width and not own and lane ~= sizes[ty] then
      error({ kernel_error = "a store to '" .. tostring(st.name) .. "' is not contiguous along the lanes; change the map",
        lanes = true })
    end
    local v = operand(self, st.value, width)
    local s = self.scope
    local vty = ty .. (width and "x" .. width or "")
    local from = st.value.ty
    if ty == "bf16" then
      ty = "i16"
      vty = ty .. (width and "x" .. width or "")
      v = def(self, s, vty, "tobf %s", v)
    end
    if ty == "f16" and from == "f32" then v = def(self, s, vty, "fptrunc %s", v) end
    if ty == "i32" and from == "i64" and not width then v = def(self, s, vty, "trunc %s", v) end
    if (ty == "i8" or ty == "i16") and from == "i32" then v = def(self, s, vty, "trunc %s", v) end
    align = math.min(align, st.max_align or 64)
    if own then
      line(s, "scatter %s, %s, %s, %s, %s, %d align %d", v, operand(self, st.mask, width), self.base(st.base),
        operand(self, rest), operand(self, own), const, align)
    elseif st.mask then
      line(s, "storem %s, %s, %s, %s, %d align %d%s", v, operand(self, st.mask, width), self.base(st.base),
        operand(self, rest), const, align, stride)
    else
      line(s, "store %s, %s, %s, %d align %d%s", v, self.base(st.base), operand(self, rest), const, align, stride)
    end
  end
end

-- Opens a function; bases are pointers named by what they address.
-- unwritten: set of arguments that no launch writes; nil: none is known.
function M:func(fname, dim_index, arg_index, unwritten)
  self.next_id = 0
  self.team, self.shared, self.own = false, {}, {} -- shared: name -> bytes; own: name -> pointer to stack memory
  self.scope = nil
  local root = push_scope(self, {})
  self.root = root
  self.dim_index = dim_index
  local bases = {}
  self.base = function(id)
    if self.own[id] then return self.own[id] end
    if not bases[id] then
      if id == "ws" then
        bases[id] = def(self, root, "ptr", "ws")
      elseif self.shared[id] then
        bases[id] = def(self, root, "ptr", "shared %d align 64", self.shared[id])
      else
        bases[id] = def(self, root, "ptr", "arg %d%s", arg_index[id] or error("internal: no argument " .. tostring(id)),
          unwritten and unwritten[id] and " inv" or "")
      end
    end
    return bases[id]
  end
  self.range = { E.node("begin", "i64", {}), E.node("finish", "i64", {}) }
  self.fname = fname
  return self.range[1], self.range[2]
end

function emit_op.begin(self, s) return def(self, s, "i64", "begin") end
function emit_op.finish(self, s) return def(self, s, "i64", "end") end

function M:close()
  self.out[#self.out + 1] = "func @" .. self.fname
  for _, l in ipairs(self.root.lines) do self.out[#self.out + 1] = "  " .. l end
  self.out[#self.out + 1] = "end"
end

-- Takes back the last n functions.
function M:drop(n)
  for _ = 1, n do
    local from = #self.out
    while not self.out[from]:match("^func @") do from = from - 1 end
    for k = #self.out, from, -1 do self.out[k] = nil end
  end
end

function M:text() return "kgen-ir 1\n" .. table.concat(self.out, "\n") .. "\n" end

return M
