-- The registry of block formats and what is derived from a declaration: byte size, decode, packed layout.
--
-- A declaration (dsl/formats/NAME.lua) is a table:
--   ggml    the type's number in GGUF files
--   block   elements a block
--   bytes   bytes a block
--   fields  name -> { per = elements that share one value (1, the default: the codes),
--                     type = "f16"|"bf16"|"f32"|"i8"|"pow2" (an exponent), at = byte offset; or
--                     bits = function(j) -> list of {byte, shift, width}, lowest bits first, of the j-th value,
--                     bias = subtracted from those bits, table = values that the bits index }
--   value   function(f) -> the element as an expression in the fields
--
-- Derived packed layout for `lanes` rows side by side (see docs/architecture.md): per block, the fields shared by the
-- whole block, then per chunk its finer fields, then its codes; lanes innermost. A chunk is the smallest run of elements
-- whose 32-bit code words are read by no other element, so that packing moves whole words.

local M = { list = {} }
local registry = {}

local function fail_define(name, msg) error(("format '%s': %s"):format(name, msg), 0) end

function M.define(name, def)
  def.name = name
  for _, k in ipairs { "block", "bytes", "fields", "value" } do
    if def[k] == nil then fail_define(name, "needs '" .. k .. "'") end
  end
  def.order = {}
  for fname, f in pairs(def.fields) do
    f.name = fname
    f.per = f.per or 1
    if def.block % f.per ~= 0 then fail_define(name, ("field '%s': %d does not divide the block"):format(fname, f.per)) end
    if f.per == 1 then
      if def.code then fail_define(name, "has two code fields") end
      def.code = f
    end
    def.order[#def.order + 1] = fname
  end
  -- Coarse fields first, then by position in the block, so that layouts do not depend on table order.
  table.sort(def.order, function(a, b)
    local x, y = def.fields[a], def.fields[b]
    if x.per ~= y.per then return x.per > y.per end
    if (x.at or 0) ~= (y.at or 0) then return (x.at or 0) < (y.at or 0) end
    return a < b
  end)
  for _, fname in ipairs(def.order) do
    local f = def.fields[fname]
    if f.bits then
      f.width = 0
      for _, s in ipairs(f.bits(0)) do f.width = f.width + s[3] end
      f.bias = f.bias or 0
      if f.table then -- packed as the signed bytes that the bits stand for
        if f.per ~= 1 or #f.table ~= 1 << f.width then fail_define(name, "a table belongs to the codes, one value a code") end
        f.bias, f.width = 128, 8
      end
    else
      f.width = ({ f16 = 16, f32 = 32, i8 = 8, bf16 = 16, pow2 = 32 })[f.type] or fail_define(name, "field '" .. fname .. "': type?")
      f.bias = f.type == "i8" and 128 or 0 -- signed bytes are packed with their top bit flipped
    end
  end
  registry[name] = def
  M.list[#M.list + 1] = name
  return def
end

function M.known(name) return registry[name] ~= nil end

function M.get(name, fail)
  local f = registry[name]
  if not f then
    table.sort(M.list);
    (fail or error)(("unknown format '%s'; known: %s"):format(tostring(name), table.concat(M.list, " ")))
  end
  return f
end

-- The format as it is for rows of n elements: with the longest block that divides them, halved down to `least`. What is
-- shared by a whole block is then shared by the shorter one. nil: no block does.
function M.for_width(def, n)
  local block = def.block
  while n % block ~= 0 do
    if block <= (def.least or def.block) then return nil end
    block = block // 2
  end
  if block == def.block then return def end
  def.shorter = def.shorter or {}
  if not def.shorter[block] then
    local short, fields = setmetatable({ block = block, fields = {} }, { __index = def }), def.fields
    for name, f in pairs(fields) do
      short.fields[name] = setmetatable({ per = math.min(f.per, block) }, { __index = f })
    end
    def.shorter[block] = short
  end
  return def.shorter[block]
end

function M.is_float(def) return def.code.type == "f32" or def.code.type == "f16" or def.code.type == "bf16" end

-- The code planes: a code of w bits is split into power-of-two planes, low bits first (6 = 4 + 2).
local function planes(width)
  local out, at = {}, 0
  while at < width do
    local w = 8
    while w > width - at do w = w // 2 end
    out[#out + 1] = { width = w, shift = at }
    at = at + w
  end
  return out
end

-- Groups of four consecutive elements and the source word each plane slice comes from.
-- Returns {group -> {byte, shift}} when each group's bits lie in four consecutive bytes at one shift, else nil.
local function word_slices(def, plane)
  local f = def.code
  if f.table then return nil end
  local out = {}
  for g = 0, def.block // 4 - 1 do
    local first
    for b = 0, 3 do
      local k, bit, byte, shift = 4 * g + b, 0, nil, nil
      if f.bits then
        for _, s in ipairs(f.bits(k)) do
          if bit == plane.shift and s[3] >= plane.width then byte, shift = s[1], s[2] end
          bit = bit + s[3]
        end
      else
        byte, shift = f.at + k, 0
      end
      if not byte then return nil end
      if b == 0 then
        first = { byte, shift }
      elseif byte ~= first[1] + b or shift ~= first[2] then
        return nil
      end
    end
    out[g] = first
  end
  return out
end

local MAX_CHUNK = 128 -- longer chunks make loop bodies that spill

-- The source words of a plane when each is used up inside chunks of `chunk` elements; nil, or a larger chunk that would do.
local function closed_words(slices, plane, chunk)
  local span = {}
  for g, s in pairs(slices) do
    span[s[1]] = span[s[1]] or { lo = g, hi = g, n = 0 }
    local w = span[s[1]]
    w.lo, w.hi, w.n = math.min(w.lo, g), math.max(w.hi, g), w.n + 1
  end
  for _, w in pairs(span) do
    if w.n ~= 8 // plane.width then return nil end
    while w.lo // (chunk // 4) ~= w.hi // (chunk // 4) do chunk = chunk * 2 end
  end
  return chunk
end

-- Elements of a chunk, and which groups share a word of each plane.
--   plane.words    list of {source = byte whose word is taken as it is, or nil, groups = {slot -> group}}
--   plane.slot     group -> {word, shift in bits}
--   plane.slices   group in block -> {byte, shift} where words can be assembled four elements at a time
local function code_layout(def)
  local layout = { planes = planes(def.code.width) }
  local chunk = math.min(def.block, 32)
  for _, p in ipairs(layout.planes) do
    p.slices = word_slices(def, p)
    local grown = p.slices and closed_words(p.slices, p, chunk)
    if grown and grown <= MAX_CHUNK then
      chunk, p.whole = grown, true
    else
      chunk = math.max(chunk, math.min(def.block, 4 * 8 // p.width))
    end
  end
  layout.chunk = chunk
  local groups = chunk // 4
  for _, p in ipairs(layout.planes) do
    local per_word = 8 // p.width
    p.words, p.slot = {}, {}
    local by_source = {}
    for g = 0, groups - 1 do
      local word, slot
      if p.whole then
        local src = p.slices[g]
        word = by_source[src[1]]
        if not word then
          word = #p.words
          p.words[word + 1] = { source = src[1], groups = {} }
          by_source[src[1]] = word
        end
        slot = src[2] // p.width
      else
        word, slot = g // per_word, g % per_word
        p.words[word + 1] = p.words[word + 1] or { groups = {} }
      end
      p.words[word + 1].groups[slot] = g
      p.slot[g] = { word = word, shift = slot * p.width }
    end
  end
  return layout
end

-- The packed layout for a number of lanes, and `words` code words of a lane side by side (what one load takes); all offsets in
-- bytes within a tile of `lanes` rows.
-- { lanes, chunk, head = {field -> offset in block}, head_bytes, fine = {field -> offset in chunk}, codes = offset in chunk,
--   chunk_bytes, block_bytes } ; float formats are one chunk of plain elements, k-major.
function M.layout(def, lanes, words)
  def.layouts = def.layouts or {}
  local key = lanes .. ":" .. words
  if def.layouts[key] then return def.layouts[key] end
  local L = { lanes = lanes, words = words, def = def, head = {}, fine = {} }
  local function align(n) local a = math.min(64, lanes * 4) return (n + a - 1) // a * a end
  if M.is_float(def) then
    L.float, L.chunk = true, 1
    L.elem_bytes = def.code.width // 8
    L.block_bytes = lanes * L.elem_bytes
    def.layouts[key] = L
    return L
  end
  local codes = code_layout(def)
  L.chunk, L.planes = codes.chunk, codes.planes
  L.bias = def.code.bias -- codes are kept unsigned for the integer dot; the element's code is that minus the bias
  local at = 0
  for _, name in ipairs(def.order) do
    local f = def.fields[name]
    if f.per >= def.block and f.per > 1 and def.block > L.chunk then
      L.head[name] = at
      at = at + lanes * math.max(1, f.width // 8)
    end
  end
  L.head_bytes = align(at)
  at = 0
  for _, name in ipairs(def.order) do
    local f = def.fields[name]
    if f.per > 1 and not L.head[name] then
      f.store_bytes = f.width <= 8 and 1 or f.width // 8
      L.fine[name] = at
      at = at + lanes * f.store_bytes * math.max(1, L.chunk // f.per)
    end
  end
  -- Super-blocks whose codes are put together from several planes: many tokens unpack them once (dsl/passes.lua).
  L.laborious = #codes.planes > 1 and L.head_bytes > 0 and at > 0
  L.codes = align(at)
  -- Words in the order in which the groups of a chunk first touch them: one rising stream of addresses for all planes.
  local order, seen = {}, {}
  for g = 0, L.chunk // 4 - 1 do
    for _, p in ipairs(L.planes) do
      local w = p.words[p.slot[g].word + 1]
      if not seen[w] then
        seen[w] = true
        order[#order + 1] = w
      end
    end
  end
  at = L.codes
  for first = 1, #order, words do
    local together = math.min(words, #order - first + 1)
    for k = 0, together - 1 do order[first + k].at, order[first + k].stride = at + 4 * k, 4 * together end
    at = at + 4 * together * lanes
  end
  L.chunk_bytes = align(at)
  L.block_bytes = L.head_bytes + def.block // L.chunk * L.chunk_bytes
  def.layouts[key] = L
  return L
end

-- Bytes of one tile (lanes rows of n elements), and of a matrix.
function M.tile_bytes(def, lanes, words, n)
  local L = M.layout(def, lanes, words)
  return (L.block_bytes * (n // def.block) + 63) // 64 * 64
end
function M.packed_bytes(def, lanes, words, rows, n)
  return M.tile_bytes(def, lanes, words, n) * ((rows + lanes - 1) // lanes)
end

return M
