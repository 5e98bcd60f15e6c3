-- Sums over packed weights that lie in memory for a while, instead of being part of what a group of stores computes at once:
-- each is computed for a whole run of tasks, and the stores read what it came to.
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

-- Room for `count` vectors of each sum of a list; index: which of them has the sum of a row (an expression of `rows`, the
-- axis across the lanes, and what else tells sums apart).
function M.keep(X, list, rows, count, index)
  local L = X.pack_lanes
  local kept = setmetatable({ X = X, lanes = L, place = {} }, Kept)
  for k, sum in ipairs(list) do
    local base = X.em:scratch(count * 4 * L)
    local ld = E.node("ld", "f32", { add(mul(index, i(4 * L)), mul(E.imod(rows.var, i(L)), i(4))) }, base)
    ld.base, ld.storage = base, "f32"
    kept.place[k], kept.place[sum] = ld, ld
  end
  return kept
end

-- Stores the k-th sum of each instance: value_of(its index substitutions).
function Kept:store(k, maps, value_of)
  local list, ld = {}, self.place[k]
  for n, m in ipairs(maps) do
    list[n] = { base = ld.base, name = ld.base, storage = "f32", lanes = self.lanes, off = E.subst(ld.args[1], m), value = value_of(m) }
  end
  self.X.em:stores(list)
end

-- What a group stores, with its sums read from where they lie.
function Kept:values(group)
  local values = {}
  for k, st in ipairs(group) do values[k] = E.rewrite(st.value, function(_, x) return self.place[x] end) end
  return values
end

-- The sums over packed weights of a group whose stores need several of them.
local function several(X, group, rows)
  local list = M.of(group, function(n)
    if n.imm ~= "sum" or not n.deps[rows.var] then return false end
    local packed = false
    E.rewrite(n, function(x)
      local o = x.op == "load" and X:owner_of(x)
      packed = packed or o and o.packed
    end)
    return packed
  end)
  return #list > 1 and list or nil
end

-- A product (store_tasks in dsl/lower.lua) with several sums, of one token. There are no tokens left then.
function M.one_by_one(X, arg)
  local em, rows, tokens = X.em, arg.rows, arg.tokens
  local list = several(X, arg.group, rows)
  if not list then return end
  local run = E.var("run", nil, "sums")
  local kept = M.keep(X, list, rows, RUN * rows.unroll, add(E.idiv(rows.var, i(X.pack_lanes)), mul(run, i(rows.unroll)), -1))
  local n = add(tokens.hi, tokens.lo, -1)
  local alone = E.cmp("ilt", n, i(2))
  em:each(E.var("alone", 2, "sums"), i(0), E.select(alone, n, i(0)), 1, function()
    em:each(run, arg.begin, arg.finish, RUN, function()
      local function each_task(f)
        em:each(arg.task, run, E.imin(add(run, i(RUN)), arg.finish), 1, function() arg.each_row({ { [tokens.var] = tokens.lo } }, f) end)
      end
      for k, sum in ipairs(list) do
        each_task(function(maps)
          X:forget()
          kept:store(k, maps, function(m) return X:lower(E.subst(sum, m)) end)
        end)
      end
      local values = kept:values(arg.group)
      each_task(function(maps) arg.store(maps, values) end)
    end)
  end)
  tokens.hi = E.select(alone, tokens.lo, tokens.hi)
end

return M
