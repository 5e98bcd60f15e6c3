-- Many tokens on a matrix unit: a group of stores over (token, row) in tiles of 16 rows by 8 tokens.
--
-- The lanes of a tile are those of the flat IR's mma (docs/ir.md): lane l of accumulator 2·i + j has row l div 4 + 8·i and
-- token 2·(l mod 4) + j. So an element of the output is an ordinary expression whose row and token depend on digits of the
-- lane number, and the four accumulators are instances like the copies of an unrolled axis: scales, sums and epilogue
-- are computed where the element is, by the rules that hold for any lanes. Only an integer dot differs (M.dot): it is a
-- product of tiles, whose operands are read at places of their own. A sum is continued run by run, in order of k.

local E = require "dsl.expr"
local access = require "dsl.access"

local M = {}

local add, mul = E.iadd, E.imul
local function i(x) return E.int(x) end

local LANES, ROWS, TOKENS = 32, 16, 8
local ROW_TILES = 2 -- of a task
local MOST_TILES = 4 -- token tiles of a task: with two row tiles, 32 accumulators a thread

local function of_four() return E.lane_digit(LANES, 1, 4) end  -- l mod 4
local function of_eight() return E.lane_digit(LANES, 4, 8) end -- l div 4

-- Raised where a kernel has no form in tiles; its tokens then go the other way, however many they are.
local function unfit() error({ no_tiles = true }) end

-- The integer dot of g codes from element e0 on, w being the weights' element and x the record's: per run of 32 or 16 an
-- mma on the accumulators of the one before.
function M.dot(X, kvar, kbase, e0, g, w, x, weight, record)
  local row, token = X.tile.places[w.args[1]], X.tile.places[x.args[1]]
  if not (row and token) or g % 16 ~= 0 then unfit() end
  local c = {}
  for k = 1, 4 do c[k] = access.iconst(0) end
  local run = g % 32 == 0 and 32 or 16
  for e = e0, e0 + g - 1, run do
    local args = table.move(c, 1, 4, 1, {})
    local function word(n, half) -- the lane's four elements of 16
      return X:lower(E.subst(n, { [kvar] = add(add(kbase, i(e + 16 * half)), mul(of_four(), i(4))) }))
    end
    for half = 0, run // 16 - 1 do
      for h = 0, 1 do
        args[#args + 1] = access.plane_groups(weight, row.at(h), word(w.args[2], half))
      end
    end
    for half = 0, run // 16 - 1 do -- B's tokens lie across the eights
      args[#args + 1] = access.record_codes4(record, token.at(), word(x.args[2], half))
    end
    local product = E.node("mma", "i32", args, ("m16n8k%d.u8s8"):format(run))
    for k = 0, 3 do c[k + 1] = E.node("register", "i32", { product }, k) end
  end
  local dot = c[2 * row.half + token.half + 1]
  if weight.packed.bias == 0 then return dot end
  -- What the codes' bias adds comes behind: as the first accumulators it would take registers of its own, four in a row.
  local start = access.record_field(record, ("dot%d_%d"):format(g, weight.packed.bias), x.args[1],
    X:lower(E.subst(x.args[2], { [kvar] = add(kbase, i(e0)) })))
  return access.i32op("iadd32", dot, start)
end

-- A place of the tile: the index `at(half)` there, and how to name others of the same tile.
local function place(X, half, at)
  local node = at(half)
  X.tile.places[node] = { half = half, at = at }
  return node
end

-- Token tiles of a task. Where an element has several products, one's results wait in registers for the next one's; scales
-- per 16 come with chunks of 128, whose words wait there too, each for several runs.
local function tiles_of(X, group, used)
  local n, seen = 0, {}
  local function visit(x)
    if seen[x] then return end
    seen[x] = true
    if x.op == "reduce" then n = n + 1 end
    for _, a in ipairs(x.args) do visit(a) end
  end
  for _, st in ipairs(group) do visit(st.value) end
  local fine = 0
  for name in pairs(used) do
    local o, per_16 = X.owners[name], 0
    for _, f in pairs(o and o.packed and o.def.fields or {}) do
      if f.per > 1 and f.per < 32 then per_16 = per_16 + 1 end
    end
    fine = math.max(fine, per_16)
  end
  if fine > 1 then unfit() end -- and minimums per 16 with them: too many
  local most = fine > 0 and 1 or MOST_TILES
  return n > 1 and math.max(1, most // n - 1) or most
end

-- Whether the group is one of products over packed integer codes, rows across the lanes.
local function fits(X, group, used)
  local first = group[1]
  local axes = first.axes
  if X.serial or not X.tiles or not (first.map.rows_across and first.map.lane == "row") then return false end
  if #axes ~= 2 or axes[1].axis ~= "tok" or axes[2].axis ~= "row" or not E.int_const(axes[2].len) then return false end
  local weights, records = false, false
  for name in pairs(used) do
    local o = X.owners[name]
    if o and o.record then records = records or o.fmt == "q8" end
    if o and o.packed then
      if o.packed.float or o.packed.lanes % 8 ~= 0 then return false end
      weights = true
    end
    if o and o.cache then return false end
  end
  for _, st in ipairs(group) do if st.array.cache then return false end end
  return weights and records
end

-- Instances of the tiles from row r0 and token t0 on; `left`: nil, or how many tokens from t0 on there are; n: rows in all.
-- Rows and tokens that are not there are read as the last eight and the last one, and not stored.
local function instances(X, row_var, tok_var, r0, t0, n_tiles, left, n)
  local maps = {}
  local function clamped(x) return left and E.node("imin", "i64", { x, add(left, i(1), -1) }) or x end
  local function store_mask(token, row)
    local mask = left and E.cmp("ilt", token, left)
    local there = n % (ROWS * ROW_TILES) ~= 0 and E.cmp("ilt", row, i(n))
    if mask and there then return E.node("band", "bool", { mask, there }) end
    return mask or there or E.bool(true)
  end
  for tt = 0, n_tiles - 1 do -- a token tile's instances are neighbours: they are computed together
    for j = 0, 1 do
      local function token(k) return add(i(TOKENS * tt), k and add(mul(of_four(), i(2)), i(k)) or of_eight()) end
      local t = place(X, j, function(k) return add(t0, clamped(token(k))) end)
      for rt = 0, ROW_TILES - 1 do
        for h = 0, 1 do
          local function eight(k) return add(r0, i(ROWS * rt + 8 * k)) end
          local r = place(X, h, function(k)
            local from = eight(k)
            if n % (ROWS * ROW_TILES) ~= 0 then
              from = mul(E.node("imin", "i64", { E.idiv(from, i(8)), i((n - 1) // 8) }), i(8))
            end
            return add(from, of_eight())
          end)
          maps[#maps + 1] = { [row_var] = r, [tok_var] = t, mask = store_mask(token(j), add(eight(h), of_eight())) }
        end
      end
    end
  end
  return maps
end

local function part_of(X, group, used, name)
  local em, first = X.em, group[1]
  local tok, row = first.axes[1], first.axes[2]
  local n = E.int_const(row.len)
  local rows = ROWS * ROW_TILES
  local n_rows = (n + rows - 1) // rows
  local n_tiles = tiles_of(X, group, used)
  local per = TOKENS * n_tiles
  local begin, finish = X:open_part(name)
  local task = E.var("task", nil, 0)
  local function body(t0, tiles, left)
    X.memo, X.mats, X.folds = {}, {}, {}
    X.tile = { row = of_eight(), places = {} }
    local list = {}
    for _, m in ipairs(instances(X, row, tok, mul(E.imod(task, i(n_rows)), i(rows)), t0, tiles, left, n)) do
      local map = { [row] = m[row], [tok] = m[tok] }
      for _, st in ipairs(group) do
        local idx = {}
        for k, e in ipairs(st.idx) do idx[k] = X:lower(E.subst(e, map)) end
        list[#list + 1] = { base = st.array.ws and "ws" or st.array.name, name = st.array.name,
          off = access.offset(st.array, idx), value = X:lower(E.subst(st.value, map)), storage = st.array.fmt,
          mask = m.mask, lanes = LANES }
      end
    end
    em.in_step = 4 * ROW_TILES
    em:stores(list)
    em.in_step = nil
  end
  em:each(task, begin, finish, 1, function()
    local t0 = mul(E.idiv(task, i(n_rows)), i(per))
    local last = E.node("imin", "i64", { add(t0, i(per)), X:lower(tok.len) })
    local whole = add(t0, mul(E.idiv(add(last, t0, -1), i(per)), i(per)))
    local t = E.var("tok*" .. per, nil, "w")
    em:each(t, t0, whole, per, function() body(t, n_tiles, nil) end)
    local s = E.var("tok*" .. TOKENS, nil, "t")
    em:each(s, whole, last, TOKENS, function() body(s, 1, add(last, s, -1)) end)
  end)
  return X:close_part { times = n_rows, per = per, dim = "tok" }
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
  return M.attempt(X, function(name) return part_of(X, group, used, name) end)
end

M.unfit = unfit

return M
