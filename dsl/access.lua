-- Addresses: where an element of an array lies, in each layout, and how its stored form becomes a value.
--
-- Layouts: dense (row-major), packed weights (dsl/formats.lua), activation records in the workspace, paged KV cache.

local E = require "dsl.expr"
local formats = require "dsl.formats"

local M = {}

local function i(x) return E.int(x) end
local add, mul, div, mod = E.iadd, E.imul, E.idiv, E.imod

M.PAGE = 256 -- keys a page of the KV cache, and a chunk of the attention fold: chunk boundaries fix the association
M.TILE = 64 -- keys a tile: within a page, K is stored [tile][i][key of the tile] so that keys lie across the lanes

-- base: whose pointer; inv: the memory is constant while the function runs.
local function ld(base, storage, off, inv, max_align)
  local ty = ({ f32 = "f32", f16 = "f16" })[storage] or "i32"
  if storage == "i8" or storage == "i16" then ty = storage end
  if storage == "i64" then ty = "i64" end
  local n = E.node("ld", ty, { off }, base .. "|" .. storage)
  n.base, n.storage, n.inv, n.max_align = base, storage, inv, max_align
  return n
end
M.ld = ld

-- An index stored as i32.
local function ld_index(base, off)
  local n = E.node("ld", "i64", { off }, base .. "|index")
  n.base, n.storage, n.inv = base, "i32", true
  return n
end

-- A 32-bit integer expression in lanes or not.
local function iconst(x) return E.node("const", "i32", {}, x) end
local function i32op(op, a, b) return E.node(op, "i32", { a, b }) end
M.i32op, M.iconst = i32op, iconst

local function to_f32(n)
  if n.ty == "f16" then return E.cast("fpext", "f32", n) end
  if n.ty == "i32" then return E.cast("sitofp", "f32", n) end
  return n
end
M.to_f32 = to_f32

-- x where 16 bits are kept of it: its factors need no more.
function M.short(x)
  if x.op == "exp" then return E.un("short_exp", x.args[1]) end
  if x.op == "fmul" then return E.fmul(M.short(x.args[1]), M.short(x.args[2])) end
  return x
end

-- The 16-bit number nearest to x, in its own type: an f16, or the upper half of a float32. What was one already stays.
function M.nearest(fmt, x)
  if fmt == "f16" then
    if x.op == "fpext" then return x.args[1] end
    if E.fconst(x) == 0 then return E.node("const", "f16", {}, x.imm) end
    if x.op == "select" then return E.select(x.args[1], M.nearest(fmt, x.args[2]), M.nearest(fmt, x.args[3])) end
    return E.cast("fptrunc", "f16", x)
  end
  local bits = E.cast("bitcast", "i32", x)
  local odd = i32op("iand", i32op("ilshr", bits, iconst(16)), iconst(1))
  local up = i32op("iadd32", bits, i32op("iadd32", odd, iconst(0x7fff)))
  local y = E.cast("bitcast", "f32", i32op("iand", up, iconst(-0x10000)))
  return E.select(E.cmp("feq", x, x), y, E.f32(0 / 0))
end

-- The float32 whose upper half is in a 16-bit word.
local function of_upper(word) return E.cast("bitcast", "f32", i32op("ishl", E.cast("zext", "i32", word), iconst(16))) end
M.of_upper = of_upper

local function and_mask(n, m) return i32op("iand", n, iconst(m)) end
local function shr(n, k) return k == 0 and n or i32op("ilshr", n, iconst(k)) end
local function shl(n, k) return k == 0 and n or i32op("ishl", n, iconst(k)) end

-- Dense arrays ------------------------------------------------------------------------------------------------------

local function dense_offset(array, idx, size)
  local off, stride = i(0), i(size)
  for k = #idx, 1, -1 do
    off = add(off, mul(idx[k], stride))
    if k > 1 then stride = mul(stride, array.dims[k].size and i(array.dims[k].size) or array.dims[k].node) end
  end
  return off
end

-- A BF16 cache holds what dots of pairs take (dsl/pairs.lua): two elements along the axis of the sums side by side.
function M.paired(array) return array.fmt == "bf16" and array.layout ~= "dense" end

-- Paged arrays [kv head, key, i]: the element's byte offset in the pool; where elements are in pairs also its place in its own.
local function paged_offset(array, idx, size)
  local nkv, hd = array.dims[1].size, array.dims[3].size
  local h, key, e = idx[1], idx[2], idx[3]
  local page = ld_index("pages", mul(div(key, i(M.PAGE)), i(4)))
  local base = add(mul(page, i(nkv * M.PAGE * hd * size)), mul(h, i(M.PAGE * hd * size)))
  local in_page, per = mod(key, i(M.PAGE)), i(M.paired(array) and 2 or 1)
  local function place(k, stride) return add(mul(div(k, per), i(stride * size * per.const)), mul(mod(k, per), i(size))) end
  if array.layout == "keys" then
    local tile, t = div(in_page, i(M.TILE)), mod(in_page, i(M.TILE))
    return add(base, add(mul(tile, i(M.TILE * hd * size)), add(place(e, M.TILE), mul(t, i(size * per.const))))), mod(e, per)
  end
  return add(base, add(place(in_page, hd), mul(e, i(size * per.const)))), mod(in_page, per)
end

local function plain_size(array)
  local s = ({ f32 = 4, f16 = 2, i32 = 4, bf16 = array.layout ~= "dense" and 2 or nil })[array.fmt]
  if not s then error({ kernel_error = ("array '%s' cannot be %s"):format(array.name, array.fmt) }) end
  return s
end

function M.offset(array, idx)
  if array.layout == "dense" then
    local off = dense_offset(array, idx, plain_size(array))
    if array.ws then off = add(off, array.ws) end
    return off
  end
  return (paged_offset(array, idx, plain_size(array)))
end

-- The word of two elements side by side, idx being the first one's; nil where it is not known to be that.
function M.pair(array, idx)
  local off, odd = paged_offset(array, idx, plain_size(array))
  return E.int_const(odd) == 0 and ld(array.name, "i32", off, array.constant) or nil
end

-- An element of an array that is not packed, as float32.
function M.element(array, idx)
  if not M.paired(array) then
    return to_f32(ld(array.ws and "ws" or array.name, array.fmt, M.offset(array, idx), array.constant))
  end
  local off, odd = paged_offset(array, idx, plain_size(array))
  if not off.lane then return of_upper(ld(array.name, "i16", off, array.constant)) end
  local shift = E.node(odd.lane and "lane32" or "trunc", "i32", { mul(odd, i(16)) }) -- each lane's word, and of that the half
  local word = ld(array.name, "i32", add(off, mul(odd, i(-2))), array.constant)
  return E.cast("bitcast", "f32", i32op("ishl", i32op("ilshr", word, shift), iconst(16)))
end

-- A cache in a block format (blocks of 32 along i): in each tile of a head first the scales, then the codes, both in the
-- order of the plain layouts: [block][key], [i][key] for keys, [key][block], [key][i] for values.
local function cache_tile_bytes(array)
  local hd, B = array.dims[3].size, array.def.block
  if hd % B ~= 0 then
    error({ kernel_error = ("a %s cache needs heads of a multiple of %d, got %d"):format(array.fmt, B, hd) })
  end
  return M.TILE * (hd // B * 2 + hd), hd // B
end

-- The byte offset of a field ("d" or "q") of element idx = {kv head, key, i}.
function M.cache_offset(array, fname, idx)
  local tile_bytes, n_blocks = cache_tile_bytes(array)
  local nkv, hd = array.dims[1].size, array.dims[3].size
  local h, key, e = idx[1], idx[2], idx[3]
  local tiles = M.PAGE // M.TILE
  local page = ld_index("pages", mul(div(key, i(M.PAGE)), i(4)))
  local in_page = mod(key, i(M.PAGE))
  local off = add(mul(page, i(nkv * tiles * tile_bytes)), mul(h, i(tiles * tile_bytes)))
  off = add(off, mul(div(in_page, i(M.TILE)), i(tile_bytes)))
  local t, b = mod(in_page, i(M.TILE)), div(e, i(array.def.block))
  if fname == "d" then
    if array.layout == "keys" then return add(off, add(mul(b, i(M.TILE * 2)), mul(t, i(2)))) end
    return add(off, add(mul(t, i(n_blocks * 2)), mul(b, i(2))))
  end
  off = add(off, i(M.TILE * n_blocks * 2))
  if array.layout == "keys" then return add(off, add(mul(e, i(M.TILE)), t)) end
  return add(off, add(mul(t, i(hd)), e))
end

function M.cache_field(array, fname, idx)
  local off = M.cache_offset(array, fname, idx)
  if fname == "d" then return to_f32(ld(array.name, "f16", off)) end
  return to_f32(E.cast("sext", "i32", ld(array.name, "i8", off)))
end

function M.page_bytes(array)
  if array.def then return array.dims[1].size * M.PAGE // M.TILE * (cache_tile_bytes(array)) end
  return array.dims[1].size * M.PAGE * array.dims[3].size * plain_size(array)
end

-- Packed weights ----------------------------------------------------------------------------------------------------

local function packed_base(array, r, k)
  local L, def = array.packed, array.def
  local tile_bytes = formats.tile_bytes(def, L.lanes, L.words, array.dims[#array.dims].size)
  local base = mul(div(r, i(L.lanes)), i(tile_bytes))
  return add(base, mul(div(k, i(def.block)), i(L.block_bytes))), mod(r, i(L.lanes))
end

-- The byte offset of the blocks from the one of element k on of the tile of rows that holds row r, and the bytes of a block.
function M.packed_blocks(array, r, k) return packed_base(array, r, k), array.packed.block_bytes end

local function chunk_base(array, base, k)
  local L, def = array.packed, array.def
  local c = div(mod(k, i(def.block)), i(L.chunk))
  return add(add(base, i(L.head_bytes)), mul(c, i(L.chunk_bytes)))
end

local function load_field(array, field, storage_bytes, off, lane)
  local storage = field.type == "f16" and "f16" or field.type == "f32" and "f32" or storage_bytes == 1 and "i8" or "i16"
  local n = ld(array.name, storage, add(off, mul(lane, i(storage_bytes))), true)
  if storage == "f16" or storage == "f32" then return to_f32(n) end
  if field.type == "bf16" then return of_upper(n) end
  local wide = E.cast("zext", "i32", n)
  if field.bias > 0 then wide = i32op("iadd32", wide, iconst(-field.bias)) end
  return E.cast("sitofp", "f32", wide)
end

-- The group of four elements at position e of a chunk: its number and nil, or the first one's number, the digit of the lane
-- number that counts on from there, and in what steps.
local function group_position(e)
  local const, terms = E.terms_of(e)
  local digit = next(terms)
  local known = not digit or (digit.digit and terms[digit] % 4 == 0 and not next(terms, digit))
  if not known then error({ kernel_error = "the position inside a block is not known at compile time" }) end
  return const // 4, digit, digit and terms[digit] // 4
end

-- The integer code words: a plane word of row r holding group g (elements 4g … 4g+3 of the chunk), as four bytes.
local function plane_groups(array, r, k4) -- k4: index of the group's first element
  local L = array.packed
  local base, lane = packed_base(array, r, k4)
  base = chunk_base(array, base, k4)
  local first, digit, step = group_position(mod(k4, i(L.chunk)))
  local out
  for _, p in ipairs(L.planes) do
    local s = p.slot[first]
    local w = p.words[s.word + 1]
    local at, stride, shift = i(w.at), i(w.stride // 4), nil -- stride: in words
    if digit then
      local words, strides, shifts = {}, {}, {}
      for k = 0, digit.count - 1 do
        local slot = p.slot[first + k * step]
        local word = p.words[slot.word + 1]
        words[k + 1], strides[k + 1], shifts[k + 1] = word.at, word.stride // 4, slot.shift
      end
      at, stride, shift = E.pick(digit, words), E.pick(digit, strides), E.pick(digit, shifts)
      if E.int_const(shift) then shift = nil end
    end
    local v = ld(array.name, "i32", add(base, add(at, mul(mul(lane, stride), i(4)))), true)
    local mask = (1 << p.width) - 1
    if shift then
      v = shl(and_mask(i32op("ilshr", v, E.node("lane32", "i32", { shift })), mask * 0x01010101), p.shift)
    else
      v = s.shift >= p.shift and shr(v, s.shift - p.shift) or shl(v, p.shift - s.shift)
      if p.width < 8 then v = and_mask(v, mask * (0x01010101 << p.shift)) end
    end
    out = out and i32op("ior", out, v) or v
  end
  return out
end
M.plane_groups = plane_groups

-- Byte b of such a word at bit `at`, among the bits of `rest`.
function M.code_bits(word, b, at, rest)
  local v = at >= 8 * b and shl(word, at - 8 * b) or shr(word, 8 * b - at)
  return i32op("ior", and_mask(v, 255 << at), iconst(rest))
end

-- Where a field finer than the block lies for element k: the first lane's.
local function fine_offset(array, field, base, k)
  local L = array.packed
  local j = div(mod(k, i(L.chunk)), i(field.per))
  return add(chunk_base(array, base, k), add(i(L.fine[field.name]), mul(j, i(L.lanes * field.store_bytes))))
end

-- Such a field, a byte, of the runs of elements k and behind it, as two 16-bit numbers.
function M.packed_pair(array, fname, r, k)
  local base, lane = packed_base(array, r, k)
  local field, halves = array.def.fields[fname], {}
  for h = 0, 1 do
    local off = fine_offset(array, field, base, add(k, i(h * field.per)))
    halves[h] = E.cast("zext", "i32", ld(array.name, "i8", add(off, lane), true))
  end
  return i32op("ior", halves[0], i32op("ishl", halves[1], iconst(16)))
end

-- One field of a packed element as float32.
function M.packed_field(array, fname, r, k)
  local L, def = array.packed, array.def
  local f = def.fields[fname]
  local base, lane = packed_base(array, r, k)
  if L.float then
    return load_field(array, f, L.elem_bytes, base, lane)
  end
  if L.head[fname] then
    return load_field(array, f, math.max(1, f.width // 8), add(base, i(L.head[fname])), lane)
  end
  if f.per > 1 then return load_field(array, f, f.store_bytes, fine_offset(array, f, base, k), lane) end
  local e = E.int_const(mod(k, i(4)))
  local word = plane_groups(array, r, add(k, i(e), -1))
  local v = and_mask(shr(word, 8 * e), (1 << f.width) - 1)
  if L.bias > 0 then v = i32op("iadd32", v, iconst(-L.bias)) end
  return to_f32(v)
end

-- Activation records ------------------------------------------------------------------------------------------------

-- A record of n values a token in the workspace: codes, then scales and the exponents of runs, then sums over runs of 32 and
-- of 16 values in units of their block's scale (sumG; isumG: the same as 16-bit integers), and for each bias of the weights'
-- codes −bias times the sum of the activation's codes (dotG_BIAS: where the integer dot starts). Only what some reader asked
-- for is written. apart: a record is an odd number of cache lines, so that one place in the records of 16 tokens lies in as
-- many sets of the first-level cache, which are a power of two. integers: there is room for isumG, since the target may ask for them.
function M.record_layout(rec, biases, apart, integers)
  local n, def = rec.n, rec.def
  local at = 0
  rec.fields = {}
  local function put(name, bytes)
    rec.fields[name] = at
    at = at + (bytes + 15) // 16 * 16
  end
  if rec.fmt == "q8" then
    put("q", n)
    put("d", n // def.block * 4)
    put("s", n // def.fields.s.per * 4)
  else
    put("x", (rec.fmt == "bf16" and 2 or 4) * n)
  end
  for _, g in ipairs { 32, 16 } do
    put("sum" .. g, (n + g - 1) // g * 4)
    if integers and rec.fmt == "q8" then put("isum" .. g, (n + g - 1) // g * 2) end
    for _, b in ipairs(rec.fmt == "q8" and biases or {}) do put(("dot%d_%d"):format(g, b), (n + g - 1) // g * 4) end
  end
  rec.stride = (at + 63) // 64 * 64
  if apart and rec.stride % 128 == 0 then rec.stride = rec.stride + 64 end
end

-- A record lies in the launch's workspace, one a token, or (`shared`) one token's in the memory that a function's threads share.
function M.record_base(rec, t) return rec.shared and i(0) or add(rec.ws, mul(t, i(rec.stride))) end
local function record_ld(rec, storage, off) return ld(rec.shared or "ws", storage, off, not rec.shared) end

-- A field as a number: codes, sums and dot starts as they are, an exponent as its power.
function M.record_field(rec, fname, t, k)
  local base = add(M.record_base(rec, t), i(rec.fields[fname] or error("internal: record field " .. fname)))
  if fname == "q" then return to_f32(E.cast("sext", "i32", record_ld(rec, "i8", add(base, k)))) end
  if fname == "x" and rec.fmt == "bf16" then
    return of_upper(record_ld(rec, "i16", add(base, mul(k, i(2)))))
  end
  if fname == "x" then return record_ld(rec, "f32", add(base, mul(k, i(4)))) end
  local field = rec.def.fields[fname]
  local per = field and field.per or math.tointeger(tonumber(fname:match("%d+")))
  rec.demand[fname] = true
  local off = add(base, mul(div(k, i(per)), i(4)))
  if field and field.type == "pow2" then
    return E.cast("sitofp", "f32", i32op("ishl", iconst(1), record_ld(rec, "i32", off)))
  end
  return record_ld(rec, fname:match("^dot") and "i32" or "f32", off)
end

-- An integer in units of the run of element k, in units of its block's scale.
function M.record_shifted(rec, n, t, k)
  rec.demand.s = true
  local off = add(add(M.record_base(rec, t), i(rec.fields.s)), mul(div(k, i(rec.def.fields.s.per)), i(4)))
  return i32op("ishl", n, record_ld(rec, "i32", off))
end

-- The sums over the runs of g values from element k on and behind them, as two 16-bit numbers; k: a multiple of 2g.
function M.record_pair(rec, g, t, k)
  rec.demand["isum" .. g] = true
  return record_ld(rec, "i32", add(add(M.record_base(rec, t), i(rec.fields["isum" .. g])), mul(div(k, i(2 * g)), i(4))))
end

-- Where a record's codes from element k on lie.
function M.record_codes(rec, t, k) return add(add(M.record_base(rec, t), i(rec.fields.q)), k) end

-- Four consecutive codes as one 32-bit word.
function M.record_codes4(rec, t, k) return record_ld(rec, "i32", M.record_codes(rec, t, k)) end

return M
