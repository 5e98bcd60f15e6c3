-- The repacking routine of a format, generated from its declaration and its packed layout (dsl/formats.lua).
--
-- pack.FORMAT: args src (rows in file layout), dst (tiles), rowmap (i32: the source row of each packed row);
-- dims nb (blocks a row), rows, row_bytes, tile_bytes. One task a tile; rows past the last repeat it, so that a tile is
-- always whole.

local E = require "dsl.expr"
local L = require "dsl.language"
local access = require "dsl.access"
local formats = require "dsl.formats"
local emit = require "dsl.emit"

local M = {}

local add, mul = E.iadd, E.imul
local function i(x) return E.int(x) end
local op32, c32 = access.i32op, access.iconst

local function src(storage, off) return access.ld("src", storage, off, true, 1) end
local function byte(off) return E.cast("zext", "i32", src("i8", off)) end

-- The integer made of bit slices {byte, shift, width}, lowest first.
local function gather(base, slices)
  local out, at = nil, 0
  for _, s in ipairs(slices) do
    local v = byte(add(base, i(s[1])))
    if s[2] > 0 then v = op32("ilshr", v, c32(s[2])) end
    v = op32("iand", v, c32((1 << s[3]) - 1))
    if at > 0 then v = op32("ishl", v, c32(at)) end
    out = out and op32("ior", out, v) or v
    at = at + s[3]
  end
  return out
end

-- One plane's bits of code k.
local function code_bits(def, plane, k)
  local f = def.code
  local slices = f.bits and f.bits(k) or { { f.at + k * f.width // 8, 0, f.width } }
  local out, at = {}, 0
  for _, s in ipairs(slices) do
    local lo, hi = math.max(at, plane.shift), math.min(at + s[3], plane.shift + plane.width)
    if lo < hi then out[#out + 1] = { s[1], s[2] + lo - at, hi - lo } end
    at = at + s[3]
  end
  return out
end

-- The code of element k as packed: its bits, or the byte its table gives.
local function table_code(def, k, s)
  local f = def.code
  local v = gather(s, f.bits(k))
  local out = c32(f.table[1] + f.bias)
  for n = 2, #f.table do
    out = E.select(E.node("ieq", "bool", { v, c32(n - 1) }), c32(f.table[n] + f.bias), out)
  end
  return out
end

local function plane_word(def, layout, p, w, chunk, s)
  local word = p.words[w]
  local first = chunk * layout.chunk // 4
  if word.source then
    -- The same words serve every chunk, at the chunk's place in the source.
    return src("i32", add(s, i(p.slices[first + word.groups[0]][1])))
  end
  local v
  local function join(x, at)
    if at > 0 then x = op32("ishl", x, c32(at)) end
    v = v and op32("ior", v, x) or x
  end
  for slot = 0, 8 // p.width - 1 do
    local g = word.groups[slot]
    if g and p.slices then
      local from = p.slices[first + g]
      local x = src("i32", add(s, i(from[1])))
      if from[2] > 0 then x = op32("ilshr", x, c32(from[2])) end
      join(op32("iand", x, c32(((1 << p.width) - 1) * 0x01010101)), slot * p.width)
    elseif g then
      for b = 0, 3 do
        local k = 4 * (first + g) + b
        local x = def.code.table and table_code(def, k, s) or gather(s, code_bits(def, p, k))
        join(x, 8 * b + slot * p.width)
      end
    end
  end
  return v
end

function M.kernel(fmt, lanes, words)
  local def = formats.get(fmt)
  local layout = formats.layout(def, lanes, words)
  local name = "pack." .. fmt
  local ctx = E.begin()
  local em = emit.new(16)
  local dims = { "nb", "rows", "row_bytes", "tile_bytes" }
  local dim_index = {}
  for k, d in ipairs(dims) do dim_index[d] = k - 1 end
  L.during({ name = name, ctx = ctx }, function()
    local begin, finish = em:func(name, dim_index, { src = 0, dst = 1, rowmap = 2 })
    local tile, kb, ln = E.var("tile", nil, 0), E.var("block", nil, 0), E.var("row", lanes, 0)
    em:each(tile, begin, finish, 1, function()
      em:each(kb, i(0), E.dim("nb"), 1, function()
        em:each(ln, i(0), i(lanes), 1, function()
          local r = E.imin(add(mul(tile, i(lanes)), ln), add(E.dim("rows"), i(-1)))
          local row = E.node("ld", "i64", { mul(r, i(4)) }, "rowmap|index")
          row.base, row.storage, row.inv = "rowmap", "i32", true
          local s = add(mul(row, E.dim("row_bytes")), mul(kb, i(def.bytes)))
          local d = add(mul(tile, E.dim("tile_bytes")), mul(kb, i(layout.block_bytes)))
          local list = {}
          local function put(off, stride, storage, value)
            list[#list + 1] = { base = "dst", name = "dst", off = add(d, add(i(off), mul(ln, i(stride)))), value = value,
                                storage = storage, max_align = 1 }
          end
          local function put_field(f, j, off)
            if f.type == "f16" or f.type == "bf16" then put(off, 2, "i16", src("i16", add(s, i(f.at + j * 2))))
            elseif f.type == "f32" then put(off, 4, "i32", src("i32", add(s, i(f.at + j * 4))))
            elseif f.type == "i8" then put(off, 1, "i8", op32("ixor", byte(add(s, i(f.at + j))), c32(0x80)))
            else put(off, f.store_bytes or 1, f.store_bytes == 2 and "i16" or "i8", gather(s, f.bits(j))) end
          end
          if layout.float then
            put_field(def.code, 0, 0)
          else
            for fname, off in pairs(layout.head) do put_field(def.fields[fname], 0, off) end
            for c = 0, def.block // layout.chunk - 1 do
              local at = layout.head_bytes + c * layout.chunk_bytes
              for _, fname in ipairs(def.order) do
                local f = def.fields[fname]
                if layout.fine[fname] then
                  local n = math.max(1, layout.chunk // f.per)
                  for j = 0, n - 1 do
                    put_field(f, c * layout.chunk // f.per + j, at + layout.fine[fname] + j * lanes * f.store_bytes)
                  end
                end
              end
              for _, p in ipairs(layout.planes) do
                for w, word in ipairs(p.words) do
                  local v = plane_word(def, layout, p, w, c, s)
                  if def.code.type == "i8" then v = op32("ixor", v, c32(0x80808080)) end
                  put(at + word.at, word.stride, "i32", v)
                end
              end
            end
          end
          em:stores(list)
        end)
      end)
    end)
    em:close()
  end)
  return { name = name, fn = name, ir = em:text(), dims = dims }
end

return M
