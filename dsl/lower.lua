-- Lowering: a traced kernel under its map becomes functions of flat IR.
--
-- A launch is a list of phases, a phase a list of parts that may run at the same time, a part one function over a range
-- of tasks. Phases are separated by a barrier. A cast to an activation format (`as`) and an internal array that is not
-- inlined are computed in phases of their own, into the launch's workspace.

local E = require "dsl.expr"
local L = require "dsl.language"
local access = require "dsl.access"
local reduce = require "dsl.reduce"
local formats = require "dsl.formats"
local emit = require "dsl.emit"
local pairs_of = require "dsl.pairs"
local tiles = require "dsl.tile"
local panels = require "dsl.panel"
local passes = require "dsl.passes"
local sums = require "dsl.sums"
local split_folds = require "dsl.split_fold"
local tile_folds = require "dsl.tile_fold"

local M = {}

local add, mul = E.iadd, E.imul
local function i(x) return E.int(x) end

local X = {}
X.__index = X

-- Elementary functions --------------------------------------------------------------------------------------------

local function f(x) return E.f32(x) end

-- exp(x): x = n·ln2 + r, |r| <= ln2/2, a polynomial in r, then n added to the exponent. Relative error under 2e-7 for
-- results that are normal numbers; smaller results are 0, larger ones infinity, NaN stays NaN.
local function expand_exp(x)
  local c = E.fmin(f(88.72), E.fmax(f(-87.33), x)) -- this order of operands keeps a NaN in x
  local n = E.un("frint", E.fmul(c, f(1.4426950408889634)))
  local r = E.fma(n, f(-0.693145751953125), c)
  r = E.fma(n, f(-1.42860682030941723212e-6), r)
  local p = f(1 / 5040)
  for _, k in ipairs { 1 / 720, 1 / 120, 1 / 24, 1 / 6, 1 / 2, 1, 1 } do p = E.fma(p, r, f(k)) end
  local e = E.node("ishl", "i32", { E.cast("fptosi", "i32", n), access.iconst(23) })
  local y = E.cast("bitcast", "f32", E.node("iadd32", "i32", { E.cast("bitcast", "i32", p), e }))
  y = E.select(E.cmp("flt", x, f(-87.33)), f(0), y)
  return E.select(E.cmp("flt", f(88.72), x), f(math.huge), y)
end

-- 2^r for |r| <= 1/2 within 2^-18 of itself, exact at 0: the coefficients of r^4 … r^0.
local POWER_OF_2 = { 0x1.3a02cap-7, 0x1.c9fc46p-5, 0x1.ec0378p-3, 0x1.62e12cp-1, 1 }

-- exp(x) where 16 bits are kept of it: relative error under 2^-17; below 1.2e-38 it stays that, above 1.6e38 too. The
-- integer part is what is left of x / ln2 where 1.5·2^23 was added.
local function expand_short_exp(x)
  local c = E.fmin(f(88), E.fmax(f(-87), x))
  local magic = f(0x1.8p23)
  local t = E.fma(c, f(1.4426950408889634), magic)
  local r = E.fma(c, f(1.4426950408889634), E.fsub(magic, t))
  local p = f(POWER_OF_2[1])
  for k = 2, #POWER_OF_2 do p = E.fma(p, r, f(POWER_OF_2[k])) end
  local e = E.node("ishl", "i32", { E.cast("bitcast", "i32", t), access.iconst(23) })
  return E.cast("bitcast", "f32", E.node("iadd32", "i32", { E.cast("bitcast", "i32", p), e }))
end

-- tanh(x) = 1 − 2 / (exp(2x) + 1): absolute error under 2e-7.
local function expand_tanh(x)
  return E.fsub(f(1), E.fdiv(f(2), E.fadd(expand_exp(E.fmul(x, f(2))), f(1))))
end

local function expand_rounded(fmt, x)
  local y = access.nearest(fmt, x)
  return fmt == "f16" and E.cast("fpext", "f32", y) or y
end

-- Values ------------------------------------------------------------------------------------------------------------

-- The formatted array or activation record an element belongs to, nil for plain arrays.
function X:owner_of(n)
  if n.op == "load" or n.op == "rload" then
    local o = self.owners[n.imm]
    if o and (o.packed or o.record or o.cache) then return o end
  end
end

-- What was lowered is lowered anew: where it stands, or what it reads, is another place.
function X:forget() self.memo, self.mats, self.folds = {}, {}, {} end

local already = { ld = true, loop = true, res = true, mat = true, sld = true, carry = true, var = true, lane = true,
  dim = true, const = true, begin = true, finish = true }

function X:lower(n)
  local hit = self.memo[n]
  if hit then return hit end
  local out
  if already[n.op] then
    out = n
  elseif self.tile and self.tile[n.op] then
    out = self.tile[n.op](self, n)
  elseif n.op == "load" or n.op == "rload" then
    local o = self:owner_of(n)
    if o then
      if n.op == "rload" and o.alias then
        out = self:lower(E.subst(o.body, { [o.kvar] = n.args[2], [o.tvar] = n.args[1] }))
      else
        local value = o.def.value(setmetatable({}, { __index = function(_, fname)
          if o.record then return access.record_field(o, fname, self:lower(n.args[1]), self:lower(n.args[2])) end
          if o.cache then
            local idx = {}
            for k, a in ipairs(n.args) do idx[k] = self:lower(a) end
            return access.cache_field(o, fname, idx)
          end
          return access.packed_field(o, fname, self:lower(n.args[1]), self:lower(n.args[2]))
        end }))
        out = self:lower(value)
      end
    else
      local idx = {}
      for k, a in ipairs(n.args) do idx[k] = self:lower(a) end
      local array = n.array
      if array.fmt == "i32" then
        out = access.ld(array.name, "i32", access.offset(array, idx), true)
        local m = E.node("ld", "i64", out.args, array.name .. "|index")
        m.base, m.storage, m.inv = array.name, "i32", true
        out = m
      else
        out = access.element(array, idx)
      end
    end
  elseif n.op == "leaf" then
    out = self:lower(reduce.resolve(self, n))
  elseif n.op == "reduce" then
    local len, body = n.args[1], n.args[2]
    if len.exact and not n.lane then n = E.with_args(n, { len.args[1], body }) end -- an axis across the lanes would go to the bound
    out = reduce.reduce(self, n)
  elseif n.op == "at" then
    local m, k = self:materialize(n.args[1]), self:lower(n.args[2])
    if m.storage == "i16" then
      out = pairs_of.value(E.node("sld", "i16", { m, mul(k, i(2)) }))
    else
      out = E.node("sld", "f32", { m, mul(k, i(4)) })
    end
  elseif n.op == "get" then
    local fold = n.args[1]
    if not self.folds[fold] then self.folds[fold] = { reduce.fold(self, fold) } end
    local state, shape = self.folds[fold][1], self.folds[fold][2]
    if n.args[2] then
      for c, idx in ipairs(shape.vec[n.imm].idx) do
        if rawequal(idx, n.args[2]) then out = state[n.imm][c] end
      end
      if not out then error({ kernel_error = ("field '%s' of the fold is not read along its own axis"):format(n.imm) }) end
    else
      out = state[n.imm]
    end
  elseif n.op == "exp" then
    out = expand_exp(self:lower(n.args[1]))
  elseif n.op == "tanh" then
    out = expand_tanh(self:lower(n.args[1]))
  elseif n.op == "rounded" then
    out = expand_rounded(n.imm, self:lower(access.short(n.args[1])))
  elseif n.op == "short_exp" then
    out = expand_short_exp(self:lower(n.args[1]))
  else
    local args, changed = {}, false
    for k, a in ipairs(n.args) do
      args[k] = self:lower(a)
      changed = changed or not rawequal(args[k], a)
    end
    out = changed and E.with_args(n, args) or n
    if out.op == "fadd" then -- a product added becomes one multiply-add
      local a, b = out.args[1], out.args[2]
      if a.op == "fmul" and b.op ~= "fmul" then a, b = b, a end
      if b.op == "fmul" then out = E.fma(b.args[1], b.args[2], a) end
    end
  end
  self.memo[n] = out
  self.memo[out] = out
  return out
end

-- A local vec(): its lane vectors in stack memory, those of rounded values in 16 bits.
function X:materialize(v)
  local hit = self.mats[v]
  if hit then return hit end
  local count, lanes = reduce.vec_lanes(self, v.args[1])
  local parts, body = {}, v.args[2]
  local short = pairs_of.rounds(body) and not self.team
  for c = 0, count - 1 do
    local at = lanes > 1 and add(i(c * lanes), E.lane_var(lanes)) or i(c)
    local x = self:lower(E.subst(short and body.args[1] or body, { [v.binds] = at }))
    parts[c + 1] = short and pairs_of.bits(x) or x
  end
  local m = E.node("mat", "ptr", parts, lanes)
  m.storage = short and "i16" or "f32"
  if m.lane then
    m.lane = nil
    local d = {}
    for x in pairs(m.deps) do if x.op ~= "lane" then d[x] = true end end
    m.deps = d
  end
  self.mats[v] = m
  return m
end

-- Records -----------------------------------------------------------------------------------------------------------

-- The biases of the packed weights' codes, ascending.
function X:biases()
  local set, list = {}, {}
  for _, o in pairs(self.owners) do
    local b = o.packed and not o.packed.float and o.packed.bias or 0
    if b > 0 and not set[b] then
      set[b] = true
      list[#list + 1] = b
    end
  end
  table.sort(list)
  return list
end

-- Replaces every as(fmt, vec) by a record in the workspace (or, for f32 of a plain array that no format needs sums of,
-- by the array itself). Returns the rewritten value.
function X:extract_records(value, any_packed)
  return E.rewrite(value, function(n)
    if n.op ~= "at" or not n.args[1].imm:match("^as:") then return nil end
    local v = n.args[1]
    local fmt = v.imm:sub(4)
    local rec = self.record_of[v]
    if not rec then
      local tvar
      for d in pairs(v.deps) do
        if tvar or d.axis ~= "tok" then
          error({ kernel_error = ("as(): the vector may depend on the token axis only, not on '%s'"):format(tostring(d.axis)) })
        end
        tvar = d
      end
      local width = E.int_const(v.args[1])
      if not width then error({ kernel_error = "as(): the width must be known at compile time" }) end
      local def = formats.for_width(formats.get(fmt), width)
      if not def then
        error({ kernel_error = ("%s needs a width divisible by %d, got %d"):format(fmt, formats.get(fmt).least, width) })
      end
      rec = { record = true, name = "rec" .. #self.records + 1, fmt = fmt, def = def, n = width,
              body = v.args[2], kvar = v.binds, tvar = tvar or E.var("tok", nil, 1), demand = {}, phase = 1 }
      rec.alias = fmt == "f32" and v.args[2].op == "load" and not any_packed
      if not rec.alias then access.record_layout(rec, self:biases(), self.tiledot, not self.team) end
      self.record_of[v] = rec
      self.records[#self.records + 1] = rec
      self.owners[rec.name] = rec
    end
    if rec.alias then return E.subst(rec.body, { [rec.kvar] = n.args[2] }) end
    local r = E.node("rload", "f32", { rec.tvar, n.args[2] }, rec.name)
    return r
  end)
end

-- Stages ------------------------------------------------------------------------------------------------------------

local function arrays_in(X_, n, seen, found)
  if seen[n] then return end
  seen[n] = true
  if n.op == "load" or n.op == "rload" then found[n.imm] = true end
  for _, a in ipairs(n.args) do arrays_in(X_, a, seen, found) end
end

-- The arrays whose elements the values of a group need: set of names.
function X:arrays_of(group)
  local used = {}
  for _, st in ipairs(group) do arrays_in(self, st.value, {}, used) end
  return used
end

-- The axes of a store group as loops. Calls body(maps) with the list of index substitutions of the instances.
local function over(em, axes, k, maps, body)
  local ax = axes[k]
  if not ax then return body(maps) end
  local function expand(base, unroll)
    local out = {}
    for _, m in ipairs(maps) do
      for u = 0, unroll - 1 do
        local c = {}
        for a, b in pairs(m) do c[a] = b end
        local at = add(base, i(u))
        c[ax.var] = ax.lanes and add(mul(at, i(ax.lanes)), E.lane_var(ax.lanes)) or at
        if ax.first then c[ax.first], c[ax.last] = base, add(base, i(unroll - 1)) end
        out[#out + 1] = c
        if ax.half then -- with its partner half the axis away
          local partner = {}
          for a, b in pairs(c) do partner[a] = b end
          partner[ax.var] = add(c[ax.var], i(ax.half))
          out[#out + 1] = partner
        end
      end
    end
    return out
  end
  if ax.static and ax.static == ax.unroll then return over(em, axes, k + 1, expand(ax.lo, ax.unroll), body) end
  local counter = E.var(ax.var.axis .. "*" .. ax.unroll, ax.static and ax.static // ax.unroll, "m" .. k)
  local function run(lo, hi, unroll, tag)
    local v = unroll == ax.unroll and counter or E.var(ax.var.axis .. "*" .. unroll, ax.static, tag .. k)
    em:each(v, lo, hi, unroll, function() over(em, axes, k + 1, expand(v, unroll), body) end)
  end
  if ax.static then
    -- the counter runs over units: index = counter · unroll + u
    em:each(counter, i(0), i(ax.static // ax.unroll), 1, function()
      over(em, axes, k + 1, expand(add(ax.lo, mul(counter, i(ax.unroll))), ax.unroll), body)
    end)
    return
  end
  local lo = ax.lo
  if ax.tile then -- tiles of a matrix unit, then the rest
    local n, split = ax.tile.size, E.whole(lo, ax.hi, ax.tile.size)
    local any, first = E.var(ax.var.axis .. "?" .. n, 2, "m" .. k), E.var(ax.var.axis .. "*" .. n, nil, "m" .. k)
    em:each(any, i(0), E.imin(i(1), add(split, lo, -1)), 1, function()
      em:each(first, lo, split, n, function()
        ax.tile.enter(any, first)
        over(em, axes, k + 1, expand(first, n), body)
        ax.tile.leave()
      end)
    end)
    lo = split
  end
  if ax.unroll == 1 then return run(lo, ax.hi, 1, "m") end
  local split = E.whole(lo, ax.hi, ax.unroll)
  run(lo, split, ax.unroll, "m")
  run(split, ax.hi, 1, "r")
end

function X:part_name()
  self.n_parts = self.n_parts + 1
  return self.name:gsub("[^%w_]", "_") .. "." .. self.n_parts
end

-- A tunable: a number, a table by target class, or a function of the machine and the kernel's sizes.
local function tune_value(v, x, sizes)
  if type(v) == "table" then return v[x.class] or v.default or 1 end
  if type(v) == "function" then return v(x, sizes) end
  return v
end

local MAX_TUNED = 64

-- How many instances of an axis the tunable `name` asks for: the specification's choice before the kernel's default.
function X:tunable(name, v, ax, sizes)
  local default = tune_value(v or 1, self, sizes)
  self.tunables[name] = self.tunables[name] or { default = default, extent = ax.static, axis = ax.var.axis }
  local chosen = self.chosen[name]
  if chosen == nil then return default end
  if math.type(chosen) ~= "integer" or chosen < 1 or chosen > MAX_TUNED then
    error({ kernel_error = ("the tunable '%s' is %s; expected a whole number 1 … %d"):format(name, tostring(chosen), MAX_TUNED) })
  end
  return chosen
end

-- Instances of an axis computed together run their folds over common bounds, so that their loops can be one: the last
-- instance's end and the first one's start. What an instance must not see is masked, and contributes zero().
function X:widen_folds(group, axes)
  local to_last, to_first = {}, {}
  for _, ax in ipairs(axes) do
    if ax.unroll > 1 and not ax.lanes then
      ax.first = E.var(ax.var.axis .. "<", nil, "first")
      ax.last = E.var(ax.var.axis .. ">", nil, "last")
      to_first[ax.var], to_last[ax.var] = ax.first, ax.last
    end
  end
  if not next(to_last) then return end
  for _, st in ipairs(group) do
    st.value = E.rewrite(st.value, function(n)
      if n.op ~= "fold" then return nil end
      local args = table.move(n.args, 1, #n.args, 1, {})
      args[4], args[5] = E.subst(n.args[1], to_last), E.subst(n.args[3], to_first)
      return E.with_args(n, args)
    end)
  end
end

-- The block of the format in which stores along this axis are encoded; nil where none are.
local function encoded_along(group, var)
  for _, st in ipairs(group) do
    if st.array.cache and st.idx[#st.idx].deps[var] then return st.array.def.block end
  end
end

-- Stores into a cache of a block format: the instances come in runs of one block, which is encoded as a whole.
function X:encode_blocks(st, maps, list)
  local def = st.array.def
  for first = 1, #maps, def.block do
    local xs, idx, amax = {}, {}, nil
    for c = 0, def.block - 1 do
      local m = maps[first + c]
      idx[c] = {}
      for k, e in ipairs(st.idx) do idx[c][k] = self:lower(E.subst(e, m)) end
      xs[c] = self:lower(E.subst(st.value, m))
      local mag = E.un("fabs", xs[c])
      amax = amax and E.fmax(amax, mag) or mag
    end
    local enc = def.encode(function(c) return xs[c] end, function() return amax end, L.lang)
    local function put(fname, c, value, storage)
      list[#list + 1] = { base = st.array.name, name = st.array.name, off = access.cache_offset(st.array, fname, idx[c]),
                          value = value, storage = storage }
    end
    put("d", 0, enc.d, "f16")
    for c = 0, def.block - 1 do put("q", c, E.cast("fptosi", "i32", enc.q(c)), "i8") end
  end
end

local CACHE = 256 * 1024

-- How many tiles of the packed weights that a part reads stay in a core's cache beside its activations. At least two share
-- a tile's activations, however wide they are.
function X:rows_in_cache(used)
  local bytes = 0
  for array in pairs(used) do
    local o = self.owners[array]
    local packed = o and o.packed
    if packed then
      bytes = bytes + formats.tile_bytes(o.def, packed.lanes, packed.words, o.dims[#o.dims].size)
    end
  end
  return math.max(2, CACHE // bytes)
end

-- One group of stores that share their axes and map: the loop over its tasks, which are numbered from `from` on where a function
-- does several groups (nil: it does this one only). Returns {times, per, dim}.
function X:store_tasks(group, max_lanes, from, begin, finish)
  local first = group[1]
  local map, tune = first.map, first.tune or {}
  local em = self.em
  self:forget()

  -- Lanes: whole tiles of rows where packed weights lie across them, otherwise what divides the width.
  local used = self:arrays_of(group)
  local block = 1
  local packed_rows = false
  for array in pairs(used) do
    local o = self.owners[array]
    if o and o.packed then
      packed_rows = packed_rows or map.rows_across
      if not map.rows_across then block = math.max(block, o.packed.float and 8 or o.packed.chunk) end
    end
  end
  self.panel, em.in_step = nil, nil
  local axes, by_name, sizes = {}, {}, first.sizes
  for _, var in ipairs(first.axes) do
    local ax = { var = var, static = E.int_const(var.len), lo = i(0), hi = self:lower(var.len) }
    local u = map.unroll and map.unroll[var.axis]
    ax.half = first.pairs and first.pairs[var]
    if ax.half then ax.static = ax.half end
    if type(u) == "string" and u ~= "all" then u = self:tunable(u, tune[u], ax, sizes) end
    local encoded = encoded_along(group, var)
    if not self.serial and map.lane == var.axis and ax.static and not encoded then
      local lanes = packed_rows and self.pack_lanes or reduce.pow2_divisor(ax.static, max_lanes)
      if block > 1 then lanes = 1 end
      if lanes > 1 then
        ax.lanes = lanes
        if ax.static % lanes ~= 0 then ax.mask = ax.static end
        if ax.mask and ax.half then error({ kernel_error = ("half of axis '%s' is no whole tile"):format(var.axis) }) end
        ax.static = (ax.static + lanes - 1) // lanes
      end
    end
    if block > 1 and map.lane == var.axis then u = block end -- decoding whole chunks keeps positions known
    if self.serial and u ~= "all" then u = block > 1 and map.lane == var.axis and block or 1 end
    if encoded then u = encoded end
    if u == "all" then u = ax.static end
    ax.unroll = u or 1
    if ax.static then ax.unroll = math.min(ax.unroll, ax.static) while ax.static % ax.unroll ~= 0 do ax.unroll = ax.unroll - 1 end end
    axes[#axes + 1] = ax
    by_name[var.axis] = ax
  end
  local tiled -- the axis whose instances go through tile registers
  for _, ax in ipairs(axes) do
    local size = map.tile and not ax.static and map.tile[ax.var.axis]
    if size and by_name[map.lane] and panels.fit(self, map, used, by_name[map.lane].unroll) then
      tiled = ax
      ax.tile = { size = size, leave = function() self.panel, em.in_step = nil, nil end,
                  enter = function(any, at) self.panel, em.in_step = panels.new(any, at, size), panels.IN_STEP end }
    end
  end

  -- Task axes, outermost first; their tiles are numbered together. The lane axis comes innermost of the rest.
  -- Where there are warps to spare, tiles of the lane axis are tasks of their own.
  local ordered, tasks, is_task = {}, { times = 1 }, {}
  local task_axes = table.move(map.task, 1, #map.task, 1, {})
  if self.team and by_name[map.lane] and by_name[map.lane].static then task_axes[#task_axes + 1] = map.lane end
  for _, axis in ipairs(task_axes) do
    local ax = by_name[axis]
    if ax and not is_task[ax] then
      is_task[ax] = true
      ordered[#ordered + 1] = ax
    end
  end
  local task = E.var("task", nil, 0)
  local left = task
  for k = #ordered, 1, -1 do
    local ax = ordered[k]
    local tile
    if ax.static then
      local n = ax.static // ax.unroll
      tile = k == 1 and not (tasks.per) and left or E.imod(left, i(n))
      if k == 1 then tile = left else left = E.idiv(left, i(n)) end
      tasks.times = tasks.times * n
      ax.lo = mul(tile, i(ax.unroll))
      ax.static = ax.unroll
    else
      if k ~= 1 then error({ kernel_error = ("the run-time axis '%s' must be the first task axis"):format(ax.var.axis) }) end
      tasks.per, tasks.dim, tasks.uneven = ax.unroll * (ax.var.per or 1), ax.var.dim or ax.var.axis, ax.var.uneven
      ax.lo = mul(left, i(ax.unroll))
      ax.hi = E.imin(add(ax.lo, i(ax.unroll)), ax.hi)
    end
  end
  for _, ax in ipairs(axes) do
    if not is_task[ax] and ax.var.axis ~= map.lane then ordered[#ordered + 1] = ax end
  end
  for _, ax in ipairs(axes) do
    if not is_task[ax] and ax.var.axis == map.lane then ordered[#ordered + 1] = ax end
  end

  if from then -- the function's range, cut to this group's tasks
    begin = E.imax(add(begin, i(-from)), i(0))
    finish = E.imin(add(finish, i(-from)), i(tasks.times))
  end
  self:widen_folds(group, axes)
  local function instances(maps, values)
    self:forget()
    local list = {}
    for _, m in ipairs(maps) do
      for s, st in ipairs(group) do
        if st.array.cache then goto continue end
        local idx, mask, lanes = {}, nil, nil
        for k, e in ipairs(st.idx) do idx[k] = self:lower(E.subst(e, m)) end
        for _, ax in ipairs(axes) do
          if ax.lanes then lanes = ax.lanes end
          if ax.mask then mask = E.cmp("ilt", m[ax.var], i(ax.mask)) end
        end
        if mask and mask.op == "const" then mask = nil end
        local off = access.offset(st.array, idx)
        list[#list + 1] = { base = st.array.ws and "ws" or st.array.name, name = st.array.name, off = off,
          value = self:lower(E.subst(values and values[s] or st.value, m)), storage = st.array.fmt, mask = mask,
          lanes = off.lane and lanes or nil }
        ::continue::
      end
    end
    for _, st in ipairs(group) do
      if st.array.cache then self:encode_blocks(st, maps, list) end
    end
    em:stores(list)
  end
  local within, around = {}, {}
  for _, ax in ipairs(ordered) do table.insert(is_task[ax] and within or around, ax) end
  -- A product of packed weights whose tasks are tiles of rows: tokens, rows: its axes; each_row(maps, f): calls f with the
  -- instances of a task's rows; store(maps, values): the group's stores, of other values than its own.
  local runs = packed_rows and around[1] and not self.team and not self.serial
  local product = runs and #around == 1 and #within == 1 and not around[1].static and within[1].lanes and
    { group = group, tokens = around[1], rows = within[1], task = task, begin = begin, finish = finish, store = instances,
      each_row = function(maps, body) over(em, within, 1, maps, body) end }
  if product then sums.one_by_one(self, product) end
  local function whole_tasks() em:each(task, begin, finish, 1, function() over(em, ordered, 1, { {} }, instances) end) end
  if tiled then
    -- A panel is a task's, filled for as many tokens as stay in the cache: those go around the tasks.
    local n, lo, hi = panels.tokens(self, used, tiled.tile.size), tiled.lo, tiled.hi
    local at = E.var(tiled.var.axis .. "*" .. n, nil, "cached")
    em:each(at, lo, hi, n, function()
      tiled.lo, tiled.hi = at, E.imin(add(at, i(n)), hi)
      whole_tasks()
    end)
  elseif runs then
    if product and product.tokens.unroll > 1 then passes.emit(self, product) end
    -- The other axes go around a run of tasks: what they read is read once for all of the run.
    local run, rows = E.var("run", nil, 0), self:rows_in_cache(used)
    em:each(run, begin, finish, rows, function()
      over(em, around, 1, { {} }, function(outer)
        em:each(task, run, E.imin(add(run, i(rows)), finish), 1, function()
          over(em, within, 1, outer, instances)
        end)
      end)
    end)
  else
    whole_tasks()
  end
  return tasks
end

-- Opens a function of the launch; begin and finish of its tasks.
function X:open_part(name)
  local begin, finish = self.em:func(name, self.dim_index, self.arg_index, self.unwritten)
  for _, rec in ipairs(self.records) do
    if rec.shared then self.em.shared[rec.shared] = rec.stride end
  end
  return begin, finish
end

function X:close_part(tasks)
  local part = { fn = self.em.fname, tasks = tasks, team = self.em.team }
  self.em:close()
  return part
end

-- A function for a group, in as many lanes as every access allows: half a head is contiguous where rope reads its partner, a
-- whole one is not.
function X:store_part(group)
  local name, lanes = self:part_name(), self.lanes
  while true do
    local ok, tasks = pcall(function() return self:store_tasks(group, lanes, nil, self:open_part(name)) end)
    if ok then
      group.lanes = lanes
      return self:close_part(tasks)
    end
    if lanes == 1 or type(tasks) ~= "table" or not tasks.lanes then error(tasks, 0) end
    lanes = lanes // 2
  end
end

-- Groups of a phase whose numbers of tasks are known become one function, one launch of a GPU: first the records that its threads
-- share, computed by every team for itself, then the tasks of one group behind those of the other.
function X:joint_part(groups, records)
  for _, g in ipairs(groups) do self:store_part(g) end -- finds the lanes, and what is asked of the records
  self.em:drop(#groups)
  local begin, finish = self:open_part(self:part_name())
  for _, rec in ipairs(records) do self:shared_record(rec) end
  local from = 0
  for _, g in ipairs(groups) do from = from + self:store_tasks(g, g.lanes, from, begin, finish).times end
  return self:close_part { times = from }
end

-- What a format's encoding may use: the kernel language, and whole numbers that are exponents.
local function i32(op, a, b) return access.i32op(op, a, b) end
local encoding = setmetatable({
  -- How often b, not negative, can be doubled without exceeding a, at most `most` times: what a's exponent is larger by.
  doublings = function(b, a, most)
    local apart = i32("iadd32", E.cast("bitcast", "i32", a), i32("imul32", E.cast("bitcast", "i32", b), access.iconst(-1)))
    local times = i32("iashr", apart, access.iconst(23))
    return i32("imax32", access.iconst(0), i32("imin32", times, access.iconst(most))) -- NaN: no promise is broken
  end,
  minus = function(n, e) return i32("iadd32", access.iconst(n), i32("imul32", e, access.iconst(-1))) end,
  pow2 = function(e) return E.cast("bitcast", "f32", i32("ishl", i32("iadd32", e, access.iconst(127)), access.iconst(23))) end,
}, { __index = L.lang })

-- A record's blocks are encoded one by one: values a block, and the lanes they are computed in.
function X:record_block(rec)
  local B = rec.fmt == "q8" and rec.def.block or reduce.pow2_divisor(rec.n, 32)
  return B, self.serial and 1 or reduce.pow2_divisor(B, math.min(16, self.lanes))
end

-- Block kb of a token's record.
function X:encode_record(rec, token, kb)
  local B, lanes = self:record_block(rec)
  local list, xs = {}, {}
  local base = access.record_base(rec, token)
  local function put(fname, at, v, storage)
    list[#list + 1] = { base = rec.shared or "ws", name = rec.name, off = add(add(base, i(rec.fields[fname])), at), value = v,
                        storage = storage }
  end
  local function element(c) return add(mul(kb, i(B)), lanes > 1 and add(i(c * lanes), E.lane_var(lanes)) or i(c)) end
  for c = 0, B // lanes - 1 do
    xs[c] = self:lower(E.subst(rec.body, { [rec.kvar] = element(c), [rec.tvar] = token }))
  end
  local function across(op, hop, values)
    local t
    for _, v in ipairs(values) do t = t and op(t, v) or v end
    return t.lane and E.node(hop, t.ty, { t }, lanes) or t
  end
  local codes, shifts = {}, {}
  if rec.fmt == "q8" then
    local run = rec.def.fields.s.per
    local largest, whole = {}, nil -- magnitudes of the runs and of the block
    for r = 0, B // run - 1 do
      local mags = {}
      for c = r * run // lanes, (r + 1) * run // lanes - 1 do mags[#mags + 1] = E.un("fabs", xs[c]) end
      largest[r] = across(E.fmax, "hmax", mags)
      whole = whole and E.fmax(whole, largest[r]) or largest[r]
    end
    local enc = rec.def.encode(function(c) return xs[c] end, function(r) return r and largest[r] or whole end, encoding)
    put("d", mul(kb, i(4)), enc.d, "f32")
    for r = 0, B // run - 1 do
      shifts[r] = enc.s(r)
      if rec.demand.s then put("s", add(mul(kb, i(B // run * 4)), i(r * 4)), shifts[r], "i32") end
      for c = r * run // lanes, (r + 1) * run // lanes - 1 do
        codes[c] = E.cast("fptosi", "i32", enc.q(c, r))
        put("q", element(c), codes[c], "i8")
      end
    end
  elseif rec.fmt == "bf16" then
    for c = 0, B // lanes - 1 do
      put("x", mul(element(c), i(2)), E.node("pair", "i32", { xs[c], f(0) }, "bf16"), "i16")
    end
  else
    for c = 0, B // lanes - 1 do put("x", mul(element(c), i(4)), xs[c], "f32") end
  end
  for _, g in ipairs { 32, 16 } do
    local starts = {} -- the biases whose dot starts are asked for at this granularity
    for _, bias in ipairs(self:biases()) do
      if rec.demand[("dot%d_%d"):format(g, bias)] then starts[#starts + 1] = bias end
    end
    if rec.demand["sum" .. g] or rec.demand["isum" .. g] or #starts > 0 then
      if B % g ~= 0 or g % lanes ~= 0 then error({ kernel_error = ("width %d is not a multiple of %d"):format(rec.n, g) }) end
      for s = 0, B // g - 1 do
        local part = {}
        for c = s * g // lanes, (s + 1) * g // lanes - 1 do part[#part + 1] = codes[c] or xs[c] end
        local at = add(mul(kb, i(B // g * 4)), i(s * 4))
        if rec.fmt == "q8" then
          local isum = across(function(a, b) return access.i32op("iadd32", a, b) end, "hsum", part)
          for _, bias in ipairs(starts) do
            put(("dot%d_%d"):format(g, bias), at, access.i32op("imul32", isum, access.iconst(-bias)), "i32")
          end
          local in_steps = access.i32op("ishl", isum, shifts[s * g // rec.def.fields.s.per])
          if rec.demand["sum" .. g] then put("sum" .. g, at, E.cast("sitofp", "f32", in_steps), "f32") end
          if rec.demand["isum" .. g] then put("isum" .. g, add(mul(kb, i(B // g * 2)), i(s * 2)), in_steps, "i16") end
        else
          put("sum" .. g, at, across(E.fadd, "hsum", part), "f32")
        end
      end
    end
  end
  self.em:stores(list)
end

-- The phase that fills a record: one task a token; where there are warps to spare, one for each run of up to four blocks.
function X:record_part(rec)
  local em = self.em
  local begin, finish = self:open_part(self:part_name())
  local task = E.var("task", nil, 0)
  local run = rec.n // self:record_block(rec)
  if self.team and not self.serial then
    for r = 4, 1, -1 do
      if run % r == 0 then run = r break end
    end
  end
  local n_runs = rec.n // self:record_block(rec) // run
  local token = n_runs > 1 and E.idiv(task, i(n_runs)) or task
  local outside = self.parted
  self.parted = "all"
  em:each(task, begin, finish, 1, function()
    self:forget()
    local k_run = E.var("block", run, 0)
    em:each(k_run, i(0), i(run), 1, function()
      self:encode_record(rec, token, n_runs > 1 and add(mul(E.imod(task, i(n_runs)), i(run)), k_run) or k_run)
    end)
  end)
  self.parted = outside
  local tok = E.int_const(self.tok)
  return self:close_part(tok and { times = n_runs * tok } or { times = n_runs, per = 1, dim = "tok" })
end

-- The one token's record in the memory that a team shares, its blocks spread over the team's warps.
function X:shared_record(rec)
  self:forget()
  local n = rec.n // self:record_block(rec)
  local block = E.var("block", n, 0)
  self.em:each(block, i(0), i(n), 1, function()
    reduce.in_parts(self, block, function() self:encode_record(rec, i(0), block) end)
  end, self.team // self.lanes)
end

-- Kernels -----------------------------------------------------------------------------------------------------------

-- spec: { kernel = name | definition, formats = {W = "q4_1", …}, sizes = {d = 576, …}, params = {eps = …, act = "q8"},
--         tune = nil | {toks = 4, …}: chosen instead of the kernels' defaults; results do not depend on it,
--         upto = nil | how many tokens there will be at most (a map's `matrix`) }
-- target: { class, lanes, pack_lanes, pack_words, vregs, serial = bool, team = threads that may share a task, 0 on a processor,
--           tiles = bool: the flat IR's mma, tiledot = bool: its tiledot }
-- Result: { name, ir, phases = {{ {fn, tasks = {times, per, dim}}, … }, …}, args = {names}, dims = {names},
--           ws = bytes a token, ws_page = bytes a page of keys, tunables = {name -> {default, axis, extent = of that axis, where known}} }
local function trace_spec(spec, x, layout, opts)
  local k = type(spec.kernel) == "table" and spec.kernel or L.kernels[spec.kernel]
  if not k then error(("unknown kernel '%s'"):format(tostring(spec.kernel)), 0) end
  x.name = k.name
  x.dims, x.dim_index = {}, {}
  function x.dim(name)
    if not x.dim_index[name] then
      x.dims[#x.dims + 1] = name
      x.dim_index[name] = #x.dims - 1
    end
    return E.dim(name)
  end
  return k, L.trace(k, function()
    local given = {}
    for _, p in ipairs(k.sig.params) do
      if p.dims then
        local fmt = p.kind:match("^%u") and (spec.formats or {})[p.kind] or p.kind
        if p.kind:match("^%u") and not (spec.formats or {})[p.kind] then
          error(("kernel '%s': no format given for %s"):format(k.name, p.kind), 0)
        end
        local array = { name = p.name, fmt = fmt, io = p.io, layout = p.layout, dims = {}, constant = p.io == "in" }
        for n, d in ipairs(p.dims) do
          local size = d.size or (spec.sizes or {})[d.name]
          if not size and not d.run then error(("kernel '%s': size '%s' is not given"):format(k.name, d.name), 0) end
          array.dims[n] = { name = d.name, size = size, node = not size and x.dim(d.name) or nil }
        end
        if p.layout ~= "dense" and formats.known(fmt) and not formats.is_float(formats.get(fmt)) then
          array.def, array.cache = formats.get(fmt), true
          if not array.def.encode then error(("kernel '%s': a KV cache cannot be %s"):format(k.name, fmt), 0) end
          x.owners[p.name] = array
        end
        if p.kind:match("^%u") and p.layout == "dense" then
          array.def = formats.get(fmt, function(msg) error(("kernel '%s': %s"):format(k.name, msg), 0) end)
          array.packed = formats.layout(array.def, layout.lanes, layout.words)
          x.owners[p.name] = array
        end
        given[p.name] = array
      elseif p.kind == "dim" then
        given[p.name] = x.dim(p.name)
      else
        local v = (spec.params or {})[p.name]
        if v == nil then error(("kernel '%s': parameter '%s' is not given"):format(k.name, p.name), 0) end
        given[p.name] = v
      end
    end
    return given
  end, opts)
end

local ANY_LAYOUT = { lanes = 16, words = 1 } -- where only the algebra is looked at

-- The kernel's definition and its trace, for dsl/show.lua and dsl/shapes.lua.
function M.trace(spec) return trace_spec(spec, { owners = {} }, ANY_LAYOUT) end

-- Traces only. Result: { materialized = number of internal arrays that need memory }.
function M.probe(spec)
  local _, trace = trace_spec(spec, { owners = {} }, ANY_LAYOUT)
  local names, n = {}, 0
  for _, st in ipairs(trace.stores) do
    if st.array.internal and not names[st.array.name] then
      names[st.array.name] = true
      n = n + 1
    end
  end
  return { materialized = n }
end

function M.kernel(spec, target, opts)
  local team = not target.serial and target.team ~= 0 and target.team or nil
  local x = setmetatable({ lanes = target.lanes, pack_lanes = target.pack_lanes, vregs = target.vregs, class = target.class,
    serial = target.serial, team = team, tiles = team and target.tiles, upto = spec.upto, tiledot = target.tiledot, owners = {}, records = {}, record_of = {}, tunables = {}, chosen = spec.tune or {},
    n_parts = 0, memo = {}, mats = {}, folds = {}, em = emit.new(target.vregs, team ~= nil) }, X)
  local k, trace = trace_spec(spec, x, { lanes = target.pack_lanes, words = target.pack_words }, opts)
  local args = {}
  x.arg_index, x.unwritten = {}, {}
  for _, name in ipairs(spec.unwritten or {}) do x.unwritten[name] = true end
  for _, p in ipairs(k.sig.params) do
    if p.dims then
      args[#args + 1] = p.name
      x.arg_index[p.name] = #args - 1
      if x.owners[p.name] and x.owners[p.name].packed then x.unwritten[p.name] = true end
    end
  end

  local phases = {}
  L.during(trace, function()
    x:schedule(trace, phases)
  end)
  return { name = k.name, ir = x.em:text(), phases = phases, args = args, dims = x.dims, ws = x.ws_per_tok,
           ws_page = x.ws_per_page, tunables = x.tunables }
end

-- Bytes of records that a team keeps in the memory it shares.
local MAX_SHARED = 40 * 1024

-- Orders stages into phases and lowers them.
function X:schedule(trace, phases)
  local ws, ws_strides, shared = i(0), 0, 0
  local function reserve(stride)
    self.tok = self.tok or self.dim("tok")
    local at = ws
    ws = add(ws, mul(self.tok, i(stride)))
    ws_strides = ws_strides + stride
    return at
  end
  for _, array in pairs(trace.given) do -- a launch compiled for one token
    if type(array) == "table" and array.dims and array.dims[1] and array.dims[1].name == "tok" and array.dims[1].size then
      self.tok = i(array.dims[1].size)
    end
  end
  local lone = self.team and self.tok and E.int_const(self.tok) == 1
  local any_packed = false
  for _, o in pairs(self.owners) do any_packed = any_packed or (o.packed and not o.packed.float) end
  -- Records and internal arrays, and the phase each store belongs to.
  local phase_of = {} -- array or record name -> phase in which it is written
  local staged = {}
  local groups, open = {}, {}
  local stores, states = split_folds.stores(self, trace.stores)
  for _, st in ipairs(stores) do
    local n_before = #self.records
    st.value = self:extract_records(st.value, any_packed)
    for r = n_before + 1, #self.records do
      local rec = self.records[r]
      if not rec.alias then
        local used = {}
        arrays_in(self, rec.body, {}, used)
        rec.phase = 1
        for name in pairs(used) do rec.phase = math.max(rec.phase, (phase_of[name] or 0) + 1) end
        phase_of[rec.name] = rec.phase
        if lone and shared + rec.stride <= MAX_SHARED then
          shared = shared + rec.stride
          rec.shared = "shared " .. rec.name
          phase_of[rec.name] = rec.phase - 1 -- there within its readers' phase
        else
          rec.ws = reserve(rec.stride)
          staged[#staged + 1] = rec
        end
      end
    end
    if st.array.internal and not st.array.ws and not st.array.pages then
      local width = 1
      for d = 2, #st.array.dims do
        local dim = st.array.dims[d]
        if not dim.size then
          error({ kernel_error = ("'%s' lies in the launch's workspace, and its axis '%s' is known at run time only, which there the "
            .. "first may be; make it a parameter"):format(st.array.name, dim.name) })
        end
        width = width * dim.size
      end
      st.array.ws = reserve((width * 4 + 63) // 64 * 64)
      if (width * 4) % 64 ~= 0 then st.array.row_pad = (width * 4 + 63) // 64 * 64 end
    end
    local used = {}
    arrays_in(self, st.value, {}, used)
    for _, e in ipairs(st.idx) do arrays_in(self, e, {}, used) end
    st.phase = 1
    for name in pairs(used) do st.phase = math.max(st.phase, (phase_of[name] or 0) + 1) end
    local key = { st.phase, tostring(st.map) }
    for _, a in ipairs(st.axes) do key[#key + 1] = a.id end
    key = table.concat(key, ",")
    if not open[key] then
      groups[#groups + 1] = { phase = st.phase }
      open[key] = groups[#groups]
    end
    table.insert(open[key], st)
    phase_of[st.array.name] = math.max(phase_of[st.array.name] or 0, st.phase)
  end
  self.ws_per_tok, self.ws_per_page = ws_strides, 0
  for _, array in ipairs(states) do
    local bytes = 4
    for d = 2, #array.dims do bytes = bytes * array.dims[d].size end
    array.ws = ws
    ws = add(ws, mul(array.pages, i(bytes)))
    self.ws_per_page = self.ws_per_page + bytes
  end
  local function put(phase, part)
    phases[phase] = phases[phase] or {}
    table.insert(phases[phase], part)
  end
  -- Consumers first: what they ask of a record decides what its phase writes.
  if lone then
    local by_phase, last = {}, 0
    for _, g in ipairs(groups) do
      by_phase[g.phase] = by_phase[g.phase] or {}
      table.insert(by_phase[g.phase], g)
      last = math.max(last, g.phase)
    end
    for phase = 1, last do
      if by_phase[phase] then put(phase, self:joint_part(by_phase[phase], self:records_of(by_phase[phase]))) end
    end
  else
    for _, list in ipairs(tiles.together(self, groups)) do
      local part = tiles.part(self, list)
      if part then put(list[1].phase, part) end
      for _, g in ipairs(part and {} or list) do put(g.phase, tile_folds.part(self, g) or self:store_part(g)) end
    end
  end
  for _, rec in ipairs(staged) do put(rec.phase, self:record_part(rec)) end
end

-- The shared records that groups of stores read.
function X:records_of(groups)
  local used, list = {}, {}
  for _, g in ipairs(groups) do
    for name in pairs(self:arrays_of(g)) do used[name] = true end
  end
  for _, rec in ipairs(self.records) do
    if rec.shared and used[rec.name] then list[#list + 1] = rec end
  end
  return list
end

return M
