-- Folds of many elements on a matrix unit: the tile path of reduce.fold's `many` (attention over a prompt).
--
-- A warp folds for 16 rows at once, a row being an output (a token and one of the heads that share keys), over tiles of
-- keys. The lanes are those of the flat IR's mma (docs/ir.md): lane l of accumulator 2·h + b has row l div 4 + 8·h, so a row
-- of the state lies in the lanes l div 4 of half h. `many` and `merge` are evaluated there as they stand, by the rules for any
-- lanes; three things have rules of their own here:
--
--   a sum of products of two factors that are rounded alike, one of the row and one of a column (a key, an element of the
--   value), is a product of tiles ("product"): an accumulator of an mma, whose operands are the factors at their own places;
--   a sum of numbers that are rounded is such a product with ones;
--   a sum or maximum over a tile's keys ("across") is one over the registers and then over the lanes l mod 4;
--   a vec() read at an index is its element there: what a tile's keys have is in registers.
--
-- An axis has one place for its elements, whether it is a product's columns or contracted: so the weights of attention are
-- computed where its second product reads them.

local E = require "dsl.expr"
local access = require "dsl.access"
local reduce = require "dsl.reduce"
local tile = require "dsl.tile"

local M = {}

local add, mul = E.iadd, E.imul
local function i(x) return E.int(x) end
local LANES, ROWS, of_four, of_eight, unfit = tile.LANES, tile.ROWS, tile.of_four, tile.of_eight, tile.unfit

local TASK_ROWS = 128 -- rows of eight neighbouring tasks: a block's warps, which share keys
local MOST_COLUMNS = 128 -- elements of a vector that a task folds: 64 registers a thread; wider ones are several tasks

-- Places along an axis of n elements, in its n div 8 tiles of columns: column 2·(l mod 4) + b of tile c, and all columns of
-- tile c across the lanes l div 4. Neighbouring elements are the same column of neighbouring tiles, up to eight: what a lane
-- reads of a row of memory for them is contiguous.
local function neighbours(n) return reduce.pow2_divisor(n // 8, 8) end
local function column_at(n, c, column)
  local run = neighbours(n)
  return add(mul(column, i(run)), i(c // run * 8 * run + c % run))
end
local function at_pair(n, c, b) return column_at(n, c, add(mul(of_four(), i(2)), i(b))) end
local function at_column(n, c) return column_at(n, c, of_eight()) end

-- Two numbers rounded to 16 bits as one word, the first lowest.
local function word(fmt, low, high)
  local function exact(x) -- what is f16 already stays in sight
    local y = fmt == "f16" and access.nearest(fmt, x)
    return y and y.op ~= "fptrunc" and E.cast("fpext", "f32", y) or x
  end
  return E.node("pair", "i32", { exact(low), exact(high) }, fmt)
end
local ONES = { f16 = 0x3c003c00, bf16 = 0x3f803f80 } -- 1 twice

-- The tile of `many`: what is lowered by name ------------------------------------------------------------------------------

-- T: { row = the row's variable, keys = of a tile, rows = {h -> its place}, place_of = {node -> {h} or {c, b, n}},
--      outside = {variables of loops around a tile}, products, sums: by number, what their nodes stand for; inner, state: the fold's values within its
--      loop and after it, {field -> {h -> value or {c -> {b -> value}}}} }
local T = {}
T.__index = T

local function pair(t, n, c, b, from)
  local node = add(at_pair(n, c, b), from or i(0))
  t.place_of[node] = { c = c, b = b, n = n, from = from }
  return node
end

-- A node that stands for a sum of products: over its row and its column.
local function product_node(X, n)
  local t, body, kvar, len = X.tile, n.args[2], n.binds, reduce.bound_of(n.args[1])
  if n.imm ~= "sum" or not len or len % 16 ~= 0 then unfit() end
  local a, b = body, nil
  if body.op == "fmul" then
    a, b = body.args[1], body.args[2]
    if not a.deps[t.row] then a, b = b, a end
    if a.op ~= "rounded" or b.op ~= "rounded" or a.imm ~= b.imm or b.deps[t.row] or not b.deps[kvar] then unfit() end
    -- With 8 bits of a weight it shows which largest one it is measured by: tiles are those of every target.
    if a.imm == "bf16" and t.keys ~= access.TILE then unfit() end
  end
  if not (a.deps[t.row] and a.deps[kvar]) then unfit() end
  local column
  for v in pairs(body.deps) do
    if v.op == "var" and not t.outside[v] and not rawequal(v, kvar) and not rawequal(v, t.row) then
      if column or a.deps[v] then unfit() end
      column = v
    end
  end
  if b and not column then unfit() end
  local key = ("%d,%d"):format(body.id, kvar.id)
  if not t.products[key] then
    t.products[#t.products + 1] = { fmt = a.imm, a = access.short(a.args[1]), b = b and access.short(b.args[1]), kvar = kvar, len = len, column = column,
                                    done = {}, together = {} }
    t.products[key] = #t.products
  end
  return E.node("product", "f32", { t.row, column }, t.products[key])
end

-- The expression with sums as nodes of the tile; tile_n: the length of `many`'s axis.
local function prepared(X, n, tile_n)
  local t = X.tile
  return E.rewrite(n, function(x)
    if x.op == "at" and x.args[1].op == "vec" then
      local v = x.args[1]
      if v.imm ~= "local" then unfit() end
      return prepared(X, E.subst(v.args[2], { [v.binds] = x.args[2] }), tile_n)
    end
    if x.op ~= "reduce" then return nil end
    local kvar, body = x.binds, x.args[2]
    local factor = body.op == "fmul" and body.args[1] or body
    if factor.op == "rounded" and x.imm == "sum" then return product_node(X, x) end
    if not rawequal(x.args[1], tile_n) then unfit() end
    for v in pairs(body.deps) do
      if not (t.outside[v] or rawequal(v, t.row) or rawequal(v, kvar)) then unfit() end
    end
    local key = ("%s,%d,%d"):format(x.imm, body.id, kvar.id)
    if not t.sums[key] then
      t.sums[#t.sums + 1] = { max = x.imm == "max", body = body, kvar = kvar }
      t.sums[key] = #t.sums
    end
    return E.node("across", "f32", { t.row }, t.sums[key])
  end)
end

-- The mma that ends tile c of a product's columns, of n; `together` with the neighbours that read the same rows of memory.
local function accumulators(X, p, c, n, from)
  if p.done[c] then return p.done[c] end
  local t = X.tile
  local acc, last = { E.f32(0), E.f32(0), E.f32(0), E.f32(0) }, nil
  for s = 0, p.len // 16 - 1 do
    local args = table.move(acc, 1, 4, 1, {})
    local function operand(x, var, at, r)
      local function element(b) return X:lower(E.subst(x, { [var] = at, [p.kvar] = pair(t, p.len, 2 * s + r, b) })) end
      args[#args + 1] = word(p.fmt, element(0), element(1))
    end
    for r = 0, 1 do
      for h = 0, 1 do operand(p.a, t.row, t.rows[h], r) end
    end
    for r = 0, 1 do
      if p.b then operand(p.b, p.column, add(at_column(n, c), from or i(0)), r) else args[#args + 1] = access.iconst(ONES[p.fmt]) end
    end
    last = E.node("mma", "f32", args, ("m16n8k16.%s"):format(p.fmt))
    for k = 0, 3 do acc[k + 1] = E.node("register", "f32", { last }, k) end
  end
  p.done[c] = acc
  if p.b then
    local run = neighbours(n)
    local key = c // run
    p.together[key] = p.together[key] or {}
    table.insert(p.together[key], last)
    last.together = p.together[key]
    for other = key * run, key * run + run - 1 do accumulators(X, p, other, n, from) end
  end
  return acc
end

function T.product(X, n)
  local t = X.tile
  local row, column = t.place_of[n.args[1]], n.args[2] and t.place_of[n.args[2]] or { c = 0, b = 0 }
  return accumulators(X, t.products[n.imm], column.c, column.n, column.from)[2 * row.h + column.b + 1]
end

local XOR = {}
for _, bit in ipairs { 1, 2 } do
  local lanes = {}
  for l = 0, LANES - 1 do lanes[l + 1] = l ~ bit end
  XOR[bit] = table.concat(lanes, " ")
end

-- Over the registers as a tree, then over the four lanes that have a row.
function T.across(X, n)
  local t, sum = X.tile, X.tile.sums[n.imm]
  local combine, list = sum.max and E.fmax or E.fadd, {}
  for c = 0, t.keys // 8 - 1 do
    for b = 0, 1 do
      list[#list + 1] = X:lower(E.subst(sum.body, { [t.row] = n.args[1], [sum.kvar] = pair(t, t.keys, c, b) }))
    end
  end
  while #list > 1 do
    local half = {}
    for k = 1, #list, 2 do half[#half + 1] = combine(list[k], list[k + 1]) end
    list = half
  end
  local total = list[1]
  if not total.lane then unfit() end
  for _, bit in ipairs { 1, 2 } do total = combine(total, E.node("shuffle", "f32", { total }, XOR[bit])) end
  return total
end

-- A field of a state at a row, of a vec() at its element there.
local function value_of(t, state, n)
  local v = state[n.imm][t.place_of[n.args[1]].h]
  if not n.args[2] then return v end
  local at = t.place_of[n.args[2]]
  return v[at.c][at.b]
end
function T.carried(X, n) return value_of(X.tile, X.tile.inner, n) end
function T.field(X, n) return value_of(X.tile, X.tile.state, n) end

-- Comparisons with the constant on one side alone, minima with none on the first: of a tile's keys only that differs.
local function compare(op)
  return function(X, n)
    local a, b = X:lower(n.args[1]), X:lower(n.args[2])
    if not a.lane then return E.cmp(op, a, b) end
    local const = E.terms_of(a)
    return E.cmp(op, i(const), add(b, add(a, i(const), -1), -1))
  end
end
T.ilt, T.ile = compare("ilt"), compare("ile")
function T.imin(X, n)
  local a, b = X:lower(n.args[1]), X:lower(n.args[2])
  local const = i(a.lane and E.terms_of(a) or 0)
  return add(E.imin(add(a, const, -1), add(b, const, -1)), const)
end

-- The fold -----------------------------------------------------------------------------------------------------------------

-- Names of a state's values, in the order of the carries: {field, h, c, b}; n[f]: elements of a vec() field.
local function slots(names, n)
  local list = {}
  for _, f in ipairs(names) do
    for c = 0, (n[f] or 8) // 8 - 1 do
      for h = 0, 1 do
        for b = 0, n[f] and 1 or 0 do list[#list + 1] = { f = f, h = h, c = n[f] and c, b = b } end
      end
    end
  end
  return list
end

local function put(state, s, v)
  local f = state[s.f] or {}
  state[s.f] = f
  if not s.c then f[s.h] = v return end
  f[s.h] = f[s.h] or {}
  f[s.h][s.c] = f[s.h][s.c] or {}
  f[s.h][s.c][s.b] = v
end

local function number(v) return type(v) == "number" and E.f32(v) or v end

-- A field as a monoid gives it; of a vector, its element idx.
local function element_of(f, v, idx)
  if v == nil then error({ kernel_error = ("the monoid gives no field '%s', which its elements have"):format(f) }) end
  if type(v) == "number" then return E.f32(v) end
  return idx and v[idx] or v
end

-- Keys of a tile: as many as leave a thread registers beside its rows' factors, its part of the vectors and the scores: a
-- quarter of the width, half of the columns and half of the keys. In a window also: where its two rows start to see keys, and the
-- addresses of a quarter of the keys where it takes several loads to read a key's vector, 64 bits each. With more of them
-- ptxas spills.
local HELD = 80
local function keys_of(along, windowed)
  local function held(keys)
    local window = windowed and 4 + (along.width > 8 * neighbours(along.width) and keys // 2 or 0) or 0
    return along.width // 4 + along.n // 2 + keys // 2 + window
  end
  local keys = access.TILE
  while keys > 16 and held(keys) > HELD do keys = keys // 2 end
  return keys
end

-- The fold of the rows of X.tile; bounds: {first, last} of the rows as values of X.tile.row; along: {n, from, width} of its
-- vectors' elements the n from `from` on.
local function fold(X, node, bounds, along)
  local t, monoid, names = X.tile, node.monoid, node.fields
  local len, when, from, jvar = node.args[1], node.args[2], node.args[3], node.binds
  local TILE = keys_of(along, E.int_const(from) ~= 0)
  t.keys = TILE
  local widths, axis, elem = {}, {}, {}
  for k, f in ipairs(names) do
    elem[f] = node.args[5 + k]
    if elem[f].op == "vec" then
      widths[f], axis[f] = along.n, elem[f].binds
      if E.int_const(elem[f].args[1]) ~= along.width then unfit() end
    elseif elem[f].ty ~= "f32" then unfit() end
  end
  local list = slots(names, widths)
  local carries, inits, inner, zero = {}, {}, {}, monoid.zero()
  for k, s in ipairs(list) do
    carries[k] = reduce.carry(("F%s%s.%s.%s.%d"):format(s.f, s.h, s.c, s.b, node.id), "f32", LANES)
    if type(zero[s.f]) ~= "number" then unfit() end
    inits[k] = number(zero[s.f])
    put(inner, s, carries[k])
  end
  local function at_row(e, row) return X:lower(E.subst(e, { [t.row] = row })) end
  local tile_var = E.var(jvar.axis .. "/" .. TILE, nil, jvar.imm .. "t")
  t.outside[tile_var] = true
  local base = mul(tile_var, i(TILE))

  -- The state after one more tile; masked: some row does not see some of its keys.
  local function step(masked)
    local last = at_row(len, bounds.last)
    local function valid(j)
      local ok = E.cmp("ilt", j, add(len, base, -1))
      if E.int_const(from) ~= 0 then ok = E.node("band", "bool", { ok, E.cmp("ile", add(from, base, -1), j) }) end
      return ok
    end
    local function condition(j)
      local seen = when.op ~= "const" and E.subst(when, { [jvar] = add(base, j) })
      if not masked then return seen or E.bool(true) end
      return seen and E.node("band", "bool", { valid(j), seen }) or valid(j)
    end
    local view = { n = E.node("bounded", "i64", { add(last, base, -1) }, TILE) }
    for _, f in ipairs(names) do
      local v = elem[f]
      if v.op == "vec" then
        view[f] = setmetatable({ n = v.args[1] }, { __index = function(_, j)
          -- Keys behind the last weigh nothing, but what lies there may be no number: the last one's value is read instead.
          if masked then j = E.imod(E.imin(j, E.imin(add(last, add(base, i(1)), -1), i(TILE - 1))), i(TILE)) end
          return setmetatable({}, { __index = function(_, idx)
            return E.subst(v.args[2], { [v.binds] = idx, [jvar] = add(base, j) })
          end })
        end })
      else
        view[f] = setmetatable({}, { __index = function(_, j)
          return E.select(condition(j), E.subst(v, { [jvar] = add(base, j) }), number(zero[f]))
        end })
      end
    end
    local reduced = monoid.many(view)
    local a, b = {}, {}
    for _, f in ipairs(names) do
      local v = reduced[f]
      if widths[f] then
        a[f] = reduce.vector(function(idx) return E.node("carried", "f32", { t.row, idx }, f) end)
        b[f] = reduce.vector(function(idx) return element_of(f, v, idx) end)
      else
        a[f], b[f] = E.node("carried", "f32", { t.row }, f), element_of(f, v)
      end
    end
    local merged, next_of, out = monoid.merge(a, b), {}, {}
    for _, f in ipairs(names) do next_of[f] = prepared(X, element_of(f, merged[f], axis[f]), view.n) end
    t.inner = inner
    for k, s in ipairs(list) do
      local map = { [t.row] = t.rows[s.h] }
      if s.c then map[axis[s.f]] = pair(t, along.n, s.c, s.b, along.from) end
      out[k] = X:lower(E.subst(next_of[s.f], map))
    end
    return out
  end

  local function run(lo, hi, masked, state)
    return reduce.loop(tile_var, X:lower(lo), X:lower(hi), carries, state, step(masked))
  end
  -- Tiles that all rows see in full need no mask; those before and behind them do.
  local function tile_of(x) return E.idiv(x, i(TILE)) end
  local all = tile_of(add(at_row(len, bounds.last), i(TILE - 1)))
  local begin, full = i(0), tile_of(at_row(len, bounds.first))
  local result = inits
  if E.int_const(from) ~= 0 then
    local window = tile_of(add(at_row(from, bounds.last), i(TILE - 1)))
    begin = E.imin(window, all)
    full = E.imax(begin, full)
    result = run(tile_of(at_row(from, bounds.first)), begin, true, result)
  end
  result = run(begin, full, false, result)
  result = run(full, all, true, result)
  local state = {}
  for k, s in ipairs(list) do put(state, s, result[k]) end
  return state
end

-- A group of stores as a part ----------------------------------------------------------------------------------------------

-- The one fold that the stores' values are made of, read along its own axes; the rest is arithmetic.
local function fold_of(group)
  local found, seen = nil, {}
  local function visit(n)
    if seen[n] then return end
    seen[n] = true
    if n.op == "get" then
      if found and not rawequal(found, n.args[1]) then unfit() end
      found = n.args[1]
      return
    end
    if n.binds then unfit() end
    for _, a in ipairs(n.args) do visit(a) end
  end
  for _, st in ipairs(group) do visit(st.value) end
  return found
end

-- How many neighbouring heads read the same keys.
local function shared_heads(node, head)
  local n, seen = nil, {}
  local function visit(x)
    if seen[x] or not x.deps[head] then return end
    seen[x] = true
    if x.op == "load" and x.deps[node.binds] then
      for _, a in ipairs(x.args) do
        if a.deps[head] then
          local by = rawequal(a, head) and 1 or a.op == "idiv" and rawequal(a.args[1], head) and E.int_const(a.args[2])
          if not by or (n and n ~= by) then unfit() end
          n = by
        end
      end
      return
    end
    for _, a in ipairs(x.args) do visit(a) end
  end
  visit(node)
  return n or head.count
end

-- Fields of the fold, by name, as nodes of the tile.
local function with_fields(n, row)
  local memo = {}
  local function go(x)
    if memo[x] then return memo[x] end
    local args = {}
    if x.op == "get" then
      memo[x] = E.node("field", "f32", { row, x.args[2] }, x.imm)
      return memo[x]
    end
    for k, a in ipairs(x.args) do args[k] = go(a) end
    memo[x] = #args > 0 and E.with_args(x, args) or x
    return memo[x]
  end
  return go(n)
end

local function fits(X, group)
  local first = group[1]
  if X.serial or not X.tiles or #first.axes ~= 3 or first.map.lane ~= first.axes[3].axis then return false end
  for k = 2, 3 do if not E.int_const(first.axes[k].len) then return false end end
  for _, st in ipairs(group) do if st.array.cache or st.array.layout ~= "dense" then return false end end
  return true
end

local function part_of(X, group, name)
  local node = fold_of(group)
  if not (node and node.monoid.many) then unfit() end
  local tok, head, along = table.unpack(group[1].axes)
  local n_heads, width = E.int_const(head.len), E.int_const(along.len)
  local pieces = (width + MOST_COLUMNS - 1) // MOST_COLUMNS
  while width % (8 * pieces) ~= 0 do
    pieces = pieces + 1
    if pieces > width then unfit() end
  end
  local piece = width // pieces
  for k = 1, 3, 2 do if node.args[k].deps[head] then unfit() end end
  local shared = shared_heads(node, head)
  local groups = n_heads // shared
  -- A run of tokens has whole tiles of rows for each group of heads; the tiles of a group are neighbours.
  local g, r = TASK_ROWS, shared
  while r ~= 0 do g, r = r, g % r end
  local per = TASK_ROWS // g
  local tiles = per * shared // ROWS
  local parts = tiles * groups * pieces -- of a run of tokens

  local em = X.em
  local begin, finish = X:open_part(name)
  local task = E.var("task", nil, 0)
  em:each(task, begin, finish, 1, function()
    local n_rows = mul(X:lower(tok.len), i(shared))
    local first = add(mul(E.idiv(task, i(parts)), i(per * shared)), mul(E.imod(task, i(tiles)), i(ROWS)))
    local r0, row = E.var("row*" .. ROWS, nil, "r"), E.var("row", nil, "row")
    local finish_rows = E.imin(add(first, i(ROWS)), n_rows)
    em:each(r0, first, finish_rows, ROWS, function()
      X.memo, X.mats, X.folds = {}, {}, {}
      local t = setmetatable({ row = row, rows = {}, place_of = {}, outside = { [task] = true, [r0] = true },
                               products = {}, sums = {} }, T)
      X.tile = t
      local function at(h) return add(add(r0, of_eight()), i(8 * h)) end
      for h = 0, 1 do -- rows that are not there are the last one, and not stored
        t.rows[h] = E.imin(at(h), add(n_rows, i(1), -1))
        t.place_of[t.rows[h]] = { h = h }
      end
      local map = { [tok] = E.idiv(row, i(shared)),
        [head] = add(mul(E.imod(E.idiv(task, i(tiles)), i(groups)), i(shared)), E.imod(row, i(shared))) }
      local from = mul(E.imod(E.idiv(task, i(tiles * groups)), i(pieces)), i(piece))
      t.state = fold(X, E.subst(node, map), { first = r0, last = add(finish_rows, i(1), -1) },
        { n = piece, from = from, width = width })
      local list = {}
      for h = 0, 1 do -- what a lane stores of a row is contiguous
        for b = 0, 1 do
          for c = 0, piece // 8 - 1 do
            local place = { [row] = t.rows[h], [along] = pair(t, piece, c, b, from) }
            for _, st in ipairs(group) do
              local idx = {}
              for k, e in ipairs(st.idx) do idx[k] = X:lower(E.subst(E.subst(e, map), place)) end
              local value = E.subst(with_fields(st.value, row), map)
              list[#list + 1] = { base = st.array.ws and "ws" or st.array.name, name = st.array.name,
                off = access.offset(st.array, idx), value = X:lower(E.subst(value, place)), storage = st.array.fmt,
                mask = E.cmp("ilt", at(h), n_rows), lanes = LANES }
            end
          end
        end
      end
      em:stores(list)
    end)
  end)
  return X:close_part { times = parts, per = per, dim = tok.axis }
end

-- The group as a part; nil where it has no form in tiles.
function M.part(X, group)
  if not fits(X, group) then return nil end
  return tile.attempt(X, function(name) return part_of(X, group, name) end)
end

return M
