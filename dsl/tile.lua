-- Many tokens on a matrix unit: a group of stores over (token, row) in tiles of 16 rows by 8 tokens, products with activations
-- in halves (`as("bf16", …)`).
--
-- A task is 128 rows by 64 tokens: each warp of a block computes 16 of the rows, by eight tiles. The lanes of a tile are those of
-- the flat IR's mma (docs/ir.md): lane l of accumulator 2·i + j has row l div 4 + 8·i and token 2·(l mod 4) + j. So an element of
-- the output is an ordinary expression whose row and token depend on digits of the lane number, and the accumulators of all
-- tiles are instances like the copies of an unrolled axis: what stands around a sum is computed where the element is, by the rules
-- that hold for any lanes. Only the sum differs (`sum`): weights become halves in the registers where the unit wants them, each
-- for all tokens of the task; the activations of the next trips are copied into the block's shared memory meanwhile.
--
-- Of 32 elements along k a thread has the eight from 8·(l mod 4) on, in two products of 16: a sum does not mind the order, so the
-- unit's columns are matched to elements such that a thread's weights are neighbours, and its activations one load of 16
-- bytes. Rows of a staged token are runs of 64 bytes, tokens one behind the other: eight threads read 128 bytes side by side.

local E = require "dsl.expr"
local access = require "dsl.access"
local reduce = require "dsl.reduce"

local M = {}

local add, mul = E.iadd, E.imul
local function i(x) return E.int(x) end

local LANES, ROWS, TOKENS, RUN = 32, 16, 8, 32
local TASK_TOKENS = 64
local TRIP = 64 -- elements of a trip along k, where the format's chunks are no longer
local STAGING, MOST_STAGES = 32 * 1024, 4 -- bytes for activations, and trips that they are for

local function of_four() return E.lane_digit(LANES, 1, 4) end  -- l mod 4
local function of_eight() return E.lane_digit(LANES, 4, 8) end -- l div 4

-- Raised where a kernel has no form in tiles; its tokens then go the other way, however many they are.
local function unfit() error({ no_tiles = true }) end

-- Weights in halves ---------------------------------------------------------------------------------------------------

-- An expression in q as slope · q + offset; nil stands for no q in it, and for nothing added.
local function line_in(n, q)
  if rawequal(n, q) then return E.f32(1), nil end
  if n.op == "fmul" then
    local s, o = line_in(n.args[1], q)
    local factor = n.args[2]
    if not s then
      s, o = line_in(n.args[2], q)
      factor = n.args[1]
    end
    if not s then return nil, n end
    return E.fmul(s, factor), o and E.fmul(o, factor)
  end
  if n.op == "fadd" or n.op == "fsub" then
    local s, o = line_in(n.args[1], q)
    local t, p = line_in(n.args[2], q)
    if s and t then unfit() end
    if n.op == "fsub" then t, p = t and E.un("fneg", t), p and E.un("fneg", p) end
    return s or t, o and p and E.fadd(o, p) or o or p
  end
  return nil, n
end

-- Codes of less than eight bits become floats by standing in 128's mantissa, which costs nothing where a product with the
-- scale follows; longer ones in 2^23's, which is taken off again. Both are exact.
local SHORT, LONG = 128, 1 << 23

-- The weight's element at k + b, k being the first of four.
local function element(X, weight, r, k, b)
  local L, def = weight.packed, weight.def
  if L.float then return access.packed_field(weight, def.code.name, r, X:lower(add(k, i(b)))) end
  local q = E.node("code", "f32", {})
  local slope, offset = line_in(def.value(setmetatable({}, { __index = function(_, name)
    if name == def.code.name then return q end
    return access.packed_field(weight, name, r, k)
  end })), q)
  local word, width = access.plane_groups(weight, r, k), 0
  for _, p in ipairs(L.planes) do width = width + p.width end
  if width < 8 then
    local raw = access.code_bits(word, b, 16, 0x43000000)
    local down = E.f32(-(SHORT + L.bias))
    local from = offset and E.fma(slope, down, offset) or E.fmul(slope, down)
    return E.fma(E.cast("bitcast", "f32", raw), slope, from)
  end
  local raw = access.code_bits(word, b, 0, 0x4b000000)
  local code = E.fadd(E.cast("bitcast", "f32", raw), E.f32(-(LONG + L.bias)))
  return offset and E.fma(code, slope, offset) or E.fmul(code, slope)
end

-- Sums ------------------------------------------------------------------------------------------------------------------

-- The two factors of a sum over products: an element of packed weights and one of a record in halves.
local function factors_of(X, body)
  if body.op ~= "fmul" then unfit() end
  local w, x = body.args[1], body.args[2]
  if w.op == "rload" then w, x = x, w end
  if x.op ~= "rload" then unfit() end
  local weight, record = X.owners[w.imm], X.owners[x.imm]
  if w.op ~= "load" or not (weight and weight.packed and record and record.fmt == "bf16") then unfit() end
  return w, x, weight, record
end

-- How the activations of a sum come: trips of `elements`, each in runs of 32 for all tokens of the task.
local function staging_of(X, record, n, chunk)
  local trip = math.max(TRIP, chunk)
  while n % trip ~= 0 and trip > math.max(RUN, chunk) do trip = trip // 2 end
  if n % trip ~= 0 then unfit() end
  local bytes = TASK_TOKENS * trip * 2
  local stages = math.min(MOST_STAGES, STAGING // bytes)
  local tile = X.tile
  local first = add(access.record_base(record, tile.t0), i(record.fields.x))
  return { base = tile.staged, from = first, stride = record.stride, rows = tile.left, trips = n // trip, trip = trip,
           stages = stages, bytes = bytes, runs = trip // RUN, run_bytes = TASK_TOKENS * RUN * 2, row_bytes = RUN * 2,
           tokens = TASK_TOKENS, record = record.name }
end

-- What f() gives, once a key.
local function once(memo, key, f)
  if memo[key] == nil then memo[key] = f() end
  return memo[key]
end

-- The loads of a weight's memory that the nodes of a list need.
local function loads_of(weight, list)
  local seen, loads = {}, {}
  local function visit(n)
    if seen[n] then return end
    seen[n] = true
    if n.op == "ld" and n.base == weight.name then loads[#loads + 1] = n end
    for _, a in ipairs(n.args) do visit(a) end
  end
  for _, n in ipairs(list) do visit(n) end
  return loads
end

-- The four accumulators of a tile.
local function accumulators(X, kvar, n, weight, record, row, token)
  local s = staging_of(X, record, n, weight.packed.chunk)
  local trip = E.var(kvar.axis .. "%" .. s.trip, s.trips, kvar.imm .. "t")
  local acc, zero = {}, {}
  for c = 1, 4 do
    acc[c] = reduce.carry(("t%s.%d.%d.%d"):format(weight.name, row.at(0).id, token.at().id, c), "f32", LANES)
    zero[c] = E.f32(0)
  end
  local c = acc
  local stage = add(mul(E.imod(trip, i(s.stages)), i(s.bytes)),
    add(i(token.tile * TOKENS * s.row_bytes), mul(E.lane_var(LANES), i(16))))
  for run = 0, s.runs - 1 do
    for four = 0, 1 do
      local k = add(mul(trip, i(s.trip)), add(i(RUN * run + 4 * four), mul(of_four(), i(8))))
      local args = table.move(c, 1, 4, 1, {})
      for pair = 0, 1 do
        for h = 0, 1 do
          local key = ("%s.%d.%d.%d"):format(weight.name, row.at(h).id, k.id, pair)
          args[#args + 1] = once(X.tile.memo, key, function()
            return E.node("pair", "i32", { element(X, weight, row.at(h), k, 2 * pair),
                                           element(X, weight, row.at(h), k, 2 * pair + 1) }, "bf16")
          end)
        end
      end
      for pair = 0, 1 do
        args[#args + 1] = access.ld(s.base, "i32", add(stage, i(run * s.run_bytes + 8 * four + 4 * pair)), false)
      end
      local product = E.node("mma", "f32", args, "m16n8k16.bf16")
      c = {}
      for e = 0, 3 do c[e + 1] = E.node("register", "f32", { product }, e) end
    end
  end
  local ahead = (X.tile.ahead or s.trip > TRIP) and loads_of(weight, c) or nil
  local out = reduce.loop(trip, i(0), i(s.trips), acc, zero, c, nil, nil, ahead)
  local loop = out[1].args[1]
  loop.staged, loop.streams, loop.loads = s, "staged " .. s.record, weight.name
  return out
end

-- Σ of weight · activation, for one element of a tile; the weights are rounded to halves as dsl/reduce.lua rounds them elsewhere.
local function sum(X, node)
  if node.imm ~= "sum" then unfit() end
  local kvar, len = node.binds, X:lower(node.args[1])
  local w, x, weight, record = factors_of(X, node.args[2])
  local row, token = X.tile.places[w.args[1]], X.tile.places[x.args[1]]
  local n = E.int_const(len)
  if not (row and token and n) then unfit() end
  local key = ("%s.%s.%d.%d"):format(weight.name, record.name, row.at(0).id, token.tile)
  local all = once(X.tile.memo, key, function() return accumulators(X, kvar, n, weight, record, row, token) end)
  return all[2 * row.half + token.half + 1]
end

-- Tiles ---------------------------------------------------------------------------------------------------------------

-- A place of the tile: the index `at(half)` there, and how to name others of the same tile.
local function place(X, half, tile, at)
  local node = at(half)
  X.tile.places[node] = { half = half, tile = tile, at = at }
  return node
end

-- Whether the group is one of products of packed weights and activations in halves, rows across the lanes.
local function fits(X, group, used)
  local first = group[1]
  local axes = first.axes
  if X.serial or not X.tiles or not (first.map.rows_across and first.map.lane == "row") then return false end
  if #axes ~= 2 or axes[1].axis ~= "tok" or axes[2].axis ~= "row" or not E.int_const(axes[2].len) then return false end
  local weights, records = false, false
  for name in pairs(used) do
    local o = X.owners[name]
    if o and o.record then records = records or o.fmt == "bf16" end
    if o and o.packed then
      if o.packed.lanes ~= 8 then return false end
      weights = true
    end
    if o and o.cache then return false end
  end
  for _, st in ipairs(group) do if st.array.cache then return false end end
  return weights and records
end

-- Instances of the tiles from row r0 and the task's first token on; n: rows in all. Rows and tokens that are not there are read as
-- the last eight and the last one (their staged activations are zeros), and not stored.
local function instances(X, row_var, tok_var, r0, n)
  local maps, tile = {}, X.tile
  local whole = n % (ROWS * X.team // LANES) == 0
  for tt = 0, TASK_TOKENS // TOKENS - 1 do
    for j = 0, 1 do
      local function token(k) return add(i(TOKENS * tt), k and add(mul(of_four(), i(2)), i(k)) or of_eight()) end
      local t = place(X, j, tt, function(k)
        return add(tile.t0, E.node("imin", "i64", { token(k), add(tile.left, i(1), -1) }))
      end)
      for h = 0, 1 do
        local r = place(X, h, 0, function(k)
          local from = add(r0, i(8 * k))
          if not whole then from = mul(E.node("imin", "i64", { E.idiv(from, i(8)), i((n - 1) // 8) }), i(8)) end
          return add(from, of_eight())
        end)
        local mask = E.cmp("ilt", token(j), tile.left)
        if not whole then
          mask = E.node("band", "bool", { mask, E.cmp("ilt", add(add(r0, i(8 * h)), of_eight()), i(n)) })
        end
        -- Where it is stored, absent or not: one address and constants.
        local to = { [row_var] = r, [tok_var] = add(tile.t0, token(j)) }
        maps[#maps + 1] = { at = { [row_var] = r, [tok_var] = t }, to = to, mask = mask }
      end
    end
  end
  return maps
end

-- Several sums together, and sums in long trips, take more than half of the registers, so that one block is alone on its
-- multiprocessor: nobody else computes while its weights come. They are asked for a trip ahead.
local function several(group)
  local n, seen = 0, {}
  local function visit(x)
    if seen[x] then return end
    seen[x] = true
    if x.op == "reduce" then n = n + 1 end
    for _, a in ipairs(x.args) do visit(a) end
  end
  for _, st in ipairs(group) do visit(st.value) end
  return n > 1
end

local function part_of(X, group, name)
  local em, first = X.em, group[1]
  local tok, row = first.axes[1], first.axes[2]
  local n = E.int_const(row.len)
  local warps = X.team // LANES
  local n_rows = (n + ROWS * warps - 1) // (ROWS * warps)
  local begin, finish = X:open_part(name)
  em.shared["staged"] = STAGING
  local task, warp = E.var("task", nil, 0), E.var("warp", warps, 0)
  em:each(task, begin, finish, 1, function()
    local t0 = mul(E.idiv(task, i(n_rows)), i(TASK_TOKENS))
    local r0 = mul(add(mul(E.imod(task, i(n_rows)), i(warps)), warp), i(ROWS))
    em:each(warp, i(0), i(warps), 1, function()
      X.memo, X.mats, X.folds = {}, {}, {}
      X.tile = { t0 = t0, left = add(X:lower(tok.len), t0, -1), staged = "staged", places = {}, memo = {}, reduce = sum, ahead = several(group) }
      local list = {}
      for _, m in ipairs(instances(X, row, tok, r0, n)) do
        for _, st in ipairs(group) do
          local idx = {}
          for k, e in ipairs(st.idx) do idx[k] = X:lower(E.subst(e, m.to)) end
          list[#list + 1] = { base = st.array.ws and "ws" or st.array.name, name = st.array.name,
            off = access.offset(st.array, idx), value = X:lower(E.subst(st.value, m.at)), storage = st.array.fmt,
            mask = m.mask, lanes = LANES }
        end
      end
      em:stores(list)
    end, warps)
  end)
  return X:close_part { times = n_rows, per = TASK_TOKENS, dim = "tok" }
end

-- make(name) as a part whose tasks are a warp's each; nil where it finds itself unfit.
function M.attempt(X, make)
  local outside = X.parted
  X.parted = "all"
  local ok, part = pcall(make, X:part_name())
  X.tile, X.parted, X.em.in_step = nil, outside, nil
  if ok then return part end
  if type(part) == "table" and part.no_tiles then return nil end
  error(part, 0)
end

-- The group as a part; nil where it has no form in tiles.
function M.part(X, group, used)
  if not fits(X, group, used) then return nil end
  return M.attempt(X, function(name) return part_of(X, group, name) end)
end

M.LANES, M.ROWS, M.of_four, M.of_eight, M.unfit = LANES, ROWS, of_four, of_eight, unfit

return M
