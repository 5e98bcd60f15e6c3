-- Every kernel of kgen: what it computes. Where and how is in the maps (dsl/schedules.lua) and the targets (codegen/).
-- The language is described in docs/dsl.md.

local function silu(x) return x / (1 + exp(-x)) end
local function gelu(x) return 0.5 * x * (1 + tanh(0.7978845608028654 * (x + 0.044715 * x ^ 2 * x))) end

-- One row of a table: the embedding of a token.
kernel "embed" {
  sig = "ids: i32[tok?], w: W[vocab,d], scale: num -> y: f32[tok?,d]",
  body = function(a)
    for t in each("tok", a.tok) do
      local id = a.ids[t]
      for k in each("row", a.d) do a.y[t][k] = a.w[id][k] * a.scale end
    end
  end,
  map = schedules.rows,
  bench = { { tok = 1, vocab = 32000, d = 2048, W = "q4_k", scale = 1 },
            { tok = 512, vocab = 49152, d = 576, W = "q8_0", scale = 1 } },
}

-- y = x / rms(x) · g
kernel "rmsnorm" {
  sig = "x: f32[tok?,d], g: f32[d], eps: num -> y: f32[tok?,d]",
  body = function(a)
    for t in each("tok", a.tok) do
      local inv = rsqrt(sum("k", a.d, function(k) return a.x[t][k] ^ 2 end) / a.d + a.eps)
      for k in each("row", a.d) do a.y[t][k] = a.x[t][k] * inv * a.g[k] end
    end
  end,
  map = schedules.rows,
  bench = { { tok = 1, d = 2048, eps = 1e-5 }, { tok = 512, d = 2048, eps = 1e-5 } },
}

-- y = W·x, the activations rounded to `act` first.
kernel "linear" {
  sig = "x: f32[tok?,d], w: W[n,d], act: format -> y: f32[tok?,n]",
  body = function(a)
    for t in each("tok", a.tok) do
      local xs = as(a.act, vec("k", a.d, function(k) return a.x[t][k] end))
      for r in each("row", a.n) do
        a.y[t][r] = sum("k", a.d, function(k) return a.w[r][k] * xs[k] end)
      end
    end
  end,
  tune = { toks = { ["x86-64-v4"] = 8, ["x86-64-v3"] = 4, ["x86-64"] = 2 }, rows = 1 },
  map = schedules.contract,
  bench = { { tok = 1, n = 5632, d = 2048, W = "q4_k", act = "q8" },
            { tok = 512, n = 5632, d = 2048, W = "q4_k", act = "q8" } },
}

kernel "add" {
  sig = "a: f32[tok?,d], b: f32[tok?,d] -> y: f32[tok?,d]",
  body = function(a)
    for t in each("tok", a.tok) do
      for r in each("row", a.d) do a.y[t][r] = a.a[t][r] + a.b[t][r] end
    end
  end,
  map = schedules.rows,
  bench = { { tok = 1, d = 2048 }, { tok = 512, d = 2048 } },
}

-- A bias a row.
kernel "add_bias" {
  sig = "x: f32[tok?,d], b: f32[d] -> y: f32[tok?,d]",
  body = function(a)
    for t in each("tok", a.tok) do
      for r in each("row", a.d) do a.y[t][r] = a.x[t][r] + a.b[r] end
    end
  end,
  map = schedules.rows,
  bench = { { tok = 1, d = 2048 }, { tok = 512, d = 2048 } },
}

-- Gated activations of feed-forward layers.
kernel "silu_mul" {
  sig = "gate: f32[tok?,d], up: f32[tok?,d] -> y: f32[tok?,d]",
  body = function(a)
    for t in each("tok", a.tok) do
      for r in each("row", a.d) do a.y[t][r] = silu(a.gate[t][r]) * a.up[t][r] end
    end
  end,
  map = schedules.rows,
  bench = { { tok = 1, d = 5632 }, { tok = 512, d = 5632 } },
}

kernel "gelu_mul" {
  sig = "gate: f32[tok?,d], up: f32[tok?,d] -> y: f32[tok?,d]",
  body = function(a)
    for t in each("tok", a.tok) do
      for r in each("row", a.d) do a.y[t][r] = gelu(a.gate[t][r]) * a.up[t][r] end
    end
  end,
  map = schedules.rows,
  bench = { { tok = 1, d = 5632 }, { tok = 512, d = 5632 } },
}

-- RMSNorm of every head by itself (QK-norm).
kernel "head_norm" {
  sig = "x: f32[tok?,nh,hd], g: f32[hd], eps: num -> y: f32[tok?,nh,hd]",
  body = function(a)
    for t in each("tok", a.tok) do
      for h in each("head", a.nh) do
        local inv = rsqrt(sum("e", a.hd, function(e) return a.x[t][h][e] ^ 2 end) / a.hd + a.eps)
        for i in each("i", a.hd) do a.y[t][h][i] = a.x[t][h][i] * inv * a.g[i] end
      end
    end
  end,
  map = schedules.heads,
  bench = { { tok = 1, nh = 32, hd = 64, eps = 1e-6 }, { tok = 512, nh = 32, hd = 64, eps = 1e-6 } },
}

-- Rotary position embedding on split halves: element e turns with its partner half a head away. cos and sin hold, for
-- each position and element, the angle's cosine and its sine with the sign the element takes.
kernel "rope" {
  sig = "x: f32[tok?,nh,hd], cos: f32[ctx?,hd], sin: f32[ctx?,hd], pos: dim -> y: f32[tok?,nh,hd]",
  body = function(a)
    for t in each("tok", a.tok) do
      for h in each("head", a.nh) do
        for i in each("i", a.hd) do
          local partner = (i + a.hd // 2) % a.hd
          a.y[t][h][i] = a.x[t][h][i] * a.cos[a.pos + t][i] + a.x[t][h][partner] * a.sin[a.pos + t][i]
        end
      end
    end
  end,
  map = schedules.heads,
  bench = { { tok = 1, pos = 1023, nh = 32, hd = 64 }, { tok = 512, nh = 32, hd = 64 } },
}

-- Keys (rotated) and values of new tokens into the cache.
kernel "kv_append" {
  sig = "k: f32[tok?,nkv,hd], v: f32[tok?,nkv,hd], pages: i32[npages?], pos: dim"
     .. " -> kc: KV@keys[nkv,key?,hd], vc: KV@rows[nkv,key?,hd]",
  body = function(a)
    for t in each("tok", a.tok) do
      for h in each("head", a.nkv) do
        for e in each("e", a.hd) do
          a.kc[h][a.pos + t][e] = a.k[t][h][e]
          a.vc[h][a.pos + t][e] = a.v[t][h][e]
        end
      end
    end
  end,
  map = schedules.append,
  bench = { { tok = 1, pos = 1023, nkv = 4, hd = 64, KV = "f16" }, { tok = 512, nkv = 4, hd = 64, KV = "f16" } },
}

-- The softmax-weighted mean as a monoid: m the largest score, l = Σ exp(s − m), o = Σ exp(s − m)·v. One for each format
-- that the weights and values of a tile are rounded to before they are multiplied.
local softmax_mean = {}
for _, prod in ipairs { "f32", "f16", "bf16" } do
  softmax_mean[prod] = monoid {
    zero = function() return { m = -1e30, l = 0, o = 0 } end, -- finite: exp(m − m) is 1, never NaN
    merge = function(a, b)
      local below, d = lt(a.m, b.m), exp(-abs(a.m - b.m)) -- of exp(a.m − m) and exp(b.m − m) one is 1
      local ca, cb = select(below, d, 1), select(below, 1, d)
      return { m = max(a.m, b.m), l = a.l * ca + b.l * cb, o = a.o * ca + b.o * cb }
    end,
    -- A tile of single keys (l is 1, or 0 where masked): two matrix products.
    many = function(tile)
      local m = maximum("j", tile.n, function(j) return tile.m[j] end)
      local p = vec("j", tile.n, function(j) return rounded(prod, exp(tile.m[j] - m) * tile.l[j]) end)
      return { m = m, l = sum("j", tile.n, function(j) return p[j] end),
               o = vec("i", tile.o.n, function(i)
                 return sum("j", tile.n, function(j) return p[j] * rounded(prod, tile.o[j][i]) end)
               end) }
    end,
  }
end

-- Fewer where a team shares the keys: each of its threads has all of them.
local function queries(m, s) return m.team and math.max(1, 128 // math.max(64, s.hd)) or 4 end
local function shared_heads(m, s)
  local n = queries(m, s)
  while s.nh // s.nkv % n ~= 0 do n = n - 1 end
  return n
end
local function shared_tokens(m, s) return queries(m, s) // shared_heads(m, s) end

-- How much head h of token t asks for key j of the keys' head g.
local function score(a, t, h, g, j)
  return sum("e", a.hd, function(e)
    return rounded(a.prod, a.q[t][h][e]) * rounded(a.prod, a.kc[g][j][e])
  end) * a.scale
end

local SCORED = {
  { tok = 1, pos = 1023, nh = 32, nkv = 4, hd = 64, KV = "f16", scale = 0.125, window = 0, prod = "f32" },
  { tok = 512, nh = 32, nkv = 4, hd = 64, KV = "f16", scale = 0.125, window = 0, prod = "f32" },
}

-- Causal attention of each new token over the cache: one fold, whatever the number of tokens or keys. A window > 0 sees
-- that many keys, the token's own among them. The factors of both products are rounded to `prod`.
kernel "attention" {
  sig = "q: f32[tok?,nh,hd], kc: KV@keys[nkv,key?,hd], vc: KV@rows[nkv,key?,hd], pages: i32[npages?], pos: dim,"
     .. " scale: num, window: num, prod: format -> y: f32[tok?,nh,hd]",
  body = function(a)
    for t in each("tok", a.tok) do
      for h in each("head", a.nh) do
        local g, n = h // (a.nh // a.nkv), a.pos + t + 1
        local s = fold("key", n, softmax_mean[a.prod], function(j)
          return { m = score(a, t, h, g, j), l = 1, o = vec("i", a.hd, function(i) return a.vc[g][j][i] end) }
        end, { from = a.window > 0 and max(0, n - a.window) or 0 })
        for i in each("i", a.hd) do a.y[t][h][i] = s.o[i] / s.l end
      end
    end
  end,
  -- Queries computed together: heads that share keys and values first, then tokens, as many as half of the registers
  -- hold.
  tune = { heads = shared_heads, toks = shared_tokens },
  map = schedules.attend,
  bench = SCORED,
}

-- Plain attention, in three kernels that `attention` is measured against (bench/scaling.sh); models do not call them.
-- Scores and weights lie in pages of 256 keys, as the cache does; the score of a key that is not seen is -1e30.
local PAGE = 256

kernel "attention_scores" {
  sig = "q: f32[tok?,nh,hd], kc: KV@keys[nkv,key?,hd], pages: i32[npages?], pos: dim, scale: num, window: num,"
     .. " prod: format -> s: f32[tok?,nh,npages?,256]",
  body = function(a)
    for t in each("tok", a.tok) do
      for h in each("head", a.nh) do
        local g, n = h // (a.nh // a.nkv), a.pos + t + 1
        for b in each("page", a.npages) do
          for k in each("key", PAGE) do
            local j = b * PAGE + k
            local seen = a.window > 0 and both(lt(j, n), le(n, j + a.window)) or lt(j, n)
            a.s[t][h][b][k] = select(seen, score(a, t, h, g, j), -1e30)
          end
        end
      end
    end
  end,
  tune = { heads = shared_heads, toks = shared_tokens },
  map = { task = { "tok", "head" }, lane = "key", unroll = { key = 4, tok = "toks", head = "heads" } },
  bench = SCORED,
}

kernel "softmax" {
  sig = "s: f32[tok?,nh,npages?,256] -> p: f32[tok?,nh,npages?,256]",
  body = function(a)
    for t in each("tok", a.tok) do
      for h in each("head", a.nh) do
        local function over_pages(reduce, f)
          return reduce("b", a.npages, function(b)
            return reduce("k", PAGE, function(k) return f(a.s[t][h][b][k]) end)
          end)
        end
        local most = over_pages(maximum, function(s) return s end)
        local inv = 1 / over_pages(sum, function(s) return exp(s - most) end)
        for b in each("page", a.npages) do
          for k in each("key", PAGE) do a.p[t][h][b][k] = exp(a.s[t][h][b][k] - most) * inv end
        end
      end
    end
  end,
  map = { task = { "tok", "head" }, lane = "key", unroll = { key = 4 } },
  bench = { { tok = 1, pos = 1023, nh = 32 }, { tok = 512, nh = 32 } },
}

kernel "attention_values" {
  sig = "p: f32[tok?,nh,npages?,256], vc: KV@rows[nkv,key?,hd], pages: i32[npages?], prod: format"
     .. " -> y: f32[tok?,nh,hd]",
  body = function(a)
    for t in each("tok", a.tok) do
      for h in each("head", a.nh) do
        local g = h // (a.nh // a.nkv)
        for i in each("i", a.hd) do
          a.y[t][h][i] = sum("b", (a.key + PAGE - 1) // PAGE, function(b)
            local p = vec("k", PAGE, function(k) return rounded(a.prod, a.p[t][h][b][k]) end)
            return sum("k", min(PAGE, a.key - b * PAGE), function(k)
              return p[k] * rounded(a.prod, a.vc[g][b * PAGE + k][i])
            end)
          end)
        end
      end
    end
  end,
  tune = { -- a team's threads keep each query's weights of a page in the memory they share: one at a time
    heads = function(m, s) return m.team and 1 or shared_heads(m, s) end,
    toks = function(m, s) return m.team and 1 or shared_tokens(m, s) end,
  },
  map = schedules.attend,
  bench = { { tok = 1, pos = 1023, nh = 32, nkv = 4, hd = 64, KV = "f16", prod = "f32" },
            { tok = 512, nh = 32, nkv = 4, hd = 64, KV = "f16", prod = "f32" } },
}

-- The largest element and its index, the lowest on ties; a NaN, where there is one, is the largest.
local largest = monoid {
  zero = function() return { v = -math.huge, i = 0 } end,
  merge = function(a, b)
    local first = lt(a.i, b.i)
    local larger = either(lt(b.v, a.v), both(eq(a.v, b.v), first))
    local function pick(x, y) return select(eq(a.v, a.v), select(larger, x, y), x) end
    return { v = pick(a.v, b.v), i = pick(a.i, b.i) }
  end,
}

-- A row of logits in 128 parts: whole vectors of any target; those at the end overlap.
local PARTS, VECTORS = 128, 256
local function largest_of_part(a, x, part)
  local length = math.min(a.n, (a.n + PARTS * VECTORS - 1) // (PARTS * VECTORS) * VECTORS)
  local first = min(part * length, a.n - length)
  return fold("k", length, largest, function(k) return { v = x[first + k], i = first + k } end)
end

kernel "largest_of_parts" {
  sig = "x: f32[tok?,n] -> m: f32[tok?,128]",
  body = function(a)
    for t in each("tok", a.tok) do
      for p in each("part", PARTS) do a.m[t][p] = largest_of_part(a, a.x[t], p).v end
    end
  end,
  map = schedules.parts,
  bench = { { tok = 1, n = 32000 } },
}

kernel "largest_in_its_part" {
  sig = "x: f32[tok?,n], m: f32[tok?,128] -> i: i32[tok?], v: f32[tok?]",
  body = function(a)
    for t in each("tok", a.tok) do
      local part = fold("p", PARTS, largest, function(p) return { v = a.m[t][p], i = p } end).i
      local s = largest_of_part(a, a.x[t], part)
      a.i[t] = s.i
      a.v[t] = s.v
    end
  end,
  map = schedules.rows,
  bench = { { tok = 1, n = 32000 } },
}

-- The k largest of each group, largest first and the lowest id on ties, by counting and not by sorting. Group g of the
-- n elements holds g, g + groups, g + 2·groups, …; what is kept lies so that it can be grouped again, down to one
-- group. The array is longer than what is valid of it, by as much as makes groups equal.
local function element(a, t, i) return a.valid < a.n and select(lt(i, a.valid), a.x[t][i], -math.huge) or a.x[t][i] end

-- f(row of the group, group, index); groups lie side by side in the lanes, a single one along them.
local function each_element(a, rows, f)
  if a.groups == 1 then
    for r in each("row", rows) do f(r, 0, r) end
  else
    for r in each("block", rows) do
      for g in each("row", a.groups) do f(r, g, r * a.groups + g) end
    end
  end
end

-- How many of its group come before each element. Of a NaN none does: it has rank 0, as the largest has.
kernel "top_rank" {
  sig = "x: f32[tok?,n], id: f32[tok?,n], valid: num, groups: num -> rank: f32[tok?,n]",
  body = function(a)
    for t in each("tok", a.tok) do
      each_element(a, a.n // a.groups, function(_, g, i)
        local x, id = element(a, t, i), a.id[t][i]
        a.rank[t][i] = sum("m", a.n // a.groups, function(m)
          local y = element(a, t, m * a.groups + g)
          return select(either(lt(x, y), both(eq(x, y), lt(a.id[t][m * a.groups + g], id))), 1, 0)
        end)
      end)
    end
  end,
  map = schedules.select,
  bench = { { tok = 1, n = 49152, valid = 49152, groups = 256 } },
}

-- Element r of group g is the one of rank r; a sum over that one alone, so that -0 becomes 0 and NaN stays.
kernel "top_pick" {
  sig = "x: f32[tok?,n], id: f32[tok?,n], rank: f32[tok?,n], valid: num, groups: num, k: num"
     .. " -> v: f32[tok?,kept], i: f32[tok?,kept]",
  body = function(a)
    for t in each("tok", a.tok) do
      each_element(a, a.k, function(r, g, to)
        local function pick(f)
          return sum("m", a.n // a.groups, function(m)
            local i = m * a.groups + g
            return select(eq(a.rank[t][i], float(r)), f(i), 0)
          end)
        end
        a.v[t][to] = pick(function(i) return element(a, t, i) end)
        a.i[t][to] = pick(function(i) return a.id[t][i] end)
      end)
    end
  end,
  map = schedules.select,
  bench = { { tok = 1, n = 49152, valid = 49152, groups = 256, k = 40, kept = 10240 } },
}

-- A token drawn from the k largest logits, which come largest first, with their ids: from those that top-p and min-p
-- leave (of the likelihoods exp(v[j] − v[0])), by weights exp((v[j] − v[0]) / temp). how: temp, top-p, min-p, and a
-- number in [0, 1), a multiple of 2^-23, that decides. runtime/sample.c draws the same token: weights are whole numbers
-- of 2^-32, in two parts whose sums are exact in any order, for k <= 256.
local function mass(k, upto, weight) -- Σ weight(j) over j < upto, in units of 2^-32
  local function total(part)
    return sum("j", k, function(j) return select(lt(j, upto), part(weight(j) * 0x1p16), 0) end)
  end
  return total(round) * 0x1p16 + total(function(w) return round((w - round(w)) * 0x1p16) end)
end

kernel "draw" {
  sig = "v: f32[tok?,k], id: f32[tok?,k], how: f32[tok?,4] -> i: f32[tok?], most: f32[tok?]",
  body = function(a)
    for t in each("tok", a.tok) do
      local v, temp, top_p, min_p, where = a.v[t], a.how[t][0], a.how[t][1], a.how[t][2], a.how[t][3]
      local function count(holds)
        return sum("c", a.k, function(j) return select(holds(j), 1, 0) end)
      end
      local function likelihood(j) return exp(v[j] - v[0]) end
      local reached = top_p * mass(a.k, a.k, likelihood)
      local of_mass = count(function(j)
        return either(either(eq(j, 0), le(1, top_p)), lt(mass(a.k, j, likelihood), reached))
      end)
      local kept = min(of_mass, count(function(j) return le(min_p, likelihood(j)) end))
      local function weight(j) return select(lt(float(j), kept), exp((v[j] - v[0]) / temp), 0) end
      local drawn = where * mass(a.k, a.k, weight)
      local chosen = count(function(j) return le(mass(a.k, j + 1, weight), drawn) end)
      a.i[t] = sum("c", a.k, function(j) return select(eq(float(j), chosen), a.id[t][j], 0) end)
      a.most[t] = v[0]
    end
  end,
  map = schedules.rows,
  bench = { { tok = 1, k = 40 } },
}

-- The likeliest token of many: a part of the logits is a task, for a GPU's blocks and a processor's threads.
fused "argmax" {
  sig = "x: f32[tok?,n] -> i: i32[tok?], v: f32[tok?]",
  steps = {
    { "largest_of_parts", x = "x", m = "largest" },
    { "largest_in_its_part", x = "x", m = "largest", i = "i", v = "v" },
  },
  bench = { { tok = 1, n = 32000 } },
}

-- Named fusions, composed of the kernels above the way the graph's fuser composes them.

fused "norm_qkv" {
  sig = "x: f32[tok?,d], g: f32[d], eps: num, wq: Q[nq,d], wk: K[nkv,d], wv: V[nkv,d], act: format"
     .. " -> q: f32[tok?,nq], k: f32[tok?,nkv], v: f32[tok?,nkv]",
  steps = {
    { "rmsnorm", x = "x", g = "g", y = "h" },
    { "linear", x = "h", w = "wq", y = "q" },
    { "linear", x = "h", w = "wk", y = "k" },
    { "linear", x = "h", w = "wv", y = "v" },
  },
  bench = { { tok = 1, d = 2048, nq = 2048, nkv = 256, Q = "q4_k", K = "q4_k", V = "q6_k", act = "q8", eps = 1e-5 },
            { tok = 512, d = 2048, nq = 2048, nkv = 256, Q = "q4_k", K = "q4_k", V = "q6_k", act = "q8", eps = 1e-5 } },
}

fused "swiglu_ffn" {
  sig = "x: f32[tok?,d], g: f32[d], eps: num, w_gate: G[ff,d], w_up: U[ff,d], w_down: D[d,ff], act: format"
     .. " -> y: f32[tok?,d]",
  steps = {
    { "rmsnorm", x = "x", g = "g", y = "h" },
    { "linear", x = "h", w = "w_gate", y = "gate" },
    { "linear", x = "h", w = "w_up", y = "up" },
    { "silu_mul", gate = "gate", up = "up", y = "act_in" },
    { "linear", x = "act_in", w = "w_down", y = "down" },
    { "add", a = "x", b = "down", y = "y" },
  },
  bench = { { tok = 1, d = 2048, ff = 5632, G = "q4_k", U = "q4_k", D = "q6_k", act = "q8", eps = 1e-5 },
            { tok = 512, d = 2048, ff = 5632, G = "q4_k", U = "q4_k", D = "q6_k", act = "q8", eps = 1e-5 } },
}
