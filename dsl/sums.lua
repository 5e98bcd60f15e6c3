-- Sums over packed weights that lie in memory for a while, instead of being part of what a group of stores computes at once:
-- each is computed for a whole run of tasks, and the stores read what it came to (`M.in_runs`).
--
-- One token's launch reads its weights once, as fast as memory gives them. A task that needs rows of several matrices, such as
-- gate and up, goes from one to the other every few KiB, and each time memory has to be asked anew. Sum by sum, a run of
-- tasks reads one matrix, then the next (`M.one_by_one`). Passes over k (dsl/passes.lua) are the other reader.

local E = require "dsl.expr"

local M = {}

local add, mul = E.iadd, E.imul
local function i(x) return E.int(x) end

local RUN = 64 -- tasks, whose part of a matrix one token's launch reads in one go: 1 to 4 MiB of a large model

local Kept = {}
Kept.__index = Kept

-- The sums in a group of stores that `is(node)` wants, each once.
function M.of(group, is)
  local list, seen = {}, {}
  for _, st in ipairs(group) do
    E.rewrite(st.value, function(n)
      if n.op == "reduce" and is(n) then list[#list + 1] = n end
    end, seen)
  end
  return list
end

-- The packed weights that a sum reads, as loads.
function M.weights_of(X, sum)
  local list = {}
  E.rewrite(sum, function(n)
    local o = n.op == "load" and X:owner_of(n)
    if o and o.packed then list[#list + 1] = { array = o, row = n.args[1] } end
  end)
  return list
end

-- Stores the k-th sum of each instance: value_of(its index substitutions).
function Kept:store(k, maps, value_of)
  local list, ld = {}, self.place[k]
  for n, m in ipairs(maps) do
    list[n] = { base = ld.base, name = ld.base, storage = "f32", lanes = self.lanes, off = E.subst(ld.args[1], m), value = value_of(m) }
  end
  self.X.em:stores(list)
end

-- The tasks of a product (store_tasks in dsl/lower.lua), `how.tasks` at a time: compute(kept, k, sum, each_task, run, last) has
-- the k-th sum of `list` computed and stored for tasks run … last − 1, then the product's stores read all of them.
-- each_task(f, before) calls how.instances(f, before) in each task, which calls f with index substitutions. how.vectors: of a sum, a tile
-- of rows; how.index: which of them an instance has.
function M.in_runs(X, product, list, how, compute)
  local em, rows, L = X.em, product.rows, X.pack_lanes
  local run = E.var("run", nil, "sums")
  local tile = add(E.idiv(rows.var, i(L)), mul(run, i(rows.unroll)), -1)
  local kept = setmetatable({ X = X, lanes = L, place = {} }, Kept)
  for k, sum in ipairs(list) do
    local base = em:scratch(how.tasks * rows.unroll * how.vectors * 4 * L)
    local at = add(mul(tile, i(how.vectors)), how.index)
    local ld = E.node("ld", "f32", { add(mul(at, i(4 * L)), mul(E.imod(rows.var, i(L)), i(4))) }, base)
    ld.base, ld.storage = base, "f32"
    kept.place[k], kept.place[sum] = ld, ld
  end
  local values = {}
  for k, st in ipairs(product.group) do values[k] = E.rewrite(st.value, function(_, x) return kept.place[x] end) end
  em:each(run, product.begin, product.finish, how.tasks, function()
    local last = E.imin(add(run, i(how.tasks)), product.finish)
    local function each_task(f, before) em:each(product.task, run, last, 1, function() how.instances(f, before) end) end
    for k, sum in ipairs(list) do compute(kept, k, sum, each_task, run, last) end
    each_task(function(maps) product.store(maps, values) end)
  end)
end

-- A product with several sums over packed weights, of one token. There are no tokens left then.
function M.one_by_one(X, product)
  local em, rows, tokens = X.em, product.rows, product.tokens
  local list = M.of(product.group, function(n)
    return n.imm == "sum" and n.deps[rows.var] and #M.weights_of(X, n) > 0
  end)
  if #list < 2 then return end
  local n = add(tokens.hi, tokens.lo, -1)
  local alone = E.cmp("ilt", n, i(2))
  local function instances(f) product.each_row({ { [tokens.var] = tokens.lo } }, f) end
  em:each(E.var("alone", 2, "sums"), i(0), E.select(alone, n, i(0)), 1, function()
    M.in_runs(X, product, list, { tasks = RUN, vectors = 1, index = i(0), instances = instances }, function(kept, k, sum, each_task)
      each_task(function(maps)
        X:forget()
        kept:store(k, maps, function(m) return X:lower(E.subst(sum, m)) end)
      end)
    end)
  end)
  tokens.hi = E.select(alone, tokens.lo, tokens.hi)
end

return M
