-- Many tokens on a processor's tile registers: the integer dots of 16 tokens with a tile of 16 rows are one product of tiles
-- in memory (tiledot in docs/ir.md).
--
-- Of a product nothing else changes. The tokens are instances like those of any unrolled axis: scales, sums and epilogue are
-- computed for each in its lanes of rows, by the rules and in the order that hold for dot4, to which an integer dot is equal
-- in every bit. So the results are those of the class.
--
-- A: the tokens' codes where they lie in their records, one record a row. B: the codes of a tile of rows, unpacked to bytes
-- less their bias once a task, into a panel on the function's stack, [element / 4][row][element % 4], and used for all tiles
-- of tokens. C: on the stack, a buffer for each product that stands in the text; its row t is token t's dots, in the lanes of
-- the rows.

local E = require "dsl.expr"
local access = require "dsl.access"

local M = {}

local add, mul = E.iadd, E.imul
local function i(x) return E.int(x) end

local LANES = 16
M.IN_STEP = 4 -- sums continued together: beside the accumulators of 16 tokens there are 16 registers left
local CACHE = 1024 * 1024     -- of a core's second level, for tokens' codes: processors with AMX have 2 MiB
local MOST_BYTES = 512 * 1024 -- of a function's panels

-- The runs that one product sums over, longest first.
local RUNS = { 64, 32, 16 }

-- Whether products of packed integer codes, rows across the lanes, can go by tiles: `rows` tiles of rows have panels at once.
function M.fit(X, map, used, rows)
  if not X.tiledot or X.serial or X.pack_lanes ~= LANES or not map.rows_across then return false end
  local bytes, records = 0, false
  for name in pairs(used) do
    local o = X.owners[name]
    if o and o.record then records = records or o.fmt == "q8" end
    if o and o.packed and not o.packed.float then bytes = bytes + LANES * o.dims[#o.dims].size end
  end
  return records and bytes > 0 and bytes * rows <= MOST_BYTES
end

-- How many tokens' codes stay in the cache while one task after the other reads them: a multiple of a tile's.
function M.tokens(X, used, tile)
  local width = 1
  for name in pairs(used) do
    local o = X.owners[name]
    if o and o.record then width = math.max(width, o.n) end
  end
  return math.max(1, CACHE // (tile * width)) * tile
end

-- The tokens first … first + tokens − 1 as instances. any: the variable of a loop that is entered where there are tiles of
-- tokens, and inside of which panels are filled.
function M.new(any, first, tokens)
  local places = {}
  for t = 0, tokens - 1 do places[add(first, i(t))] = { first = add(first, i(t - t % LANES)), row = t % LANES } end
  return { any = any, places = places }
end

-- Four codes less their bias, as signed bytes: no byte carries into the next, since a code is at most 127 more than the bias.
local function less_bias(bias, codes)
  if bias == 0 then return codes end
  if bias < 128 then codes = access.i32op("iadd32", codes, access.iconst((128 - bias) * 0x01010101)) end
  return access.i32op("ixor", codes, access.iconst(0x80808080))
end

-- The panel of the tile of rows that `row` names in lanes.
local function panel(X, weight, row)
  local n = weight.dims[#weight.dims].size
  local p = E.node("panel", "ptr", { E.idiv(row, i(LANES)), X.panel.any }, weight.name)
  p.bytes = LANES * n
  function p.fill(base)
    local L, block = weight.packed, weight.def.block
    local kb, kc = E.var("panel/" .. block, n // block, "b"), E.var("panel/" .. L.chunk, block // L.chunk, "c")
    local em, nc = X.em, block // L.chunk
    local function chunk(k)
      local list = {}
      for e = 0, L.chunk - 1, 4 do
        local at = add(k, i(e))
        list[#list + 1] = { base = base, name = base, storage = "i32", lanes = LANES,
                            off = add(mul(at, i(LANES)), mul(E.lane_var(LANES), i(4))),
                            value = less_bias(L.bias, access.plane_groups(weight, row, at)) }
      end
      em:stores(list)
    end
    em:each(kb, i(0), i(n // block), 1, function()
      if nc == 1 then return chunk(mul(kb, i(block))) end
      em:each(kc, i(0), i(nc), 1, function() chunk(add(mul(kb, i(block)), mul(kc, i(L.chunk)))) end)
    end)
  end
  return p
end

-- The integer dot of g codes from element `k` of token `token`'s record and from element `e` of the rows on; nil where it is
-- no product of tiles.
function M.dot(X, g, weight, row, e, record, token, k)
  local place = X.panel.places[token]
  local bias = weight.packed.bias
  if not place or g % RUNS[#RUNS] ~= 0 then return nil end
  if bias > 0 and (bias > 128 or (1 << weight.def.code.width) - 1 - bias > 127) then return nil end
  local b = panel(X, weight, row)
  local sum
  local from = 0
  for _, run in ipairs(RUNS) do
    while g - from >= run do
      local codes = access.record_codes(record, place.first, add(k, i(from)))
      local c = E.node("tiledot", "ptr", { b, codes, mul(add(e, i(from)), i(LANES)) },
        ("m16n16k%d.s8%s stride %d"):format(run, bias > 0 and "s8" or "u8", record.stride))
      local dots = E.node("sld", "i32", { c, add(i(4 * LANES * place.row), mul(E.lane_var(LANES), i(4))) })
      sum = sum and access.i32op("iadd32", sum, dots) or dots
      from = from + run
    end
  end
  return sum
end

return M
