-- Properties of index expressions (dsl/expr.lua) and of the monoids of kernels.lua. The monoids are tried on plain numbers: the file is run in an environment where the language's
-- verbs compute at once, so that what is checked is the algebra as written, not its lowering.

local planned, failures = 0, 0
local function ok(condition, name, detail)
  planned = planned + 1
  if not condition then failures = failures + 1 end
  print((condition and "ok " or "not ok ") .. planned .. " - " .. name)
  if not condition and detail then print("# " .. detail) end
end

-- The language on numbers: 0-based vectors are tables.
local monoids = {}
local function collect(_) return function() end end
local env = {
  math = math, ipairs = ipairs, pairs = pairs, exp = math.exp, max = math.max, min = math.min, abs = math.abs,
  lt = function(a, b) return a < b end, le = function(a, b) return a <= b end, eq = function(a, b) return a == b end,
  both = function(a, b) return a and b end, either = function(a, b) return a or b end,
  select = function(c, a, b) if c then return a end return b end,
  kernel = collect, fused = collect, schedules = setmetatable({}, { __index = function() return {} end }),
  monoid = function(def) monoids[#monoids + 1] = def return def end,
}
-- To f16, of numbers that are neither tiny nor huge there, or to bf16.
function env.rounded(fmt, x)
  if fmt == "f32" or x == 0 then return x end
  local e = math.floor(math.log(math.abs(x), 2)) + 1
  local unit = 2.0 ^ (e - (fmt == "f16" and 11 or 8))
  return (x / unit + 0x1.8p52 - 0x1.8p52) * unit
end
function env.sum(_, n, f) local s = 0 for j = 0, n - 1 do s = s + f(j) end return s end
function env.maximum(_, n, f) local m = -math.huge for j = 0, n - 1 do m = math.max(m, f(j)) end return m end
function env.vec(_, n, f) local v = { n = n } for j = 0, n - 1 do v[j] = f(j) end return v end
assert(loadfile("kernels.lua", "t", env))()

local softmax_means, largest = {}, nil -- rounded to f32, f16 and bf16
for _, m in ipairs(monoids) do
  if m.zero().l then softmax_means[#softmax_means + 1] = m else largest = m end
end
local softmax_mean = softmax_means[1]

local seed = tonumber(os.getenv("SEED") or os.time() // 86400)
math.randomseed(seed)
local function normal() local s = -6 for _ = 1, 12 do s = s + math.random() end return s end

-- Equal but for rounding; NaN equals NaN.
local function near(a, b, share)
  for k, x in pairs(a) do
    local y = b[k]
    if not (x == y or (x ~= x and y ~= y) or math.abs(x - y) <= (share or 1e-12) * (1 + math.abs(x))) then return false, k end
  end
  return true
end

local function check(name, m, element)
  local associative, neutral, detail = true, true, nil
  for n = 1, 300 do
    local a, b, c = element(), element(), element()
    if n % 7 == 0 then b = a end
    if n % 11 == 0 then c = m.zero() end
    local left, right = m.merge(m.merge(a, b), c), m.merge(a, m.merge(b, c))
    local same, k = near(left, right)
    if not same then associative, detail = false, ("%s: %s and %s"):format(k, left[k], right[k]) end
    neutral = neutral and near(m.merge(a, m.zero()), a) and near(m.merge(m.zero(), a), a)
  end
  ok(associative, name .. ": merge is associative", detail)
  ok(neutral, name .. ": zero is neutral")
end

-- States as folds make them: of one key, of several merged, or masked.
check("softmax_mean", softmax_mean, function()
  if math.random(8) == 1 then return { m = normal() * 10, l = 0, o = 0 } end -- a key of no weight
  local l = math.random() * 3 + 0.1
  return { m = normal() * 10, l = l, o = normal() * l }
end)
local index = 0
check("largest", largest, function()
  index = index + 1
  return { v = math.random(5), i = index }
end)

-- A tile of n keys with a value of two elements, some masked as a fold masks them (m and l of zero()).
local function tile_of(n)
  local tile = { n = n, m = {}, l = {}, o = { n = 2 } }
  for j = 0, n - 1 do
    local masked = math.random(5) == 1
    tile.m[j] = masked and softmax_mean.zero().m or normal() * 4
    tile.l[j] = masked and 0 or 1
    tile.o[j] = { [0] = normal(), normal() }
  end
  return tile
end

-- Rounded factors: a weight and a value, each by half a unit, and values up to 6 add to a tile's n weights.
for number, bits in ipairs { 40, 11, 8 } do
  local m = softmax_means[number]
  local many_is_merge, detail = true, nil
  for _, n in ipairs { 1, 2, 5, 31, 32, 64 } do
    for _ = 1, 50 do
      local tile = tile_of(n)
      local whole = m.many(tile)
      for e = 0, 1 do
        local state = m.zero()
        for j = 0, n - 1 do
          state = m.merge(state, { m = tile.m[j], l = tile.l[j], o = tile.o[j][e] * tile.l[j] })
        end
        local same, k = near(state, { m = whole.m, l = whole.l, o = whole.o[e] }, 2.0 ^ -bits * 12 * n)
        if not same then many_is_merge, detail = false, ("%d keys: %s"):format(n, k) end
      end
    end
  end
  ok(many_is_merge, ("softmax_mean: many(tile) is merge repeated, but for factors of %d bits"):format(bits), detail)
end

-- The lowest index on ties, wherever the axis is cut; a NaN is not lost.
local function fold_pieces(x, cuts)
  local total
  for c = 1, #cuts - 1 do
    local part = largest.zero()
    for j = cuts[c], cuts[c + 1] - 1 do part = largest.merge(part, { v = x[j], i = j }) end
    total = total and largest.merge(total, part) or part
  end
  return total
end
local lowest, nan_found = true, true
for _ = 1, 200 do
  local x = {}
  for j = 0, 39 do x[j] = math.random(4) end
  local cut = math.random(1, 39)
  local first = 0
  for j = 1, 39 do if x[j] > x[first] then first = j end end
  local r = fold_pieces(x, { 0, cut, 40 })
  lowest = lowest and r.i == first and r.v == x[first]
  local at = math.random(0, 39)
  x[at] = 0 / 0
  r = fold_pieces(x, { 0, cut, 40 })
  nan_found = nan_found and r.v ~= r.v and r.i == at
end
ok(lowest, "largest: the lowest index on ties, however the axis is cut")
ok(nan_found, "largest: a NaN is found, however the axis is cut")

-- Division and remainder of index expressions: simplified, they have the same value; (4·t + 3) // 8 is t // 2.
package.path = "./?.lua;" .. package.path
local E = require "dsl.expr"
E.begin()
local function value(n, at)
  if at[n] then return at[n] end
  local args = {}
  for k, a in ipairs(n.args) do args[k] = value(a, at) end
  if n.op == "idiv" then return args[1] // args[2] end
  if n.op == "imod" then return args[1] % args[2] end
  if n.op == "imul" then return args[1] * args[2] end
  assert(n.op == "lin", n.op)
  local v = n.const
  for k, a in ipairs(args) do v = v + n.coefs[k] * a end
  return v
end
local t, u = E.var("t", nil, 1), E.var("u", 4, 2)
local quotients, remainders = true, true
for _ = 1, 2000 do
  local n = E.iadd(E.iadd(E.imul(t, E.int(math.random(0, 24))), E.imul(u, E.int(math.random(0, 8)))), E.int(math.random(0, 40)))
  local c, at = math.random(1, 32), { [t] = math.random(0, 100), [u] = math.random(0, 3) }
  quotients = quotients and value(E.idiv(n, E.int(c)), at) == value(n, at) // c
  remainders = remainders and value(E.imod(n, E.int(c)), at) == value(n, at) % c
end
ok(quotients, "expressions: a simplified quotient has the value of the plain one")
ok(remainders, "expressions: a simplified remainder has the value of the plain one")
local half = E.idiv(t, E.int(2))
local one = rawequal(E.idiv(E.iadd(E.imul(t, E.int(4)), E.int(3)), E.int(8)), half)
ok(one and rawequal(E.idiv(E.imul(t, E.int(4)), E.int(8)), half), "expressions: heads of one group have one quotient")
local p, products = E.dim("p"), true
for _ = 1, 200 do
  local function sum() return E.iadd(E.iadd(E.imul(t, E.int(math.random(0, 9))), p), E.int(math.random(-9, 9))) end
  local a, b, at = sum(), sum(), { [t] = math.random(0, 100), [p] = math.random(0, 100) }
  products = products and value(E.imul(a, b), at) == value(a, at) * value(b, at)
end
ok(products, "expressions: a product of sums, multiplied out, has the value of the plain one")

-- A sum over what is known at run time only, though with a bound, reads no further: beside lanes of another axis their blocks
-- may be addressed as if it were the bound, but an axis that could lie across the lanes itself goes element by element.
local language, lower = require "dsl.language", require "dsl.lower"
local function traced(sig, f)
  language.kernels.tail = nil
  language.lang.kernel "tail" {
    sig = sig, map = { task = { "tok" }, lane = "i", unroll = {} },
    body = function(a)
      local L = language.lang
      for n in L.each("tok", a.tok) do
        for i in L.each("i", 16) do
          a.y[n][i] = L.sum("b", a.npages, function(b)
            return L.sum("k", L.min(32, a.pos - b * 32), function(k) return f(a, n, i, b, k) end)
          end)
        end
      end
    end,
  }
  local target = { class = "x86-64-v4", lanes = 16, pack_lanes = 16, pack_words = 1, vregs = 32, team = 0 }
  return lower.kernel({ kernel = "tail" }, target).ir
end
local rows = traced("x: f32[tok?,npages?,32,16], pos: dim -> y: f32[tok?,16]", function(a, n, i, b, k) return a.x[n][b][k][i] end)
local along = traced("x: f32[tok?,npages?,32], pos: dim -> y: f32[tok?,16]", function(a, n, _, b, k) return a.x[n][b][k] end)
local function loops_to_its_end(ir)
  local last = ir:match("(%%%d+):i64 = smin")
  return last and ir:find(" to " .. last .. " step", 1, true) ~= nil
end
ok(loops_to_its_end(rows) and rows:find("f32x16 = load", 1, true), "a bounded sum beside lanes: vectors, to its end", rows)
ok(loops_to_its_end(along) and not along:find("f32x16 = load", 1, true), "a bounded sum by itself: no vectors past its end", along)

print("1.." .. planned)
os.exit(failures == 0 and 0 or 1)
