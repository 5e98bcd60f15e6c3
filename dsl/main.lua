-- The closed Lua state's entry points: what dsl/host.c can call, each taking and returning plain data.
--
-- Environment of user files (kernels.lua, models/*.lua): the language and a few pure functions; no os, io, load, require.

local formats = require "dsl.formats"
local language = require "dsl.language"
local schedules = require "dsl.schedules"
local lower = require "dsl.lower"
local pack = require "dsl.pack"
local graph = require "dsl.graph"
local blocks = require "dsl.blocks"
local chat = require "dsl.chat"
local shapes = require "dsl.shapes"
local show = require "dsl.show"
local tunables = require "dsl.tunables"

local M = {}

local function copy(t)
  local c = {}
  for k, v in pairs(t) do c[k] = v end
  return c
end

-- Libraries are copied, so that a file cannot change them for the others.
local function environment(extra)
  local env = { math = copy(math), string = copy(string), table = copy(table), ipairs = ipairs, pairs = pairs,
                tostring = tostring, tonumber = tonumber, type = type, error = error, assert = assert, select = select }
  for k, v in pairs(extra) do env[k] = v end
  return env
end

-- load_source(path) -> text: given by the host (the embedded file, or the user's copy of it).
function M.open(list, load_source)
  for _, path in ipairs(list) do
    local fmt = path:match("^dsl/formats/([%w_]+)%.lua$")
    if fmt then
      local chunk = assert(load(load_source(path), "@" .. path, "t", environment {}))
      formats.define(fmt, chunk())
    end
  end
  local lang = { schedules = schedules }
  for k, v in pairs(language.lang) do lang[k] = v end
  assert(load(load_source("kernels.lua"), "@kernels.lua", "t", environment(lang)))()
  for _, path in ipairs(list) do
    local family = path:match("^models/([%w_]+)%.lua$")
    if family then
      local chunk = assert(load(load_source(path), "@" .. path, "t", environment { blocks = blocks }))
      graph.define(family, chunk())
    end
  end
end

-- More kernels from a text of the user's, for `kgen emit -f` and the must-fail programs: {name, text}.
function M.load_kernels(arg)
  local lang = { schedules = schedules }
  for k, v in pairs(language.lang) do lang[k] = v end
  local chunk, err = load(arg.text, "@user:" .. arg.name, "t", environment(lang))
  if not chunk then error(err, 0) end
  chunk()
  return {}
end

function M.formats()
  local out = {}
  for _, name in ipairs(formats.list) do
    local f = formats.get(name)
    out[#out + 1] = { name = name, ggml = f.ggml or -1, block = f.block, bytes = f.bytes, activation = f.activation or false }
  end
  return out
end

function M.kernels()
  local out = {}
  for _, name in ipairs(language.kernel_order) do
    local k = language.kernels[name]
    local params = {}
    for n, p in ipairs(k.sig.params) do
      local dims
      if p.dims then
        dims = {}
        for j, d in ipairs(p.dims) do dims[j] = { name = d.name, size = d.size, run = d.run or false } end
      end
      params[n] = { name = p.name, kind = p.kind, io = p.io, layout = p.layout, dims = dims }
    end
    out[#out + 1] = { name = name, sig = k.sig.text, params = params, fused = k.steps ~= nil, n_bench = #(k.bench or {}),
                      formats = shapes.formats_of(k) }
  end
  return out
end

-- {kernel, shape = "k=v,…", nth, format} -> {spec, run, label}: see dsl/shapes.lua
function M.shape(arg) return shapes.make(arg) end

-- {spec, run, lanes, words} -> {arrays, ops, bytes, n_ids}: one launch of it
function M.case(arg)
  local k, trace = lower.trace(graph.resolve(arg.spec))
  return shapes.case(k, trace, arg.run, arg.lanes, arg.words)
end

-- {spec} -> the traced expressions as text
function M.show(arg) return show.kernel(lower.trace(graph.resolve(arg.spec))) end

-- name -> positions of the arguments that a function of the flat IR reads and no launch writes
local function constants_of(ir)
  local of = {}
  for name, body in ir:gmatch("func @(%S+)\n(.-)\nend\n") do
    for k in body:gmatch(":ptr = arg (%d+) inv") do
      of[name] = of[name] or {}
      table.insert(of[name], tonumber(k))
    end
  end
  return of
end

-- {spec = {kernel | steps, formats, sizes, params, tune}, target = {class, lanes, serial}}
function M.lower(arg)
  local r = lower.kernel(graph.resolve(arg.spec), arg.target, { node_limit = arg.node_limit })
  local phases, constants = {}, constants_of(r.ir)
  for p, parts in ipairs(r.phases) do
    phases[p] = {}
    for k, part in ipairs(parts) do
      phases[p][k] = { fn = part.fn, times = part.tasks.times, per = part.tasks.per or 0, dim = part.tasks.dim or "",
                       uneven = part.tasks.uneven or false, team = part.team or false, constants = constants[part.fn] }
    end
  end
  return { name = r.name, ir = r.ir, phases = phases, args = r.args, dims = r.dims, ws = r.ws, ws_page = r.ws_page }
end

-- {spec, target, runs = {sizes, …}, dots} -> what `kgen tune` tries, the default first, each with the slots of its runs:
-- see dsl/tunables.lua
function M.candidates(arg)
  local spec = graph.resolve(arg.spec)
  return tunables.candidates(function(tune)
    if next_job then next_job() end -- up to fifty kernels, each with a kernel's budget of steps; the host's, absent in plain Lua
    spec.tune = tune
    return lower.kernel(spec, arg.target)
  end, arg)
end

-- {fmt, lanes, words}
function M.pack(arg) return pack.kernel(arg.fmt, arg.lanes, arg.words) end

-- {fmt, lanes, words, rows, n} -> bytes of a tile, bytes in all
function M.packed_size(arg)
  local def = formats.get(arg.fmt)
  return { tile = formats.tile_bytes(def, arg.lanes, arg.words, arg.n),
           bytes = formats.packed_bytes(def, arg.lanes, arg.words, arg.rows, arg.n) }
end

-- {arch, keys, tensors = {name -> {fmt, ne}}, act, kv} -> plan (docs/architecture.md)
function M.plan(arg) return graph.plan(arg) end

-- A conversation as text: see dsl/chat.lua
function M.chat(arg) return chat.chat(arg) end

return M
