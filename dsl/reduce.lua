-- Reductions: how sum, maximum and fold over an axis become loops.
--
-- A sum over a width is rewritten by algebra before it becomes a loop:
--   1. block formats are replaced by their polynomial in fields, products are multiplied out: Σ_k Σ_m Π factors;
--   2. factors constant over a run of g elements (g the finest granularity above one) leave the inner sum;
--   3. what is left inside is, per run, an integer dot (dot4), a float dot, or a sum over activations alone, which the
--      activation's record carries already;
--   4. per run and monomial: acc = fma(lane-side factors, row-independent factors · inner sum, acc); a row-independent
--      factor that several runs share multiplies their sum: acc = fma(Σ lane-side factors · inner sum, factor, acc). A power of
--      two of the activations' run shifts the integer sum.
-- The order of additions is fixed by the formats and the width alone: run by run, in order of k.

local E = require "dsl.expr"
local access = require "dsl.access"
local formats = require "dsl.formats"
local in_pairs = require "dsl.pairs"
local in_panels = require "dsl.panel"

local M = {}

local add, mul = E.iadd, E.imul
local function i(x) return E.int(x) end

local MAX_MONOMIALS = 64

-- X is the lowering context: X:lower(node), X.lanes, X.arrays, X.records.

-- A field of a formatted element, symbolically: resolved to loads once its position is known.
local function leaf(owner, fname, idx)
  local n = E.node("leaf", "f32", idx, owner.name .. "." .. fname)
  n.owner, n.field = owner, fname
  return n
end

local function granularity(X, n, kvar)
  if not n.deps[kvar] then return math.huge end
  if n.op == "leaf" then
    if not n.args[#n.args].deps[kvar] then return 1 end -- blocks lie along the last axis
    local o = X.owners[n.imm:match("^(.*)%.")]
    return o.def.fields[n.imm:match("([^.]*)$")].per
  end
  return 1
end

-- The element as an expression in leaves.
local function decoded(owner, idx)
  local f = setmetatable({}, { __index = function(_, fname)
    if not owner.def.fields[fname] then error(("format '%s' has no field '%s'"):format(owner.def.name, fname), 0) end
    return leaf(owner, fname, idx)
  end })
  return owner.def.value(f)
end

-- Resolves a leaf to loads.
function M.resolve(X, n)
  local owner = X.owners[n.imm:match("^(.*)%.")]
  local fname = n.imm:match("([^.]*)$")
  if owner.record then return access.record_field(owner, fname, n.args[1], n.args[2]) end
  if owner.cache then
    local idx = {}
    for k, a in ipairs(n.args) do idx[k] = X:lower(a) end
    return access.cache_field(owner, fname, idx)
  end
  return access.packed_field(owner, fname, X:lower(n.args[1]), X:lower(n.args[2]))
end

-- Multiplies out: list of monomials {c = number, f = {factors}}.
local function monomials(X, n)
  local function product(a, b)
    local out = {}
    for _, x in ipairs(a) do
      for _, y in ipairs(b) do
        local f = table.move(x.f, 1, #x.f, 1, {})
        table.move(y.f, 1, #y.f, #f + 1, f)
        out[#out + 1] = { c = x.c * y.c, f = f }
      end
    end
    if #out > MAX_MONOMIALS then error({ kernel_error = "a product under a sum has too many terms" }) end
    return out
  end
  local function go(x)
    local c = E.fconst(x)
    if c then return { { c = c, f = {} } } end
    if x.op == "fmul" then return product(go(x.args[1]), go(x.args[2])) end
    if x.op == "fadd" or x.op == "fsub" then
      local a, b = go(x.args[1]), go(x.args[2])
      for _, m in ipairs(b) do a[#a + 1] = { c = x.op == "fsub" and -m.c or m.c, f = m.f } end
      return a
    end
    if x.op == "fneg" then
      local a = go(x.args[1])
      for _, m in ipairs(a) do m.c = -m.c end
      return a
    end
    local owner = X:owner_of(x)
    if owner then return go(decoded(owner, x.args)) end
    return { { c = 1, f = { x } } }
  end
  return go(n)
end

-- Does n (a language node) contain formatted elements that depend on var?
local function formatted(X, n, var)
  local found, seen = {}, {}
  local function go(x)
    if seen[x] or not x.deps[var] then return end
    seen[x] = true
    local o = X:owner_of(x)
    if o and x.args[#x.args].deps[var] then found[#found + 1] = o end
    for _, a in ipairs(x.args) do go(a) end
  end
  go(n)
  return found
end

local function carry(tag, ty, lane_like)
  local c = E.node("carry", ty, {}, tag)
  if not c.is_carry then
    c.is_carry = true
    c.deps = { [c] = true }
    c.lane = lane_like
    if lane_like then c.deps[E.lane_var(lane_like)] = true end
  end
  return c
end

M.carry = carry

-- A loop over var in [lo, hi) with carries; inits and nexts in step. Returns the list of results. merge, where the loop is
-- split into `parts` that run at the same time: two lists of states -> the list of the merged one; the inits are neutral in it.
-- ahead: loads of the body that are made a trip ahead, and carried.
function M.loop(var, lo, hi, carries, inits, nexts, parts, merge, ahead)
  local early, memo = {}, {}
  for k, n in ipairs(ahead or {}) do
    local next_trip = E.imin(add(var, i(1)), add(hi, i(1), -1))
    early[k] = { carry = carry("ahead" .. n.id, n.ty, n.lane), init = E.subst(n, { [var] = lo }), next = E.subst(n, { [var] = next_trip }) }
    memo[n] = early[k].carry
  end
  if ahead then
    for k, x in ipairs(nexts) do nexts[k] = E.rewrite(x, function() end, memo) end
  end
  local args = { lo, hi }
  for _, x in ipairs(inits) do args[#args + 1] = x end
  for _, x in ipairs(nexts) do args[#args + 1] = x end
  local tags, split = {}, nil
  for k, c in ipairs(carries) do tags[k] = c.id end
  if parts then
    split = { parts = parts, lower = {}, upper = {} }
    for k, c in ipairs(carries) do
      split.lower[k], split.upper[k] = carry("<" .. c.imm, c.ty, c.lane), carry(">" .. c.imm, c.ty, c.lane)
    end
    for _, x in ipairs(merge(split.lower, split.upper)) do args[#args + 1] = x end
    tags[#tags + 1] = "split" .. parts
  end
  for _, e in ipairs(early) do table.move({ e.init, e.next }, 1, 2, #args + 1, args) end
  local n = E.node("loop", "loop", args, table.concat(tags, ","), var)
  if not n.carries then
    n.carries, n.n_carry, n.split, n.early = carries, #carries, split, early
    local deps = {}
    for v in pairs(n.deps) do deps[v] = true end
    for _, list in ipairs(split and { carries, split.lower, split.upper } or { carries }) do
      for _, c in ipairs(list) do deps[c] = nil end
    end
    for _, e in ipairs(early) do deps[e.carry] = nil end
    for _, x in ipairs(inits) do for v in pairs(x.deps) do if v.op ~= "lane" then deps[v] = true end end end
    n.deps, n.lane = deps, nil
  end
  local out = {}
  for k, c in ipairs(carries) do
    local r = E.node("res", c.ty, { n }, k)
    if c.lane then
      r.lane = c.lane
      if not r.deps[E.lane_var(c.lane)] then
        local d = { [E.lane_var(c.lane)] = true }
        for v in pairs(r.deps) do d[v] = true end
        r.deps = d
      end
    end
    out[k] = r
  end
  return out
end

-- A size known at run time but at most `imm`: the number of keys in a tile. Lanes take the bound (masked elements are
-- zero()), serial loops the true count.
local function bound_of(len) return E.int_const(len) or len.op == "bounded" and len.imm or nil end
M.bound_of = bound_of
local function count_of(len) return len.op == "bounded" and len.args[1] or len end

-- The factors in lanes, a coefficient before them; −1 is a sign.
local function with_coefficient(c, list)
  if c == 1 then return list end
  if c == -1 and list[1] then return { E.un("fneg", list[1]), table.unpack(list, 2) } end
  return { E.f32(c), table.unpack(list) }
end

local function product(list)
  local p
  for _, x in ipairs(list) do p = p and E.fmul(p, x) or x end
  return p
end

local function pow2_divisor(n, max)
  local p = 1
  while p * 2 <= max and n % (p * 2) == 0 do p = p * 2 end
  return p
end
M.pow2_divisor = pow2_divisor

-- Integer codes on both sides: the four-element dot of group k4.
local function code_side(X, n)
  if n.op ~= "leaf" then return nil end
  local o = X.owners[n.imm:match("^(.*)%.")]
  local f = o.def.fields[n.imm:match("([^.]*)$")]
  if f.per ~= 1 or o.cache or formats.is_float(o.def) then return nil end
  return o.record and "act" or "weight", o
end

-- What a pass over k keeps for all tokens (dsl/passes.lua).
local function kept(X, n) return X.pass and n.lane and X.pass:kept(n) or n end

-- Σ over elements e0 … e0+g−1 of the product of the element-wise factors, as a float32. Second result: the record whose
-- power of two for the run is part of it already, since an integer sum was shifted; third: where that is all, the sum being in
-- the record, its element's leaf.
local function inner_sum(X, kvar, kbase, e0, g, factors, acc, paired)
  local at = function(n, e) return X:lower(E.subst(n, { [kvar] = add(kbase, i(e)) })) end
  if #factors == 2 and not acc then
    local s1, o1 = code_side(X, factors[1])
    local s2, o2 = code_side(X, factors[2])
    if s1 and s2 and s1 ~= s2 and g % 4 == 0 and not X.serial then
      local w, x = factors[1], factors[2]
      if s1 == "act" then w, x, o1, o2 = x, w, o2, o1 end
      local start = { [kvar] = add(kbase, i(e0)) }
      local tok, first = X:lower(E.subst(x.args[1], start)), X:lower(E.subst(x.args[2], start))
      local function finished(d) return E.cast("sitofp", "f32", access.record_shifted(o2, d, tok, first)), o2 end
      local L = o1.packed
      local d = access.iconst(0)
      local in_tile = X.panel and in_panels.dot(X, g, o1, X:lower(E.subst(w.args[1], start)),
        X:lower(E.subst(w.args[2], start)), o2, tok, first)
      if in_tile then return finished(in_tile) end
      if L.bias > 0 then d = access.record_field(o2, ("dot%d_%d"):format(g, L.bias), tok, first) end
      for e = e0, e0 + g - 1, 4 do
        local k4 = { [kvar] = add(kbase, i(e)) }
        local u = kept(X, access.plane_groups(o1, X:lower(E.subst(w.args[1], k4)), X:lower(E.subst(w.args[2], k4))))
        local s = access.record_codes4(o2, X:lower(E.subst(x.args[1], k4)), X:lower(E.subst(x.args[2], k4)))
        d = E.node("dot4", "i32", { d, u, s }, (1 << o1.def.code.width) - 1)
      end
      return finished(d)
    end
  end
  if #factors == 1 and not acc and factors[1].op == "leaf" and not X.serial then
    local n = factors[1]
    local o = X.owners[n.imm:match("^(.*)%.")]
    if o.record and (g == 32 or g == 16) then
      return nil, o, n
    end
  end
  local s = acc
  if paired then
    for e = e0, e0 + g - 1, 2 do s = in_pairs.dot(X, factors, kvar, add(kbase, i(e)), paired, s) end
    return s
  end
  for e = e0, e0 + g - 1 do
    local f = {}
    for j, x in ipairs(factors) do f[j] = at(x, e) end
    if #f == 1 then
      s = s and E.fadd(s, f[1]) or f[1]
    else
      local a = f[1]
      for j = 2, #f - 1 do a = E.fmul(a, f[j]) end
      s = s and E.fma(a, f[#f], s) or E.fmul(a, f[#f])
    end
  end
  return s
end

-- The order in which three and more factors are multiplied: by what they are, not by when they were made, so that every
-- instance rounds alike; those without lanes first.
local function before(a, b)
  if (a.lane ~= nil) ~= (b.lane ~= nil) then return a.lane == nil end
  if a.op ~= b.op then return a.op < b.op end
  return tostring(a.imm) < tostring(b.imm)
end

-- Whether f is the power of two of rec's runs.
local function is_exponent_of(X, f, rec)
  if f.op ~= "leaf" then return false end
  local owner, fname = f.imm:match("^(.*)%.([^.]*)$")
  return X.owners[owner] == rec and rec.def.fields[fname].type == "pow2"
end

-- How an axis of n elements (nil: known at run time) divides: blocks, chunks of them, runs of g elements in which factors are
-- constant. Last result: whether it is a sum of pairs.
local function divided(X, monos, body, kvar, len)
  local n = E.int_const(len)
  local block, chunk, g = 1, 1, math.huge
  for _, o in ipairs(formatted(X, body, kvar)) do
    block = math.max(block, o.def.block)
    chunk = math.max(chunk, o.packed and o.packed.chunk or math.min(32, o.def.block))
  end
  for _, m in ipairs(monos) do
    for _, f in ipairs(m.f) do
      local gr = granularity(X, f, kvar)
      if gr > 1 and gr < g then g = gr end
    end
  end
  local paired = block == 1 and in_pairs.fit(X, monos, len) and len or nil
  if block == 1 then
    chunk = n and pow2_divisor(n, X.unroll_k or 8) or paired and 2 or 1
    block = chunk
  end
  if n and n % block ~= 0 then
    error({ kernel_error = ("axis '%s' has %d elements, not a multiple of the block of %d"):format(kvar.axis, n, block) })
  end
  return block, chunk, math.min(g, chunk), paired
end

-- Of a sum over weights' codes that are laborious to unpack and activations' along an axis of several blocks: their number,
-- their size, and the bytes that a pass over k keeps of one, of as many rows as there are lanes. Otherwise nil.
function M.blocks(X, node, rows)
  local kvar, len, body = node.binds, X:lower(node.args[1]), node.args[2]
  local n, codes, weights = E.int_const(len), false, false
  for _, o in ipairs(formatted(X, body, kvar)) do
    codes = codes or o.record and not formats.is_float(o.def)
    weights = weights or o.packed and o.packed.laborious
  end
  if node.imm ~= "sum" or not (n and codes and weights and node.deps[rows]) then return nil end
  local monos = monomials(X, body)
  local block, _, g = divided(X, monos, body, kvar, len)
  if n == block then return nil end
  return n // block, block, (block + block // g * #monos * 4) * X.pack_lanes
end

-- A monomial without codes of weights, such as −dmin·m of Q4_K, on a processor: what is small there, a number of each run of
-- weights and the sum of the run's activations, is multiplied and added in integers, two runs at once. Result: the leaves of
-- both, and the factors that span the block; nil where it is not of that kind.
local function of_sums(X, m, kvar, g, chunk, block)
  local small, code, whole = nil, nil, {}
  if X.team or chunk % (2 * g) ~= 0 then return nil end
  for _, f in ipairs(m.f) do
    local gr = granularity(X, f, kvar)
    local o, field
    if f.op == "leaf" then
      local owner, fname = f.imm:match("^(.*)%.([^.]*)$")
      o = X.owners[owner]
      field = o.def.fields[fname]
    end
    if gr >= block then
      whole[#whole + 1] = f
    elseif field and gr == 1 and o.record and not code and not formats.is_float(o.def) then
      code = { leaf = f, rec = o }
    elseif field and gr == g and o.packed and not small and field.bits and field.width <= 8 and field.bias == 0 then
      small = { leaf = f, array = o, field = field.name }
    elseif not (field and o.record and field.type == "pow2") then
      return nil
    end
  end
  return small and code and { small = small, code = code, whole = whole } or nil
end

-- Σ over var in [0, n) of body, with the accumulator in the lanes of the surrounding value.
local function contract(X, node, body, kvar, len)
  local n = E.int_const(len)
  local monos = monomials(X, body)
  local block, chunk, g, paired = divided(X, monos, body, kvar, len)
  local lane_width
  for _, m in ipairs(monos) do for _, f in ipairs(m.f) do lane_width = lane_width or f.lane end end

  local nb = n and i(n // block) or E.idiv(count_of(len), i(block))
  local bound = n or bound_of(len)
  local kb = E.var(kvar.axis .. "/" .. block, bound and bound // block, kvar.imm .. "b")
  local nc = block // chunk
  local apart = {} -- monomials of sums, which are added block by block
  for _, m in ipairs(nc > 1 and monos or {}) do apart[m] = of_sums(X, m, kvar, g, chunk, block) end

  -- A monomial of sums over the block at kbase: its integer sum as a float32, and its other factors, in lanes and not.
  local function sums_of_block(m, kbase)
    local parts, start = apart[m], { [kvar] = kbase }
    local lanes, rest = {}, {}
    for _, f in ipairs(parts.whole) do
      local v = X:lower(E.subst(f, start))
      table.insert(v.lane and lanes or rest, v)
    end
    local small, code, sum = parts.small, parts.code, access.iconst(0)
    for e0 = 0, block - 1, 2 * g do
      local map = { [kvar] = add(kbase, i(e0)) }
      local function lowered(x) return X:lower(E.subst(x, map)) end
      local pair = access.packed_pair(small.array, small.field, lowered(small.leaf.args[1]), lowered(small.leaf.args[2]))
      local sums = access.record_pair(code.rec, g, lowered(code.leaf.args[1]), lowered(code.leaf.args[2]))
      sum = E.node("dot2", "i32", { sum, pair, sums })
    end
    return E.cast("sitofp", "f32", sum), product(with_coefficient(m.c, lanes)), product(rest)
  end

  -- What is added to acc by the chunk at kbase. What runs have in common and no lanes is multiplied into their sum: a `partial`
  -- for each such factor, which ends with the factor's span; those that span more than the chunk are the caller's, as carries
  -- of his loop, where he gives `spans`, and so are the monomials that stand apart.
  local function steps(kbase, acc, spans)
    local partials = {} -- {factor, sum}
    local function partial_of(factor, span)
      local list = spans and span > chunk and spans or partials
      for _, p in ipairs(list) do if rawequal(p.factor, factor) then return p end end
      local p = { factor = factor, span = span }
      if list == spans then
        p.carry = carry(("p%d.%d"):format(#spans + 1, node.id), "f32", lane_width)
        p.sum = p.carry
      end
      list[#list + 1] = p
      return p
    end
    for e0 = 0, chunk - 1, g do
      for _, m in ipairs(monos) do
        if apart[m] then goto next_monomial end
        local elems, vec_side, tok_side, shared, span = {}, {}, {}, {}, math.huge
        local order = {}
        for _, f in ipairs(m.f) do
          local gr = granularity(X, f, kvar)
          if gr >= g and gr > 1 then order[#order + 1] = { gr, f } else elems[#elems + 1] = f end
        end
        table.sort(order, function(a, b)
          if a[1] ~= b[1] then return a[1] > b[1] end
          return a[2].id < b[2].id
        end)
        if #elems > 2 then table.sort(elems, before) end
        local s, rec, code
        if #elems == 0 then
          tok_side[#tok_side + 1] = E.f32(g)
        elseif #order == 0 and m.c == 1 and not (#elems == 1 and code_side(X, elems[1])) then
          acc = inner_sum(X, kvar, kbase, e0, g, elems, acc, paired)
          goto next_monomial
        else
          s, rec, code = inner_sum(X, kvar, kbase, e0, g, elems, nil)
        end
        local map = { [kvar] = add(kbase, i(e0)) }
        for _, o in ipairs(order) do
          local f = o[2]
          if not (rec and is_exponent_of(X, f, rec)) then
            local v = X:lower(E.subst(f, map))
            if v.lane then
              vec_side[#vec_side + 1] = v
            elseif o[1] > g and (o[1] <= chunk or spans) then
              shared[#shared + 1], span = v, math.min(span, o[1])
            else
              tok_side[#tok_side + 1] = v
            end
          end
        end
        if code then
          s = access.record_field(rec, "sum" .. g, X:lower(code.args[1]), X:lower(E.subst(code.args[2], map)))
        end
        if #vec_side > 0 then
          vec_side = with_coefficient(m.c, vec_side)
        elseif m.c ~= 1 then
          table.insert(tok_side, 1, E.f32(m.c))
        end
        local w, t = product(vec_side), product(tok_side)
        w = w and kept(X, w)
        if s then t = t and E.fmul(t, s) or s end
        if shared[1] and w and t then
          local p = partial_of(product(shared), span)
          p.sum = p.sum and E.fma(w, t, p.sum) or E.fmul(w, t)
          goto next_monomial
        end
        for _, v in ipairs(shared) do t = t and E.fmul(v, t) or v end
        if not w then acc = E.fadd(acc, t)
        elseif not t then acc = E.fadd(acc, w)
        else acc = E.fma(w, t, acc) end
        ::next_monomial::
      end
      local open = {}
      for _, p in ipairs(partials) do
        if (e0 + g) % p.span == 0 or e0 + g == chunk then acc = E.fma(p.sum, p.factor, acc) else open[#open + 1] = p end
      end
      partials = open
    end
    return acc
  end
  local acc = carry("s" .. node.id, "f32", lane_width)
  local zero = E.f32(0)
  -- Chunk by chunk, the chunks shared among the parts of a team.
  if lane_width and n and n > chunk and M.may_split(X, body) then
    local kk = E.var(kvar.axis .. "|" .. chunk, n // chunk, kvar.imm .. "k")
    local next_acc = M.in_parts(X, kk, function() return steps(mul(kk, i(chunk)), acc) end)
    return M.loop(kk, i(0), i(n // chunk), { acc }, { zero }, { next_acc }, X.team // lane_width, M.add_states)[1]
  end
  local base = mul(kb, i(block))
  local kc = nc > 1 and E.var(kvar.axis .. "/" .. chunk, nc, kvar.imm .. "c") or nil
  local pass = X.pass
  if pass then pass:over(kb, kc, nc) end
  local next_acc
  if nc == 1 then
    next_acc = steps(base, acc)
  else
    local inner, spans = carry("c" .. node.id, "f32", lane_width), {}
    local added = steps(add(base, mul(kc, i(chunk))), inner, spans)
    local carries, inits, nexts = {}, {}, {}
    local function carried(c, init, next_value)
      carries[#carries + 1], inits[#inits + 1], nexts[#nexts + 1] = c, init, next_value
    end
    local plain = not rawequal(added, inner) -- something is added to acc itself
    if plain then carried(inner, acc, added) end
    for _, p in ipairs(spans) do carried(p.carry, zero, p.sum) end
    local results = M.loop(kc, i(0), i(nc), carries, inits, nexts)
    next_acc = plain and table.remove(results, 1) or acc
    for _, m in ipairs(monos) do
      if apart[m] then
        local sum, w, factor = sums_of_block(m, base)
        for k, p in ipairs(spans) do
          if rawequal(p.factor, factor) then results[k], sum = E.fma(w, sum, results[k]), nil break end
        end
        if sum then next_acc = E.fma(E.fmul(w, sum), factor, next_acc) end
      end
    end
    for k, p in ipairs(spans) do next_acc = E.fma(results[k], p.factor, next_acc) end
  end
  if nb.op == "lin" and E.int_const(nb) == 1 and nc == 1 then
    return E.subst(next_acc, { [kb] = i(0), [acc] = zero })
  end
  if pass then return M.loop(kb, pass.lo, pass.hi, { acc }, { pass.init }, { next_acc })[1] end
  local total = M.loop(kb, i(0), nb, { acc }, { zero }, { next_acc })[1]
  for _, m in ipairs(paired and not n and monos or {}) do total = in_pairs.rest(X, m.f, kvar, len, count_of(len), total) end
  return total
end

-- Whether a reduction over kvar may be shared among the parts of a team: parts do not split again, so it must not stand in a
-- loop that is split (X.parted: that loop's variables; all: it always does).
function M.may_split(X, body)
  if not X.team or X.parted == "all" then return false end
  for v in pairs(body.deps) do if X.parted and X.parted[v] then return false end end
  return true
end

-- f(), which lowers what stands in a split loop over var.
local function in_parts(X, var, f)
  local outside = X.parted
  X.parted = { [var] = true }
  for v in pairs(outside or {}) do X.parted[v] = true end
  local result = f()
  X.parted = outside
  return result
end
M.in_parts = in_parts

function M.add_states(a, b)
  local out = {}
  for k in ipairs(a) do out[k] = E.fadd(a[k], b[k]) end
  return out
end

-- A reduction whose body is the same in all lanes of the surroundings: the axis itself is laid across the lanes.
local function across_lanes(X, node, body, kvar, len)
  local n = bound_of(len)
  local is_max = node.imm == "max"
  local combine = is_max and E.fmax or E.fadd
  local L = n and pow2_divisor(n, X.lanes) or 1
  if X.serial then L = 1 end
  local zero = is_max and E.f32(-math.huge) or E.f32(0)
  local function step(acc, base)
    local at = L > 1 and add(base, E.lane_var(L)) or base
    local v = X:lower(E.subst(body, { [kvar] = at }))
    if not is_max and v.op == "fmul" then return E.fma(v.args[1], v.args[2], acc) end
    return combine(acc, v)
  end
  local nv = n and n // L
  local total
  if nv and nv > 4 and L == X.lanes and M.may_split(X, body) then
    local var = E.var(kvar.axis .. "|" .. L, nv, kvar.imm .. "l")
    local acc = carry("l" .. node.id, "f32", L)
    local next_acc = in_parts(X, var, function() return step(acc, mul(var, i(L))) end)
    total = M.loop(var, i(0), i(nv), { acc }, { zero }, { next_acc }, X.team // L, function(a, b)
      return { combine(a[1], b[1]) }
    end)[1]
  elseif nv and nv <= 4 then
    total = nil
    for c = 0, nv - 1 do
      local at = L > 1 and add(i(c * L), E.lane_var(L)) or i(c)
      local v = X:lower(E.subst(body, { [kvar] = at }))
      total = total and combine(total, v) or v
    end
  else
    local ways = nv and pow2_divisor(nv, 4) or 1
    local var = E.var(kvar.axis .. "/" .. L * ways, nv and nv // ways, kvar.imm .. "l")
    local carries, inits, nexts = {}, {}, {}
    for w = 0, ways - 1 do
      carries[w + 1] = carry("l" .. w .. "." .. node.id, "f32", L > 1 and L or nil)
      inits[w + 1] = zero
      nexts[w + 1] = step(carries[w + 1], add(mul(var, i(L * ways)), i(w * L)))
    end
    local parts = M.loop(var, i(0), nv and i(nv // ways) or len, carries, inits, nexts)
    for _, p in ipairs(parts) do total = total and combine(total, p) or p end
  end
  if L > 1 then
    if not total.lane then -- constant over the axis
      total = E.fmul(total, E.f32(is_max and 1 or L))
    else
      total = E.node(is_max and "hmax" or "hsum", "f32", { total }, L)
    end
  end
  return total
end

-- Plain serial evaluation, element by element in order: the meaning of a sum, used to check every other map.
local function serially(X, node, body, kvar, len)
  local n = E.int_const(len)
  len = count_of(len)
  local is_max = node.imm == "max"
  local acc = carry("x" .. node.id, "f32")
  local blocks = formatted(X, body, kvar)
  local unroll = 1
  for _, o in ipairs(blocks) do unroll = math.max(unroll, o.packed and (o.packed.float and 1 or o.packed.chunk) or 1) end
  local var = E.var(kvar.axis .. "!" .. unroll, n and n // unroll, kvar.imm .. "s")
  local s = acc
  for e = 0, unroll - 1 do
    local v = X:lower(E.subst(body, { [kvar] = add(mul(var, i(unroll)), i(e)) }))
    s = is_max and E.fmax(s, v) or E.fadd(s, v)
  end
  local zero = is_max and E.f32(-math.huge) or E.f32(0)
  return M.loop(var, i(0), n and i(n // unroll) or len, { acc }, { zero }, { s })[1]
end

-- Beside activations in halves weights are rounded to halves too, whoever multiplies them: a matrix unit takes both alike.
local function weights_in_halves(X, body)
  return E.rewrite(body, function(n)
    local o = X:owner_of(n)
    return o and o.packed and E.node("rounded", "f32", { n }, "bf16") or nil
  end)
end

function M.reduce(X, node)
  local kvar, len, body = node.binds, X:lower(node.args[1]), node.args[2]
  for _, o in ipairs(formatted(X, body, kvar)) do
    if o.record and o.fmt == "bf16" then body = weights_in_halves(X, body) break end
  end
  if X.serial then return serially(X, node, body, kvar, len) end
  local lane
  for v in pairs(body.deps) do if v.op == "lane" then lane = v end end
  if node.imm == "sum" and (lane or #formatted(X, body, kvar) > 0) then return contract(X, node, body, kvar, len) end
  if lane then
    error({ kernel_error = ("maximum over '%s' inside lanes of another axis"):format(kvar.axis) })
  end
  return across_lanes(X, node, body, kvar, len)
end

-- Folds with a user's monoid ------------------------------------------------------------------------------------------

-- The fields of a state: name -> scalar node, or name -> list of lane vectors for a vec field.
local function vec_lanes(X, len)
  local n = bound_of(len)
  local L = X.serial and 1 or pow2_divisor(n, X.lanes)
  return n // L, L
end

-- Vectors in a merge are written a.o * ca + b.o * cb or element by element; this is the element-wise arithmetic on them.
local vector_mt = {}
local function vector(f) return setmetatable({ at = f }, vector_mt) end
vector_mt.__index = function(v, idx) return rawget(v, "at")(idx) end
local function lift(op)
  return function(a, b)
    local va, vb = getmetatable(a) == vector_mt, getmetatable(b) == vector_mt
    return vector(function(idx)
      return op(va and a[idx] or a, vb and b[idx] or b)
    end)
  end
end
vector_mt.__add = lift(function(a, b) return a + b end)
vector_mt.__sub = lift(function(a, b) return a - b end)
vector_mt.__mul = lift(function(a, b) return a * b end)

M.vec_lanes, M.vector = vec_lanes, vector

function M.fold(X, node)
  local monoid, names = node.monoid, node.fields
  local jvar, len, when, from = node.binds, X:lower(node.args[1]), node.args[2], X:lower(node.args[3])
  local last, first = X:lower(node.args[4]), X:lower(node.args[5]) -- of all instances computed together
  local shape = { names = names, vec = {} }
  local elem = {}
  for k, f in ipairs(names) do
    local v = node.args[5 + k]
    elem[f] = v
    if v.op == "vec" then
      local count, L = vec_lanes(X, v.args[1])
      local idx = {}
      for c = 0, count - 1 do idx[c + 1] = L > 1 and add(i(c * L), E.lane_var(L)) or i(c) end
      shape.vec[f] = { idx = idx, count = count, lanes = L }
    end
  end
  -- Flat list of carries for a state, and back.
  local function carries_of(tag)
    local list, state = {}, {}
    for _, f in ipairs(names) do
      if shape.vec[f] then
        local cs = {}
        for c = 1, shape.vec[f].count do
          cs[c] = carry(tag .. f .. c .. "." .. node.id, "f32", shape.vec[f].lanes > 1 and shape.vec[f].lanes or nil)
          list[#list + 1] = cs[c]
        end
        state[f] = cs
      else
        state[f] = carry(tag .. f .. "." .. node.id, elem[f].ty)
        list[#list + 1] = state[f]
      end
    end
    return list, state
  end
  local function as_view(state) -- lists of lane vectors become indexable vectors
    local out = {}
    for _, f in ipairs(names) do
      local s = shape.vec[f]
      if s and type(state[f]) == "table" and not E.is_node(state[f]) and getmetatable(state[f]) ~= vector_mt then
        local cs = state[f]
        out[f] = vector(function(idx)
          for c, p in ipairs(s.idx) do if rawequal(p, idx) then return cs[c] end end
          error({ kernel_error = "a fold's vector is read at an index other than its own axis" })
        end)
      else
        out[f] = state[f]
      end
    end
    return out
  end
  local function number(v) return type(v) == "number" and E.f32(v) or v end
  local function flatten(state) -- fields -> flat list of lowered nodes
    local list = {}
    for _, f in ipairs(names) do
      if state[f] == nil then error({ kernel_error = ("the monoid gives no field '%s', which its elements have"):format(f) }) end
      local s = shape.vec[f]
      if s then
        for c = 1, s.count do
          local v = state[f]
          v = type(v) == "number" and E.f32(v) or (E.is_node(v) and v.op == "vec" and
            E.subst(v.args[2], { [v.binds] = s.idx[c] })) or v[s.idx[c]]
          list[#list + 1] = X:lower(number(v))
        end
      else
        local v = state[f]
        if type(v) == "number" and elem[f].ty == "i64" then v = i(v) end
        list[#list + 1] = X:lower(number(v))
      end
    end
    return list
  end
  local function unflatten(list)
    local state, at = {}, 1
    for _, f in ipairs(names) do
      if shape.vec[f] then
        state[f] = table.move(list, at, at + shape.vec[f].count - 1, 1, {})
        at = at + shape.vec[f].count
      else
        state[f] = list[at]
        at = at + 1
      end
    end
    return state
  end
  local function merge(a, b) return flatten(monoid.merge(as_view(a), as_view(b))) end
  local zero = flatten(monoid.zero())

  -- One element at index j, zero() where masked.
  local function element(j, valid)
    local state = {}
    for _, f in ipairs(names) do
      local v = elem[f]
      if v.op == "vec" then
        local body = v.args[2]
        state[f] = vector(function(idx) return E.subst(body, { [v.binds] = idx, [jvar] = j }) end)
      else
        state[f] = E.subst(v, { [jvar] = j })
      end
    end
    if valid then
      local z = monoid.zero()
      for _, f in ipairs(names) do
        local zf = z[f]
        if shape.vec[f] then
          local v = state[f]
          state[f] = vector(function(idx)
            return E.select(valid, v[idx], type(zf) == "number" and E.f32(zf) or zf[idx])
          end)
        else
          if type(zf) == "number" then zf = elem[f].ty == "i64" and i(zf) or E.f32(zf) end
          state[f] = E.select(valid, state[f], zf)
        end
      end
    end
    return state
  end
  local always = when.op == "const" and when.imm == 1

  local list
  if monoid.many and not X.serial then
    -- Chunks of a page, tiles within: the association depends on positions alone.
    local PAGE, TILE = access.PAGE, access.TILE
    local splits, outside = X.team and X.parted ~= "all", X.parted
    local chunk = E.var(jvar.axis .. "/" .. PAGE, nil, jvar.imm .. "p")
    local tile = E.var(jvar.axis .. "/" .. TILE, not splits and PAGE // TILE or nil, jvar.imm .. "t")
    local base = mul(tile, i(TILE))
    if splits then X.parted = "all" else base = add(mul(chunk, i(PAGE)), base) end
    local left = add(last, base, -1)
    local count = E.imin(i(TILE), left)
    local outer_list, outer = carries_of("O")
    local inner_list, inner = carries_of("I")
    local function key(j) return add(base, j) end
    local starts_late = E.int_const(from) ~= 0
    local function valid(j)
      local ok = E.cmp("ilt", key(j), len)
      if starts_late then ok = E.node("band", "bool", { ok, E.cmp("ile", from, key(j)) }) end
      if always then return ok end
      return E.node("band", "bool", { ok, E.subst(when, { [jvar] = key(j) }) })
    end
    local view_tile = { n = E.node("bounded", "i64", { count }, TILE) }
    local z = monoid.zero()
    for _, f in ipairs(names) do
      local v = elem[f]
      if v.op == "vec" then
        view_tile[f] = setmetatable({ n = v.args[1] }, { __index = function(_, j)
          return setmetatable({}, { __index = function(_, idx)
            return E.subst(v.args[2], { [v.binds] = idx, [jvar] = key(j) })
          end })
        end })
      else
        view_tile[f] = setmetatable({}, { __index = function(_, j)
          return E.select(valid(j), E.subst(v, { [jvar] = key(j) }), number(z[f]))
        end })
      end
    end
    local reduced = monoid.many(view_tile)
    for _, f in ipairs(names) do
      local v = reduced[f]
      if shape.vec[f] then reduced[f] = vector(function(idx) return v[idx] end) end
    end
    if splits then
      -- Tile by tile, the tiles shared among the parts of a team.
      local next_state = merge(inner, reduced)
      X.parted = outside
      local function states(a, b) return merge(unflatten(a), unflatten(b)) end
      local all = E.idivup(last, TILE)
      local first_of_all = starts_late and E.idiv(first, i(TILE)) or i(0)
      list = M.loop(tile, X:lower(first_of_all), X:lower(all), inner_list, zero, next_state, X.team // X.lanes, states)
      return unflatten(list), shape
    end
    local inner_next = merge(inner, reduced)
    local tiles = E.idivup(E.imin(i(PAGE), add(last, mul(chunk, i(PAGE)), -1)), TILE)
    local first_chunk, first_tile = i(0), i(0)
    if starts_late then -- chunks and tiles before the first key are skipped: their states would be zero()
      first_chunk = E.idiv(first, i(PAGE))
      first_tile = E.idiv(E.imax(i(0), add(first, mul(chunk, i(PAGE)), -1)), i(TILE))
    end
    local inner_out = M.loop(tile, X:lower(first_tile), X:lower(tiles), inner_list, zero, inner_next)
    local outer_next = merge(outer, unflatten(inner_out))
    list = M.loop(chunk, X:lower(first_chunk), X:lower(E.idivup(last, PAGE)), outer_list, zero, outer_next)
  else
    local n = E.int_const(len)
    local has_vec = next(shape.vec) ~= nil
    local L = (not X.serial and not has_vec and always and n and E.int_const(from) == 0) and pow2_divisor(n, X.lanes) or 1
    local carries, state = {}, {}
    for _, f in ipairs(names) do
      if shape.vec[f] then
        local cs = {}
        for c = 1, shape.vec[f].count do
          cs[c] = carry("f" .. f .. c .. "." .. node.id, "f32", shape.vec[f].lanes > 1 and shape.vec[f].lanes or nil)
          carries[#carries + 1] = cs[c]
        end
        state[f] = cs
      else
        state[f] = carry("f" .. f .. "." .. node.id, elem[f].ty, L > 1 and L or nil)
        carries[#carries + 1] = state[f]
      end
    end
    local var = E.var(jvar.axis .. "/" .. L, n and n // L, jvar.imm .. "f")
    local j = L > 1 and add(mul(var, i(L)), E.lane_var(L)) or var
    local valid = not always and E.subst(when, { [jvar] = j }) or nil
    local shared = X.team and X.parted ~= "all" and L == X.lanes
    list = M.loop(var, L > 1 and i(0) or from, n and i(n // L) or len, carries, zero, merge(state, element(j, valid)),
      shared and X.team // L or nil, shared and function(a, b) return merge(unflatten(a), unflatten(b)) end or nil)
    if L > 1 then
      local total
      for l = 0, L - 1 do
        local part = {}
        for k, v in ipairs(list) do
          part[k] = E.node("extract", v.ty, { v }, l)
        end
        total = total and merge(unflatten(total), unflatten(part)) or part
      end
      list = total
    end
  end
  return unflatten(list), shape
end

return M
