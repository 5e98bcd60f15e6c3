-- The documents on the language: every ```lua block is run, every table made from the source is compared with it, and
-- the sources keep the limits they promise. UPDATE=1 rewrites the tables and the expected errors; read the diff.
-- TAP on standard output; run from the repository's root: lua5.4 verify/test_docs.lua
--
-- In a document:
--   <!-- with d=64 W=q8_0 -->     before a block: sizes, formats and parameters for its kernels (guessed without)
--   <!-- format NAME -->          the block is a format's file          <!-- family NAME: … -->  a family's file, with
--   ```error after ```lua         the block must fail with this                the tensors and keys of a model file
--   <!-- run COMMAND -->          before ```sh: run where build/kgen has the command
--   <!-- made: NAME --> … <!-- end -->    the section that makers.NAME returns

package.path = "./?.lua;" .. package.path

local DOCS = { "docs/dsl.md", "docs/formats.md", "docs/families.md" }
local UPDATE = os.getenv "UPDATE" == "1"
local function x86(class, lanes, vregs, serial)
  return { class = class, lanes = lanes, pack_lanes = lanes, pack_words = 1, vregs = vregs, serial = serial, team = 0 }
end
local TARGETS = {
  x86("x86-64-v4", 16, 32), x86("x86-64-v3", 8, 16), x86("x86-64", 4, 16),
  x86("x86-64", 4, 16, true), -- no lanes, no unrolling
  { class = "ptx", lanes = 32, pack_lanes = 8, pack_words = 4, vregs = 128, team = 256 },
}

local count, failed = 0, 0
local function ok(holds, name, detail)
  count = count + 1
  if not holds then failed = failed + 1 end
  print(("%sok %d - %s"):format(holds and "" or "not ", count, name))
  if not holds and detail then print("# " .. tostring(detail):gsub("\n", "\n# ")) end
end

local function skip(name, why)
  count = count + 1
  print(("# skip: %s\nok %d - %s # SKIP"):format(why, count, name))
end

local function read(path)
  local f = assert(io.open(path, "rb"))
  local s = f:read "a"
  f:close()
  return s
end

local function write(path, text)
  local f = assert(io.open(path, "wb"))
  f:write(text)
  f:close()
end

local function lines_of(command)
  local out = {}
  local p = assert(io.popen(command))
  for l in p:lines() do out[#out + 1] = l end
  p:close()
  return out
end

local SOURCES = lines_of "ls dsl/formats/*.lua models/*.lua"

-- The language as the host opens it: fresh modules, since a test may define what another must not see.
local function open(extra)
  for name in pairs(package.loaded) do if name:match "^dsl%." then package.loaded[name] = nil end end
  local main, list = require "dsl.main", { table.unpack(SOURCES) }
  for path in pairs(extra or {}) do list[#list + 1] = path end
  main.open(list, function(path) return extra and extra[path] or read(path) end)
  return main, require "dsl.language", require "dsl.formats"
end

-- Blocks of the documents ---------------------------------------------------------------------------------------------

-- name=value pairs: numbers are sizes and parameters, capital names are formats.
local function settings(text)
  local out = {}
  for k, v in text:gmatch "([%w_]+)=(%S+)" do out[k] = tonumber(v) or v end
  return out
end

-- A specification for a kernel, with guesses for what `given` leaves open.
local function spec_of(k, given)
  local spec = { kernel = k.name, sizes = {}, formats = {}, params = {} }
  for _, p in ipairs(k.sig.params) do
    if p.kind == "num" then spec.params[p.name] = given[p.name] or 1 end
    if p.kind == "format" then spec.params[p.name] = given[p.name] or p.name == "prod" and "f32" or "q8" end
    if p.kind:match "^%u" then spec.formats[p.kind] = given[p.kind] or (p.layout == "dense" and "q4_1" or "f16") end
    for _, d in ipairs(p.dims or {}) do
      if d.name and not d.run then spec.sizes[d.name] = given[d.name] or 256 end
    end
  end
  return spec
end

local function lower_all(main, spec)
  for _, target in ipairs(TARGETS) do
    local r = main.lower { spec = spec, target = target }
    assert(r.ir:match "^kgen%-ir 1\nfunc @", "no IR")
  end
end

local runners = {}

function runners.kernels(text, given)
  local main, language = open()
  local names = {}
  for name in text:gmatch '%f[%w]kernel "([%w_]+)"' do names[#names + 1] = name end
  for name in text:gmatch '%f[%w]fused "([%w_]+)"' do names[#names + 1] = name end
  for _, name in ipairs(names) do language.kernels[name] = nil end -- an example may be a kernel of kernels.lua
  main.load_kernels { name = "example.lua", text = text }
  for _, name in ipairs(names) do lower_all(main, spec_of(language.kernels[name], given)) end
end

function runners.format(text, _, name)
  local main = open { ["dsl/formats/" .. name .. ".lua"] = text }
  for _, lanes in ipairs { 4, 8, 16 } do main.pack { fmt = name, lanes = lanes, words = lanes == 8 and 4 or 1 } end
  for _, act in ipairs { "q8", "f32" } do
    lower_all(main, { kernel = "linear", sizes = { d = 512, n = 40 }, formats = { W = name }, params = { act = act } })
  end
  lower_all(main, { kernel = "embed", sizes = { d = 512, vocab = 40 }, formats = { W = name }, params = { scale = 1 } })
end

-- facts: "NAME FORMAT NE0 NE1; …; KEY = VALUE; …"
function runners.family(text, facts, name)
  local main = open { ["models/" .. name .. ".lua"] = text }
  local arg = { arch = name, act = "q8", kv = "f16", prod = "f32", tensors = {}, keys = {} }
  for fact in facts:gmatch "[^;]+" do
    local key, v = fact:match "^%s*([%w_.]+)%s*=%s*(%S+)%s*$"
    local tensor, fmt, ne = fact:match "^%s*([%w_.]+)%s+(%l[%w_]*)%s+([%d ]+)$"
    if key then
      arg.keys[key] = tonumber(v) or v
    elseif tensor then
      local t = { fmt = fmt, ne = {} }
      for n in ne:gmatch "%d+" do t.ne[#t.ne + 1] = math.tointeger(n) end
      arg.tensors[tensor] = t
    else
      error("the document's fact is not understood: " .. fact)
    end
  end
  for _, kernel in ipairs(main.plan(arg).kernels) do lower_all(main, kernel) end
end

local function run_block(text, marker)
  local kind, name, facts = marker:match "^(%a+)%s+([%w_]+):?%s*(.*)$"
  if kind == "format" then return runners.format(text, nil, name) end
  if kind == "family" then return runners.family(text, facts, name) end
  return runners.kernels(text, settings(marker))
end

local function kgen_has(command)
  for _, name in ipairs(lines_of "build/kgen help --names 2>/dev/null") do if name == command then return true end end
  return false
end

-- Runs a document's blocks; returns its text with the errors that came out.
local function run_document(path)
  local out, marker, last_error, block = {}, "", nil, nil
  local number = 0
  for line in (read(path) .. "\n"):gmatch "(.-)\n" do
    number = number + 1
    local comment = line:match "^<!%-%- (.-) %-%->$"
    local fence = line:match "^```(%a*)"
    if block and line == "```" then
      local text, name = table.concat(block.lines, "\n") .. "\n", ("%s:%d"):format(path, block.number)
      if block.kind == "lua" then
        local fine, err = pcall(run_block, text, block.marker)
        last_error = not fine and tostring(err) or nil
        block.name = name
        -- The verdict waits for the line after the block: ```error may follow.
        block.pending = true
        last_error = { text = last_error, name = name }
      elseif block.kind == "error" then
        local found = last_error and last_error.text or "no error"
        ok(UPDATE or text == found .. "\n", name .. " fails as told", "expected " .. text .. "found    " .. found)
        if UPDATE then
          for _ = 1, #block.lines do table.remove(out) end
          out[#out + 1] = found
        end
        last_error = nil
      elseif block.kind == "sh" and block.marker:match "^run " then
        local command = block.marker:match "^run (%S+)"
        if kgen_has(command) then
          local status = os.execute("set -e\n{\n" .. text .. "} >/dev/null")
          ok(status, name .. " runs")
        else
          skip(name .. " runs", "build/kgen has no command " .. command)
        end
      end
      block = nil
    elseif block then
      block.lines[#block.lines + 1] = line
    elseif fence and fence ~= "" then
      if fence ~= "error" and last_error then
        ok(not last_error.text, last_error.name .. " runs", last_error.text)
        last_error = nil
      end
      block = { kind = fence, lines = {}, number = number + 1, marker = marker }
      marker = ""
    elseif line ~= "" then
      if last_error then
        ok(not last_error.text, last_error.name .. " runs", last_error.text)
        last_error = nil
      end
      marker = comment or ""
    end
    out[#out + 1] = line
  end
  if last_error then ok(not last_error.text, last_error.name .. " runs", last_error.text) end
  ok(not block, path .. ": every block is closed")
  return table.concat(out, "\n")
end

-- Tables made from the source -----------------------------------------------------------------------------------------

local makers = {}

local function cell(s) return (s:gsub("|", "\\|")) end

-- The doc comments of dsl/language.lua, in its order: {name, parameters, text}.
local function verbs()
  local out, doc, params = {}, {}, {}
  for line in read "dsl/language.lua":gmatch "[^\n]*" do
    local tag, rest = line:match "^%-%-%-@(%a+)%s*(.*)"
    local text = line:match "^%-%-%-([^@].*)"
    local name = line:match "^function lang%.([%w_]+)" or line:match "^lang%.([%w_]+) ="
    if name then
      out[#out + 1] = { name = name, params = params, text = table.concat(doc, " ") }
      doc, params = {}, {}
    elseif tag == "param" then
      local p, kind = rest:match "^([%w_]+)%s+(.*)"
      params[#params + 1] = kind:match "%?$" and "[" .. p .. "]" or p
    elseif tag == "type" then
      local list = rest:match "^fun(%b())" or "()"
      for p in list:sub(2, -2):gsub("fun%b():?", ""):gmatch "([%w_]+):" do params[#params + 1] = p end
    elseif text then
      doc[#doc + 1] = text
    elseif not tag then
      doc, params = {}, {}
    end
  end
  return out
end

function makers.verbs()
  local out = { "| verb | value |", "|---|---|" }
  for _, v in ipairs(verbs()) do
    if v.name ~= "kernel" and v.name ~= "fused" then
      out[#out + 1] = ("| `%s(%s)` | %s |"):format(v.name, table.concat(v.params, ", "):gsub(", %[", " [, "), cell(v.text))
    end
  end
  return out
end

function makers.kernels()
  local main, language = open()
  local schedules = require "dsl.schedules"
  local map_name = {}
  for name, map in pairs(schedules) do map_name[map] = name end
  local out = { "| kernel | signature | map |", "|---|---|---|" }
  for _, k in ipairs(main.kernels()) do
    local def = language.kernels[k.name]
    out[#out + 1] = ("| `%s` | `%s` | %s |"):format(k.name, cell(k.sig:gsub("%s+", " ")),
      def.map and "`" .. (map_name[def.map] or "its own") .. "`" or "of its steps")
  end
  return out
end

local function words(list, mark)
  local out = {}
  for _, w in ipairs(list) do out[#out + 1] = mark and "`" .. w .. "`" or w end
  return table.concat(out, " ")
end

function makers.schedules()
  open()
  local schedules = require "dsl.schedules"
  local about, doc = {}, {}
  for line in read "dsl/schedules.lua":gmatch "[^\n]*" do
    local text, name = line:match "^%-%- (.*)", line:match "^S%.([%w_]+)"
    if text then doc[#doc + 1] = text elseif name then about[#about + 1] = { name, table.concat(doc, " ") } end
    if not text then doc = {} end
  end
  local out = { "| map | tasks | lanes | unrolled | |", "|---|---|---|---|---|" }
  for _, a in ipairs(about) do
    local s, unrolled = schedules[a[1]], {}
    for axis, u in pairs(s.unroll or {}) do unrolled[#unrolled + 1] = ("`%s`: %s"):format(axis, u) end
    table.sort(unrolled)
    out[#out + 1] = ("| `%s` | %s | %s | %s | %s |"):format(a[1], words(s.task, true), s.lane and "`" .. s.lane .. "`" or "",
      table.concat(unrolled, ", "), a[2] .. (s.rows_across and " Rows of packed weights lie across the lanes." or ""))
  end
  return out
end

-- Polynomials in a format's fields: lists of {c = number, f = {names}}.
local poly = {}
poly.__index = poly
local function lift(x) return type(x) == "number" and setmetatable({ { c = x, f = {} } }, poly) or x end
local function plus(a, b, sign)
  local out = setmetatable({}, poly)
  for _, m in ipairs(lift(a)) do out[#out + 1] = m end
  for _, m in ipairs(lift(b)) do out[#out + 1] = { c = sign * m.c, f = m.f } end
  return out
end
function poly.__add(a, b) return plus(a, b, 1) end
function poly.__sub(a, b) return plus(a, b, -1) end
function poly.__mul(a, b)
  local out = setmetatable({}, poly)
  for _, x in ipairs(lift(a)) do
    for _, y in ipairs(lift(b)) do
      local f = table.move(y.f, 1, #y.f, #x.f + 1, { table.unpack(x.f) })
      out[#out + 1] = { c = x.c * y.c, f = f }
    end
  end
  return out
end

local function polynomial(def)
  return lift(def.value(setmetatable({}, { __index = function(_, name)
    return setmetatable({ { c = 1, f = { name } } }, poly)
  end })))
end

local function product(m, rest)
  local parts = { table.unpack(m.f) }
  if math.abs(m.c) ~= 1 then table.insert(parts, 1, ("%g"):format(math.abs(m.c))) end
  parts[#parts + 1] = rest
  return table.concat(parts, "·")
end

local function joined(terms)
  local out = ""
  for n, t in ipairs(terms) do out = out .. (t.c < 0 and (n == 1 and "−" or " − ") or (n == 1 and "" or " + ")) .. t.text end
  return out
end

-- The dot with 8-bit activations over a run of g elements: terms {c, scales, code}, g, bias.
local function dot_form(def, layout)
  local g = def.block
  for _, f in pairs(def.fields) do if f.per > 1 then g = math.min(g, f.per) end end
  local terms = {}
  for _, m in ipairs(polynomial(def)) do
    local t = { c = m.c, f = {}, code = false }
    for _, name in ipairs(m.f) do
      if def.fields[name] == def.code then t.code = true else t.f[#t.f + 1] = name end
    end
    terms[#terms + 1] = t
  end
  return terms, math.min(g, layout.chunk, 32), layout.bias
end

local function by_ggml(formats)
  local list = { table.unpack(formats.list) }
  table.sort(list, function(a, b) return (formats.get(a).ggml or math.huge) < (formats.get(b).ggml or math.huge) end)
  return list
end

function makers.formats()
  local _, _, formats = open()
  local out = { "| format | ggml | elements | bytes | bits per weight | an element is | a code has |", "|---|---|---|---|---|---|---|" }
  for _, name in ipairs(by_ggml(formats)) do
    local f = formats.get(name)
    local terms = {}
    for _, m in ipairs(polynomial(f)) do terms[#terms + 1] = { c = m.c, text = product(m) } end
    local code = f.code.type or ("%d bits"):format(f.code.table and math.log(#f.code.table, 2) // 1 | 0 or f.code.width)
    if f.code.table then code = code .. " into a table" elseif f.code.bits and f.code.bias > 0 then
      code = ("%s, minus %d"):format(code, f.code.bias)
    end
    out[#out + 1] = ("| `%s` | %s | %d | %d | %g | %s | %s |"):format(name, f.ggml or "activations", f.block, f.bytes,
      f.bytes * 8 / f.block, joined(terms), code)
  end
  return out
end

makers["dot-forms"] = function()
  local _, _, formats = open()
  local out = { "| format | g | added for each run of g elements |", "|---|---|---|" }
  for _, name in ipairs(by_ggml(formats)) do
    local f = formats.get(name)
    if not formats.is_float(f) and not f.activation then
      local terms, g, bias = dot_form(f, formats.layout(f, 16, 1))
      for n, t in ipairs(terms) do
        local rest = not t.code and "S" or bias == 0 and "dx·Σ u·x" or ("dx·(Σ u·x − %d·I)"):format(bias)
        terms[n] = { c = t.c, text = product(t, rest) }
      end
      out[#out + 1] = ("| `%s` | %d | %s |"):format(name, g, joined(terms))
    end
  end
  return out
end

-- Element numbers 4g … 4g+3 of the groups, as text.
local function elements(groups)
  local out = {}
  for slot = 0, 7 do
    local g = groups[slot]
    if g then out[#out + 1] = ("%d…%d"):format(4 * g, 4 * g + 3) end
  end
  return table.concat(out, ", ")
end

makers["fold-sizes"] = function()
  open()
  local access = require "dsl.access"
  return { ("A page has %d keys, a tile %d."):format(access.PAGE, access.TILE) }
end

local function drawing(name, lanes)
  local _, _, formats = open()
  local def = formats.get(name)
  local L = formats.layout(def, lanes, 1)
  local out = { "```text", ("%s, one block of %d elements of each of %d rows: %d bytes"):format(name, def.block, lanes,
    L.block_bytes), "offset bytes" }
  local function row(at, bytes, text) out[#out + 1] = ("%6d %5d  %s"):format(at, bytes, text) end
  local heads = {}
  for fname, at in pairs(L.head) do heads[#heads + 1] = { at, fname } end
  table.sort(heads, function(a, b) return a[1] < b[1] end)
  for _, h in ipairs(heads) do
    row(h[1], lanes * math.max(1, def.fields[h[2]].width // 8), ("%s of each row"):format(h[2]))
  end
  local chunks = def.block // L.chunk
  if chunks > 1 then
    out[#out + 1] = ("from %d on, %d chunks of %d elements, %d bytes each:"):format(L.head_bytes, chunks, L.chunk, L.chunk_bytes)
  end
  for _, fname in ipairs(def.order) do
    if L.fine[fname] then
      local f, n = def.fields[fname], math.max(1, L.chunk // def.fields[fname].per)
      row(L.fine[fname], lanes * f.store_bytes * n,
        n == 1 and ("%s of each row"):format(fname) or ("%s of each row, %d of them one after the other"):format(fname, n))
    end
  end
  local code_words = {}
  for _, p in ipairs(L.planes) do
    local bits = p.width == 8 and "codes" or ("bits %d…%d of the codes"):format(p.shift, p.shift + p.width - 1)
    for _, word in ipairs(p.words) do
      code_words[#code_words + 1] = { word.at,
        ("a word of each row: %s of elements %s"):format(bits, elements(word.groups)) }
    end
  end
  table.sort(code_words, function(a, b) return a[1] < b[1] end)
  for n, w in ipairs(code_words) do
    if n <= 6 or n >= #code_words - 1 then row(w[1], 4 * lanes, w[2]) elseif n == 7 then out[#out + 1] = "        …" end
  end
  out[#out + 1] = "```"
  return out
end
makers["layout-q4_1"] = function() return drawing("q4_1", 16) end
makers["layout-q6_k"] = function() return drawing("q6_k", 16) end

-- The traced expressions of one of the kernels, as `kgen emit --stage dsl` prints them.
local function shown(name, given)
  local main, language = open()
  return { "```text", (main.show { spec = spec_of(language.kernels[name], given) }:gsub("\n$", "")), "```" }
end
makers["shown-linear"] = function() return shown("linear", { d = 576, n = 1536 }) end
makers["shown-swiglu_ffn"] = function() return shown("swiglu_ffn", { d = 576, ff = 1536, eps = 1e-5 }) end

-- Functions of a module with the comment above each: pattern captures name and parameters.
local function described(path, pattern, wanted)
  local out, doc = {}, {}
  for line in read(path):gmatch "[^\n]*" do
    local text = line:match "^%-%- ?(.*)"
    local name, params = line:match(pattern)
    if name and wanted(name) then out[#out + 1] = ("| `%s(%s)` | %s |"):format(name, params, cell(table.concat(doc, " "))) end
    if text then doc[#doc + 1] = text else doc = {} end
  end
  return out
end

function makers.builder()
  local out = { "| call | |", "|---|---|" }
  for _, l in ipairs(described("dsl/graph.lua", "^function (B:[%w_]+)%((.-)%)", function() return true end)) do
    out[#out + 1] = l:gsub("`B:", "`b:")
  end
  return out
end

function makers.families()
  local out = { "| `general.architecture` | file |", "|---|---|" }
  for _, path in ipairs(SOURCES) do
    local name = path:match "^models/([%w_]+)%.lua"
    if name then
      local doc = {}
      for line in read(path):gmatch "[^\n]*" do
        local text = line:match "^%-%- (.*)"
        if not text then break end
        doc[#doc + 1] = text
      end
      out[#out + 1] = ("| `%s` | %s |"):format(name, cell(table.concat(doc, " ")))
    end
  end
  return out
end

local function check_sections(path, text)
  local used = {}
  text = text:gsub("(<!%-%- made: ([%w_-]+) %-%->\n)(.-)(<!%-%- end %-%->)", function(head, name, body, tail)
    local fine, made = pcall(makers[name] or function() error("no maker of this name") end)
    if not fine then
      ok(false, ("%s: section %s"):format(path, name), made)
      return nil
    end
    used[name] = true
    made = table.concat(made, "\n") .. "\n"
    ok(UPDATE or made == body, ("%s: section %s is what the source says"):format(path, name),
      "UPDATE=1 lua5.4 verify/test_docs.lua rewrites it")
    return head .. made .. tail
  end)
  return text, used
end

local all_used = {}
for _, path in ipairs(DOCS) do
  local text, used = check_sections(path, run_document(path))
  for name in pairs(used) do all_used[name] = true end
  if UPDATE then write(path, (text:gsub("\n+$", "\n"))) end
end
for name in pairs(makers) do ok(all_used[name], "the documents show the table " .. name) end

do -- every verb is described, and only verbs are
  local _, language = open()
  local seen = {}
  for _, v in ipairs(verbs()) do
    seen[v.name] = true
    ok(language.lang[v.name] and #v.params > 0, "verb " .. v.name .. " exists and has parameters")
  end
  for name in pairs(language.lang) do ok(seen[name], "verb " .. name .. " is annotated") end
end

-- The algebra of docs/formats.md in numbers -------------------------------------------------------------------------------

do
  local main, _, formats = open()
  math.randomseed(1)
  for _, name in ipairs(formats.list) do
    local def = formats.get(name)
    if not formats.is_float(def) and not def.activation then
      local terms, g, bias = dot_form(def, formats.layout(def, 16, 1))
      local n_codes = 1 << (def.code.table and 8 or def.code.width)
      local dx, want, got, size = 0.37, 0, 0, 0
      for _ = 1, 8 do -- runs
        local fields, int, dot = {}, 0, 0
        for fname in pairs(def.fields) do fields[fname] = math.random() - 0.5 end
        for _ = 1, g do
          local u, x = math.random(0, n_codes - 1), math.random(-127, 127)
          fields[def.code.name] = u - bias
          local v = def.value(fields) * dx * x
          want, size, int, dot = want + v, size + math.abs(v), int + x, dot + u * x
        end
        for _, t in ipairs(terms) do
          local s = t.c
          for _, fname in ipairs(t.f) do s = s * fields[fname] end
          got = got + s * dx * (t.code and dot - bias * int or int)
        end
      end
      ok(math.abs(want - got) <= 1e-12 * size, name .. ": the integer-dot form equals the sum of decoded products",
        ("%g and %g"):format(want, got))
      local r = main.lower { spec = { kernel = "linear", sizes = { d = 256, n = 16 }, formats = { W = name },
        params = { act = "q8" } }, target = TARGETS[1] }
      ok(r.ir:find(("umax=%d\n"):format((1 << (def.code.table and 8 or def.code.width)) - 1), 1, true),
        name .. ": the product is lowered to dot4 on its unsigned codes")
    end
  end
end

-- Limits --------------------------------------------------------------------------------------------------------------

local function code_lines(text)
  local out = {}
  for line in text:gmatch "[^\n]*" do
    if line:match "%S" and not line:match "^%s*%-%-" then out[#out + 1] = line end
  end
  return out
end

-- The bodies in a kernel file: lists of {name, code lines between `body = function` and its end}.
local function bodies(text)
  local out, name, open_body = {}, nil, nil
  for _, line in ipairs(code_lines(text)) do
    name = line:match '^kernel "([%w_]+)"' or name
    local indent = line:match "^(%s*)body = function"
    if indent then
      open_body = { name = name, indent = indent }
      out[#out + 1] = open_body
    elseif open_body and line:match("^" .. open_body.indent .. "end,?") then
      open_body = nil
    elseif open_body then
      open_body[#open_body + 1] = line
    end
  end
  return out
end

do
  local text = read "kernels.lua"
  local n = #code_lines(text)
  ok(n < 600, "kernels.lua has fewer than 600 code lines", n .. " lines")
  local _, n_kernels = text:gsub('\nkernel "', "")
  local list = bodies(text)
  ok(#list == n_kernels, "every kernel's body is found", ("%d of %d"):format(#list, n_kernels))
  for _, b in ipairs(list) do
    ok(#b <= 25, ("kernels.lua: the body of %s has at most 25 lines"):format(b.name), #b .. " lines")
    local named
    for _, word in ipairs { "x86", "avx", "amx", "sse", "vnni", "neon", "ptx", "sm_", "cuda", "lanes", "thread", "warp" } do
      if table.concat(b, "\n"):lower():find(word, 1, true) then named = word end
    end
    ok(not named, ("kernels.lua: the body of %s names no target"):format(b.name), named)
  end
  for _, path in ipairs(SOURCES) do
    local limit = path:match "^models/" and 120 or 60
    local lines = #code_lines(read(path))
    ok(lines < limit, ("%s has fewer than %d code lines"):format(path, limit), lines .. " lines")
  end
  for _, path in ipairs { "kernels.lua", "dsl/schedules.lua", "dsl/blocks.lua", table.unpack(SOURCES) } do
    local long, number = nil, 0
    for line in read(path):gmatch "([^\n]*)\n" do
      number = number + 1
      if (utf8.len(line) or #line) > 120 then long = number end
    end
    ok(not long, path .. ": no line is longer than 120 characters", long and ("line %d"):format(long))
  end
end

if os.execute "command -v luacheck >/dev/null 2>&1" then
  local report = lines_of "luacheck . --no-color -q 2>&1"
  ok(report[#report] and report[#report]:match "^Total: 0 warnings / 0 errors", "luacheck finds nothing",
    table.concat(report, "\n"))
else
  skip("luacheck finds nothing", "luacheck is not installed")
end

print("1.." .. count)
os.exit(failed == 0)
