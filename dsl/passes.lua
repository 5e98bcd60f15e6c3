-- Many tokens on a processor: weights that are laborious to unpack (formats.layout) are unpacked once for all of them.
--
-- A sum over packed weights is made in passes over k. In a pass a task unpacks what it reads of its rows, code words and
-- factors of runs, into a panel on the function's stack that stays in the first-level cache. Then the tokens go by, a tile of them
-- after the other, and continue their sums, which lie in memory from pass to pass. So what unpacking costs is shared by all
-- tokens instead of a tile's. While tokens go by, the weights of the next panel are asked for. The other weights stay in the
-- second-level cache packed and are unpacked for each tile: where that is a shift and a mask, panels gain nothing.
-- The additions are those of one loop over k, in the same order: results are the same bits.

local E = require "dsl.expr"
local access = require "dsl.access"
local reduce = require "dsl.reduce"
local sums = require "dsl.sums"

local M = {}

local add, mul = E.iadd, E.imul
local function i(x) return E.int(x) end

local FEWEST = 32          -- tokens; for fewer, filling panels takes longer than is saved
local TOKENS = 256         -- whose part of k in a pass stays in the second-level cache
local PANEL = 12 * 1024    -- bytes: of a first-level cache of 32 KiB
local SUMS = 256 * 1024    -- bytes: of all sums of a run of tasks
local ASKED = 64           -- tokens, while which the next panel's weights are asked for
local LINE = 64            -- bytes: of a cache

-- What is read of a panel instead of being unpacked again: `node`, in the lanes of the rows, at the block kb and its chunk kc.
local Pass = {}
Pass.__index = Pass

function Pass:kept(node)
  local slot = self.slots[node]
  if not slot then
    self.list[#self.list + 1] = node
    slot = #self.list - 1
    self.slots[node] = slot
    self.panel.bytes = #self.list * self.chunks * self.vector
  end
  return E.node("sld", node.ty, { self.panel, self:at(slot) })
end

function Pass:at(slot)
  local chunk = add(mul(add(self.kb, self.lo, -1), i(self.nc)), self.kc or i(0))
  return add(mul(add(i(slot * self.chunks), chunk), i(self.vector)), mul(E.lane_var(self.vector // 4), i(4)))
end

-- The loop over blocks kb of nc chunks kc starts.
function Pass:over(kb, kc, nc)
  self.kb, self.kc, self.nc, self.chunks = kb, kc, nc, self.blocks * nc
end

-- Asks for what will fill the panels of the task `tile` from block lo on, a part of it for each of the first tiles of tokens:
-- nth is the tile's number.
local function ask(X, weights, rows, tile, lo, blocks, block, nth, u)
  for _, w in ipairs(weights) do
    for r = 0, rows.unroll - 1 do
      local row = E.subst(w.row, { [rows.var] = mul(add(mul(tile, i(rows.unroll)), i(r)), i(X.pack_lanes)) })
      local from, bytes = access.packed_blocks(w.array, row, mul(lo, i(block)))
      bytes = bytes * blocks * block // w.array.def.block
      local lines = (bytes + LINE - 1) // LINE
      local part = math.min(lines, (lines * u + ASKED - 1) // ASKED)
      local at = add(from, E.imin(mul(nth, i(part * LINE)), i(math.max(0, bytes - part * LINE))))
      for l = 0, part - 1 do X.em:prefetch(w.array.name, add(at, i(l * LINE))) end
    end
  end
end

local function new_pass(X, sum, tile, lo, hi, blocks)
  local p = setmetatable({ lo = lo, hi = hi, blocks = blocks, vector = 4 * X.pack_lanes, slots = {}, list = {} }, Pass)
  p.panel = E.node("panel", "ptr", { lo, tile }, sum.id)
  function p.panel.fill(base)
    local function chunk()
      local stores = {}
      for k, node in ipairs(p.list) do
        stores[k] = { base = base, name = base, storage = node.ty, lanes = X.pack_lanes, off = p:at(k - 1), value = node }
      end
      X.em:stores(stores)
    end
    X.em:each(p.kb, lo, hi, 1, function()
      if not p.kc then return chunk() end
      X.em:each(p.kc, i(0), i(p.nc), 1, chunk)
    end)
  end
  return p
end

-- Emits the whole tiles of tokens of a product (store_tasks in dsl/lower.lua) where there are enough of them: tokens.lo is
-- then where the rest begins.
function M.emit(X, product)
  local em, rows, tokens, u, L = X.em, product.rows, product.tokens, product.tokens.unroll, X.pack_lanes
  local most = math.max(1, TOKENS // u) * u
  local list = sums.of(product.group, function(n) return reduce.blocks(X, n, rows.var) end)
  if #list == 0 then return end
  local tasks = math.max(1, SUMS // (#list * most * 4 * L * rows.unroll))
  local at = E.var("tok*" .. most, nil, "pass")
  local whole = E.whole(tokens.lo, tokens.hi, u)
  local many = E.imin(i(1), E.idiv(add(whole, tokens.lo, -1), i(FEWEST)))
  local to = E.imin(add(at, i(most)), whole)
  local function instances(f, before)
    local v = E.var("tok*" .. u, nil, "pass")
    em:each(v, at, to, u, function()
      if before then before(E.idiv(add(v, at, -1), i(u))) end
      local maps = {}
      for t = 0, u - 1 do maps[t + 1] = { [tokens.var] = add(v, i(t)) } end
      product.each_row(maps, f)
    end)
  end
  local function in_passes(kept, k, sum, each_task, run, last)
    each_task(function(maps) kept:store(k, maps, function() return E.f32(0) end) end)
    local n, block, bytes = reduce.blocks(X, sum, rows.var)
    local weights = sums.weights_of(X, sum)
    local blocks = math.max(1, math.min(n, PANEL // bytes))
    local pass = E.var("pass", (n + blocks - 1) // blocks, "pass")
    em:each(pass, i(0), i((n + blocks - 1) // blocks), 1, function()
      local lo = mul(pass, i(blocks))
      local hi = n % blocks == 0 and add(lo, i(blocks)) or E.imin(add(lo, i(blocks)), i(n))
      each_task(function(maps)
        X:forget()
        local passes = {}
        kept:store(k, maps, function(m)
          local tile = E.idiv(m[rows.var], i(L))
          passes[tile] = passes[tile] or new_pass(X, sum, tile, lo, hi, blocks)
          X.pass = passes[tile]
          X.pass.init = E.subst(kept.place[k], m)
          return X:lower(E.subst(sum, m))
        end)
        X.pass = nil
      end, function(nth)
        local task = product.task
        local more = E.cmp("ilt", add(task, i(1)), last)
        ask(X, weights, rows, E.select(more, add(task, i(1)), run), E.select(more, lo, hi), blocks, block, nth, u)
      end)
    end)
  end
  em:each(E.var("tok?" .. u, 2, "pass"), i(0), many, 1, function()
    em:each(at, tokens.lo, whole, most, function()
      sums.in_runs(X, product, list, { tasks = tasks, vectors = most, index = add(tokens.var, at, -1), instances = instances }, in_passes)
    end)
  end)
  tokens.lo = add(tokens.lo, mul(many, add(whole, tokens.lo, -1)))
end

return M
