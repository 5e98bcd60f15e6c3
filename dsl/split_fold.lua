-- One token on a processor: a fold over many keys is shared by the threads.
--
-- A token has as many tasks in attention as there are groups of heads that share keys, which may be one. So where the map says
-- `split = AXIS`, a fold along that axis is made in two phases, both ordinary stores: the states of the axis' pages, each of
-- them a task, into the launch's workspace; then their merge in order, by the monoid's own `merge`. That is what the fold does where
-- nothing splits it (dsl/reduce.lua: tiles within pages, then pages), so results are the same bits, for any number of threads.

local E = require "dsl.expr"
local access = require "dsl.access"

local M = {}

local add, mul = E.iadd, E.imul
local function i(x) return E.int(x) end

-- The folds of a value that can be split along an axis, and whether their vectors are read along `lane` alone.
local function folds_of(value, axis, lane)
  local list, seen, fit = {}, {}, true
  E.rewrite(value, function(n)
    if n.op ~= "get" then return nil end
    local f = n.args[1]
    if f.binds.axis ~= axis or not f.monoid.many then return nil end
    fit = fit and (not n.args[2] or rawequal(n.args[2], lane))
    if not seen[f] then
      seen[f] = true
      list[#list + 1] = f
    end
  end)
  return fit and list or {}
end

-- What a store of one token becomes: those of its folds' states and of their merge; nil where it has none.
local function split(X, st, n_states)
  local axis, lane = st.map.split, nil
  for _, var in ipairs(st.axes) do if var.axis == st.map.lane then lane = var end end
  local folds = axis and lane and folds_of(st.value, axis, lane) or {}
  if #folds == 0 then return nil end
  local PAGE = i(access.PAGE)
  local page = E.var("page", nil, "split")
  page.len, page.dim, page.per = E.idivup(X.dim(axis), access.PAGE), axis, access.PAGE
  for _, f in ipairs(folds) do page.uneven = page.uneven or E.int_const(f.args[3]) ~= 0 end -- of a window the first pages are nothing
  local map = { task = { "page", table.unpack(st.map.task) }, lane = st.map.lane, unroll = st.map.unroll, shared = true }
  local fields = 0
  for _, f in ipairs(folds) do fields = fields + #f.fields end
  local states = { name = "states" .. n_states, fmt = "f32", layout = "dense", internal = true, pages = page.len,
                   dims = { { name = "page" }, { size = fields }, table.unpack(st.array.dims) } }
  local out, value_of, field = {}, {}, 0
  for _, f in ipairs(folds) do
    local first = mul(page, PAGE)
    local last = E.imin(f.args[1], add(first, PAGE))
    local from = E.imax(f.args[3], first)
    local args = table.move(f.args, 1, #f.args, 1, {})
    args[1], args[3], args[4], args[5] = last, from, last, from
    local of_page = E.with_args(f, args)
    local merged, q = {}, E.var("page", nil, "merge")
    for k, name in ipairs(f.fields) do
      local elem, here = f.args[5 + k], i(field)
      field = field + 1
      local vec = elem.op == "vec"
      out[k] = { array = states, idx = { page, here, table.unpack(st.idx) }, axes = { page, table.unpack(st.axes) }, map = map,
                 tune = st.tune, sizes = st.sizes,
                 value = E.node("get", vec and "f32" or elem.ty, { of_page, vec and lane or nil }, name) }
      local function state(at)
        local idx = { q, here }
        for n, e in ipairs(st.idx) do idx[n + 2] = E.subst(e, { [lane] = at }) end
        local load = E.node("load", "f32", idx, states.name)
        load.array = states
        return load
      end
      merged[k] = vec and E.node("vec", "vec", { elem.args[1], state(elem.binds) }, elem.imm, elem.binds) or state(i(0))
    end
    local n_pages, from_page = E.idivup(f.args[1], access.PAGE), E.idiv(f.args[3], PAGE)
    local merge = E.node("fold", "fold", { n_pages, E.bool(true), from_page, n_pages, from_page, table.unpack(merged) },
      f.imm .. " of " .. states.name, q)
    merge.monoid, merge.fields = { is_monoid = true, zero = f.monoid.zero, merge = f.monoid.merge }, f.fields
    value_of[f] = merge
  end
  local rest = {}
  for k, v in pairs(st) do rest[k] = v end
  rest.value = E.rewrite(st.value, function(n)
    local merge = n.op == "get" and value_of[n.args[1]]
    return merge and E.node("get", n.ty, { merge, n.args[2] }, n.imm)
  end)
  out[#out + 1] = rest
  return out, states
end

-- The stores of a launch for one token in its place. Second result: the arrays of states, of which each page has its own.
function M.stores(X, stores)
  local out, arrays = {}, {}
  local lone = not X.team and not X.serial and X.tok and E.int_const(X.tok) == 1
  for _, st in ipairs(stores) do
    local list, states = nil, nil
    if lone then list, states = split(X, st, #arrays + 1) end
    table.move(list or { st }, 1, #(list or { st }), #out + 1, out)
    arrays[#arrays + 1] = states
  end
  return out, arrays
end

return M
