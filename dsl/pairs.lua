-- Values rounded to BF16, and sums of products of two such: a target may have a dot of pairs for them (the flat IR's dotbf).
--
-- A value is rounded where the body says so (`rounded("bf16", x)`); elements of a BF16 cache are so already. Where both
-- factors of a sum's products are, the sum goes along the axis by pairs of neighbours, each a 32-bit word: a BF16 cache and
-- a vec() of rounded values hold such words, a factor without lanes is written to a vec() first, any other is rounded and put
-- together where it is used.

local E = require "dsl.expr"
local access = require "dsl.access"

local M = {}

local add, mul = E.iadd, E.imul
local function i(x) return E.int(x) end
local i32op, iconst = access.i32op, access.iconst

local function rounds(n) return n.op == "rounded" and n.imm == "bf16" end
M.rounds = rounds

local function is_rounded(n)
  return rounds(n) or n.op == "load" and access.paired(n.array)
    or n.op == "at" and n.args[1].imm == "local" and rounds(n.args[1].args[2])
end

-- The BF16 bits of a lowered f32 value.
local function bits(x) return E.node("tobf", "i16", { x }) end
M.bits = bits

-- The value of BF16 bits.
M.value = access.of_upper

-- What `rounded` rounds, where it is not rounded already.
local function plain(n)
  while rounds(n) and is_rounded(n.args[1]) do n = n.args[1] end
  return n
end

-- Do the monomials of a sum's body, over an axis of `len` values, go by pairs?
function M.fit(X, monomials, len)
  local n = E.int_const(len) or len.op == "bounded" and len.imm
  if not n or n % 2 ~= 0 or X.team then return false end
  for _, m in ipairs(monomials) do
    if #m.f ~= 2 or m.c ~= 1 or not (is_rounded(m.f[1]) and is_rounded(m.f[2])) then return false end
  end
  return #monomials > 0
end

-- The word of a factor's elements at kvar = at and at + 1, at being even.
local function word(X, n, kvar, at, len)
  n = plain(n)
  if rounds(n) and not n.lane and n.deps[kvar] and E.int_const(len) then
    n = E.node("at", "f32", { E.node("vec", "vec", { len, n }, "local", kvar), kvar })
  end
  local function index(a) return X:lower(E.subst(a, { [kvar] = at })) end
  if n.op == "load" then
    local idx = {}
    for k, a in ipairs(n.args) do idx[k] = index(a) end
    local w = access.pair(n.array, idx)
    if w then return w end
  elseif n.op == "at" then
    local k = index(n.args[2])
    if E.int_const(E.imod(k, i(2))) == 0 then return E.node("sld", "i32", { X:materialize(n.args[1]), mul(k, i(2)) }) end
  end
  local function half(e)
    local x = X:lower(E.subst(rounds(n) and n.args[1] or n, { [kvar] = add(at, i(e)) }))
    return E.cast("zext", "i32", bits(x))
  end
  return i32op("ior", half(0), i32op("ishl", half(1), iconst(16)))
end

-- acc + the products of a pair's two elements: first that of the second one, then that of the first.
function M.dot(X, factors, kvar, at, len, acc)
  return E.node("dotbf", "f32", { acc, word(X, factors[1], kvar, at, len), word(X, factors[2], kvar, at, len) })
end

-- acc + the product of the last element where their number `count`, at most `bound`, is odd: what follows it does not count,
-- whatever it is.
function M.rest(X, factors, kvar, len, count, acc)
  local pair = E.imin(E.idiv(count, i(2)), i(len.imm // 2 - 1))
  local mask = E.cast("trunc", "i32", mul(E.imod(count, i(2)), i(0xffff)))
  local function masked(f) return i32op("iand", word(X, f, kvar, mul(pair, i(2)), len), mask) end
  return E.node("dotbf", "f32", { acc, masked(factors[1]), masked(factors[2]) })
end

return M
