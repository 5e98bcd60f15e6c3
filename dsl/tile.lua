-- Many tokens on a matrix unit: a group of stores over (token, row) in tiles of 16 rows by 8 tokens, products with activations
-- in halves (`as("bf16", …)`).
--
-- How much of the output is a task, a block's, the map says (`matrix`): its rows, its tokens, and in how many parts its warps split
-- the sums. The lanes of a tile are those of the flat IR's mma (docs/ir.md): lane l of accumulator 2·i + j has row l div 4 + 8·i and
-- token 2·(l mod 4) + j. So an element of the output is an ordinary expression whose row and token depend on digits of the lane
-- number, and the accumulators of all tiles are instances like the copies of an unrolled axis: what stands around a sum is computed
-- where the element is, by the rules that hold for any lanes. Only the sum differs (`sum`): weights become halves in the registers
-- where the unit wants them, each for all tokens of the task.
--
-- Many tokens: no sum is split, each warp has rows of its own, and the activations of the next trips along k, which all warps need,
-- are copied into the block's shared memory meanwhile. Few tokens: all warps have the same rows, each its own trips, so that there
-- are tasks enough; what a warp reads nobody else of the block does, and comes straight from memory. Then the warps leave their parts
-- of the sums in shared memory, and each element is finished by one thread, which adds the parts in their order.
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
local TRIP = 64 -- elements of a trip along k, where the format's chunks are no longer
local STAGING = 32 * 1024 -- bytes for activations

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

-- Elements of a trip along k.
local function trip_of(n, chunk)
  local trip = math.max(TRIP, chunk)
  while n % trip ~= 0 and trip > math.max(RUN, chunk) do trip = trip // 2 end
  if n % trip ~= 0 then unfit() end
  return trip
end

-- Where a sum's activations are: the trips of a loop over `at`, in runs of 32 elements each, and word(k, run, n), the n-th word
-- of four elements from k on. Staged: the block's copies, for all tokens of the task together.
local function staged_trips(X, record, n, trip, at, token)
  local tile = X.tile
  local bytes = tile.tokens * trip * 2
  local stages = math.min(tile.stages, STAGING // bytes)
  local s = { base = tile.staged, from = add(access.record_base(record, tile.t0), i(record.fields.x)), stride = record.stride,
              rows = tile.left, trips = n // trip, stages = stages, bytes = bytes, runs = trip // RUN,
              run_bytes = tile.tokens * RUN * 2, row_bytes = RUN * 2, tokens = tile.tokens }
  local stage = add(mul(E.imod(at, i(stages)), i(bytes)),
    add(i(token.tile * TOKENS * s.row_bytes), mul(E.lane_var(LANES), i(16))))
  return { staged = s, first = mul(at, i(trip)), trips = i(s.trips), word = function(_, run, word)
    return access.ld(s.base, "i32", add(stage, i(run * s.run_bytes + 4 * word)), false)
  end }
end

-- The part's own trips: each `parts`-th. A part that has none asks for the last one's weights, ahead of no trip.
local function own_trips(X, record, n, trip, at, token)
  local tile, all = X.tile, n // trip
  local number = add(mul(at, i(tile.parts)), tile.part)
  if all < tile.parts then number = E.imin(number, i(all - 1)) end
  local from = add(access.record_base(record, token.at()), i(record.fields.x))
  local trips = all % tile.parts == 0 and i(all // tile.parts) or E.idivup(add(i(all), tile.part, -1), tile.parts)
  return { first = mul(number, i(trip)), trips = trips, word = function(k, _, word)
    return access.ld("ws", "i32", add(from, add(mul(k, i(2)), i(4 * (word % 2)))), true)
  end }
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
  local size = trip_of(n, weight.packed.chunk)
  local trip = E.var(kvar.axis .. "%" .. size, n // size, kvar.imm .. "t")
  local along = (X.tile.part and own_trips or staged_trips)(X, record, n, size, trip, token)
  local acc, zero = {}, {}
  for c = 1, 4 do
    acc[c] = reduce.carry(("t%s.%d.%d.%d"):format(weight.name, row.at(0).id, token.at().id, c), "f32", LANES)
    zero[c] = E.f32(0)
  end
  local c = acc
  for run = 0, size // RUN - 1 do
    for four = 0, 1 do
      local k = add(along.first, add(i(RUN * run + 4 * four), mul(of_four(), i(8))))
      local args = table.move(c, 1, 4, 1, {})
      for pair = 0, 1 do
        for h = 0, 1 do
          local key = ("%s.%d.%d.%d"):format(weight.name, row.at(h).id, k.id, pair)
          args[#args + 1] = 8 * h >= X.tile.rows and access.iconst(0) or once(X.tile.memo, key, function()
            return E.node("pair", "i32", { element(X, weight, row.at(h), k, 2 * pair),
                                           element(X, weight, row.at(h), k, 2 * pair + 1) }, "bf16")
          end)
        end
      end
      for pair = 0, 1 do args[#args + 1] = along.word(k, run, 2 * four + pair) end
      local product = E.node("mma", "f32", args, "m16n8k16.bf16")
      c = {}
      for e = 0, 3 do c[e + 1] = E.node("register", "f32", { product }, e) end
    end
  end
  -- What takes more than half of the registers: one block is alone on its multiprocessor, and nobody else computes while its weights
  -- come. They are asked for a trip ahead.
  local L, several = weight.packed, X.tile.several
  local many = size > TRIP or several and along.staged or not along.staged and (L.float or several and #L.planes > 1)
  local ahead = many and loads_of(weight, c) or nil
  local out = reduce.loop(trip, i(0), along.trips, acc, zero, c, nil, nil, ahead)
  local loop = out[1].args[1]
  loop.staged, loop.streams, loop.loads = along.staged, "record " .. record.name, weight.name
  return out
end

-- The factors of Σ of weight · activation, its length, the places of its row and token, and its name; the weights are rounded to halves
-- as dsl/reduce.lua rounds them elsewhere.
local function parts_of(X, node)
  if node.imm ~= "sum" then unfit() end
  local w, x, weight, record = factors_of(X, node.args[2])
  local row, token, n = X.tile.places[w.args[1]], X.tile.places[x.args[1]], E.int_const(X:lower(node.args[1]))
  if not (row and token and n) then unfit() end
  return weight, record, n, row, token, weight.name .. "." .. record.name
end

-- The sum for one element of a tile.
local function sum(X, node)
  local weight, record, n, row, token, name = parts_of(X, node)
  local key = ("%s.%d.%d"):format(name, row.at(0).id, token.tile)
  local all = once(X.tile.memo, key, function() return accumulators(X, node.binds, n, weight, record, row, token) end)
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
local function fits(X, group)
  local first, used = group[1], X:arrays_of(group)
  local axes = first.axes
  if X.serial or not X.tiles or not (first.map.matrix and first.map.lane == "row") then return false end
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

-- Instances of one element a lane: rows `from` and up, and the tokens 2·(l mod 4) + j of the eight from t of the task on; n: rows in
-- all. Rows and tokens that are not there are read as the last eight and the last one, and not stored. tile: the tokens' number.
local function instance(X, vars, n, from, h, t, j, tile)
  local T = X.tile
  local function token(k) return add(t, k and add(mul(of_four(), i(2)), i(k)) or of_eight()) end
  local tok = place(X, j, tile, function(k)
    return add(T.t0, E.imin(token(k), add(T.left, i(1), -1)))
  end)
  local row = place(X, h, 0, function(k)
    local first = add(from, i(8 * k))
    if not T.whole then first = mul(E.imin(E.idiv(first, i(8)), i((n - 1) // 8)), i(8)) end
    return add(first, of_eight())
  end)
  local mask = E.cmp("ilt", token(j), T.left)
  if not T.whole then
    mask = E.node("band", "bool", { mask, E.cmp("ilt", add(add(from, i(8 * h)), of_eight()), i(n)) })
  end
  -- Where it is stored, absent or not: one address and constants.
  return { at = { [vars.row] = row, [vars.tok] = tok }, to = { [vars.row] = row, [vars.tok] = add(T.t0, token(j)) }, mask = mask }
end

-- The stores of a list of instances.
local function stores_of(X, group, maps)
  local list = {}
  for _, m in ipairs(maps) do
    for _, st in ipairs(group) do
      local idx = {}
      for k, e in ipairs(st.idx) do idx[k] = X:lower(E.subst(e, m.to)) end
      list[#list + 1] = { base = st.array.ws and "ws" or st.array.name, name = st.array.name,
        off = access.offset(st.array, idx), value = X:lower(E.subst(st.value, m.at)), storage = st.array.fmt,
        mask = m.mask, lanes = LANES }
    end
  end
  return list
end

-- How many sums a group has.
local function sums_in(group)
  local n, seen = 0, {}
  local function visit(x)
    if seen[x] then return end
    seen[x] = true
    if x.op == "reduce" then n = n + 1 end
    for _, a in ipairs(x.args) do visit(a) end
  end
  for _, st in ipairs(group) do visit(st.value) end
  return n
end

-- Each warp has 16 rows of the task's, and their sums.
local function in_rows(X, group, vars, n, r0)
  local warps = X.team // LANES
  local warp = E.var("warp", warps, 0)
  X.em:each(warp, i(0), i(warps), 1, function()
    X:forget()
    X.tile.reduce = sum
    local from, maps = add(r0, mul(warp, i(ROWS))), {}
    for tt = 0, X.tile.tokens // TOKENS - 1 do
      for j = 0, 1 do
        for h = 0, 1 do maps[#maps + 1] = instance(X, vars, n, from, h, i(TOKENS * tt), j, tt) end
      end
    end
    X.em:stores(stores_of(X, group, maps))
  end, warps)
end

-- Each warp has a part of the sums of all of the task's rows; then eight rows by eight tokens to finish, and eight more. Parts in
-- shared memory: [sum][part][eight tokens][eight rows][lane][2], of 32 bits.
local function in_parts(X, group, vars, n, r0, shape)
  local T, em = X.tile, X.em
  local eights = shape.rows // 8
  local pieces, bytes = shape.tokens // TOKENS * eights, LANES * 8
  local part, piece = E.var("part", shape.parts, 0), E.var("piece", nil, 0)
  local numbers, n_sums = {}, 0 -- of the sums
  local function at(name, p, k, j)
    if not numbers[name] then numbers[name], n_sums = n_sums, n_sums + 1 end
    local first = mul(add(mul(add(mul(i(numbers[name]), i(shape.parts)), p), i(pieces)), k), i(bytes))
    return add(first, add(mul(E.lane_var(LANES), i(8)), i(4 * j)))
  end
  em:each(part, i(0), i(shape.parts), 1, function()
    local list, left = {}, {}
    T.part = part
    for tt = 0, shape.tokens // TOKENS - 1 do
      for j = 0, 1 do
        for eight = 0, eights - 1 do
          local m = instance(X, vars, n, add(r0, i(eight // 2 * ROWS)), eight % 2, i(TOKENS * tt), j, tt)
          T.reduce = function(_, node)
            local _, _, _, _, _, name = parts_of(X, node)
            local off = at(name, part, i(tt * eights + eight), j)
            if not left[off] then
              left[off] = true
              list[#list + 1] = { base = T.partial, name = T.partial, off = off, value = sum(X, node), storage = "f32", lanes = LANES }
            end
            return E.f32(0)
          end
          X:forget()
          for _, st in ipairs(group) do X:lower(E.subst(st.value, m.at)) end
        end
      end
    end
    em:stores(list)
  end, shape.parts)
  local there = E.idivup(E.imin(T.left, i(shape.tokens)), TOKENS)
  em:each(piece, i(0), mul(there, i(eights)), 1, function()
    local t, from = mul(E.idiv(piece, i(eights)), i(TOKENS)), add(r0, mul(E.imod(piece, i(eights)), i(8)))
    local list = {}
    for j = 0, 1 do
      T.reduce = function(_, node)
        local _, _, _, _, _, name = parts_of(X, node)
        local values = {}
        for p = 0, shape.parts - 1 do values[p + 1] = access.ld(T.partial, "f32", at(name, i(p), piece, j), false) end
        while #values > 1 do -- neighbours, as the parts of a split loop are merged
          local pairs_of = {}
          for p = 1, #values, 2 do pairs_of[#pairs_of + 1] = E.fadd(values[p], values[p + 1]) end
          values = pairs_of
        end
        return values[1]
      end
      X:forget()
      table.move(stores_of(X, group, { instance(X, vars, n, from, 0, t, j, 0) }), 1, #group, #list + 1, list)
    end
    em:stores(list)
  end, X.team // LANES)
end

-- Bytes of parts of sums that a block keeps: 16 accumulators a thread, with which its registers suffice for two blocks on a
-- multiprocessor; where groups are functions together, 8.
local MOST_PARTIAL = 16 * 1024

-- Of a map's shapes of tasks the one for so many tokens.
function M.shape(shapes, tokens)
  for _, s in ipairs(shapes) do
    if not s.upto or tokens <= s.upto then return s end
  end
end

-- A group's tasks: their rows, tokens and parts of sums, how many it takes for all rows, sums, and bytes of their parts. joined: it is
-- not alone in its function.
local function tasks_of(X, group, joined)
  local given, n_sums, n = M.shape(group[1].map.matrix, X.upto or math.huge), sums_in(group), E.int_const(group[1].axes[2].len)
  local shape = { rows = given.rows, tokens = given.tok, parts = given.parts, stages = given.stages, n = n, n_sums = n_sums }
  -- Of eight rows the tiles' other eight are zeros.
  while (n + shape.rows - 1) // shape.rows < (given.tasks or 0) and shape.rows > 8 do shape.rows = shape.rows // 2 end
  shape.times = (n + shape.rows - 1) // shape.rows
  local function bytes() return shape.parts * shape.rows * shape.tokens * 4 * n_sums end
  local most = joined and MOST_PARTIAL // 2 or MOST_PARTIAL
  while shape.parts > 1 and bytes() > most and shape.tokens > TOKENS do shape.tokens = shape.tokens // 2 end
  shape.partial = bytes()
  return shape
end

-- A function for groups that have the same tokens; a group's tasks follow those of the one before it, for all rows, then for the
-- next tokens.
local function part_of(X, groups, name)
  local em, shapes, times, partial = X.em, {}, 0, 0
  for g, group in ipairs(groups) do
    shapes[g] = tasks_of(X, group, #groups > 1)
    shapes[g].from, times, partial = times, times + shapes[g].times, math.max(partial, shapes[g].partial)
  end
  local tokens = shapes[1].tokens
  local begin, finish = X:open_part(name)
  em.shared["staged"], em.shared["partial"] = STAGING, partial
  local task = E.var("task", nil, 0)
  em:each(task, begin, finish, 1, function()
    local t0, at = mul(E.idiv(task, i(times)), i(tokens)), E.imod(task, i(times))
    for g, group in ipairs(groups) do
      local s, tok, row = shapes[g], group[1].axes[1], group[1].axes[2]
      local mine = E.var("group", 1, g) -- 0, and so that nothing of a task of the others is read ahead of asking whose it is
      local first = mul(add(at, #groups > 1 and add(mine, i(-s.from)) or i(0)), i(s.rows))
      local function tasks()
        X:forget()
        X.tile = { t0 = t0, left = add(X:lower(tok.len), t0, -1), tokens = tokens, rows = s.rows, parts = s.parts, stages = s.stages,
                   staged = "staged", partial = "partial", places = {}, memo = {}, several = s.n_sums > 1, whole = s.n % s.rows == 0 }
        local make = s.parts > 1 and in_parts or in_rows
        make(X, group, { row = row, tok = tok }, s.n, first, s)
      end
      if #groups == 1 then
        tasks()
      else
        local is_mine = E.node("band", "bool", { E.cmp("ile", i(s.from), at), E.cmp("ilt", at, i(s.from + s.times)) })
        em:each(mine, i(0), E.select(is_mine, i(1), i(0)), 1, tasks)
      end
    end
  end)
  return X:close_part { times = times, per = tokens, dim = "tok" }
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

-- Which of the groups are functions together: list of lists. Where sums are split, each store is a group of its own, and those of a
-- phase are one launch instead of several too small to fill a GPU; the others would take each other's registers.
function M.together(X, groups)
  local lists, open = {}, {}
  for _, g in ipairs(groups) do
    if not (fits(X, g) and tasks_of(X, g).parts > 1) then
      lists[#lists + 1] = { g }
      goto continue
    end
    for _, st in ipairs(g) do
      local alone = { st, phase = g.phase }
      local key = g.phase .. "," .. tasks_of(X, alone, true).tokens
      if not open[key] then
        lists[#lists + 1] = {}
        open[key] = lists[#lists]
      end
      table.insert(open[key], alone)
    end
    ::continue::
  end
  return lists
end

-- The groups as a part; nil where one has no form in tiles.
function M.part(X, groups)
  for _, g in ipairs(groups) do
    if not fits(X, g) then return nil end
  end
  return M.attempt(X, function(name) return part_of(X, groups, name) end)
end

M.LANES, M.ROWS, M.of_four, M.of_eight, M.unfit = LANES, ROWS, of_four, of_eight, unfit

return M
