-- Shapes: what a kernel is instantiated with and what one launch of it costs. A shape is a flat table of a kernel's
-- sizes, formats and parameters; kernels.lua lists some in each kernel's `bench`, users write more as "k=v,k=v".

local access = require "dsl.access"
local schedules = require "dsl.schedules"
local tile = require "dsl.tile"
local formats = require "dsl.formats"
local language = require "dsl.language"

local M = {}

-- What a kernel's shape may say: name -> "size" | "run" | "format" | "num".
local function slots(k)
  local out, order = {}, {}
  local function add(name, kind)
    if not out[name] then order[#order + 1] = name end
    out[name] = out[name] or kind
  end
  for _, p in ipairs(k.sig.params) do
    if p.kind:match("^%u") then add(p.kind, "format") end
    if p.kind == "format" then add(p.name, "format") end
    if p.kind == "num" then add(p.name, "num") end
    if p.kind == "dim" then add(p.name, "run") end
    for _, d in ipairs(p.dims or {}) do
      if d.name and not d.size and not d.run then add(d.name, "size") end
      if d.run then add(d.name == "tok" and "tok" or "pos", "run") end -- keys, pages and positions count from it
    end
  end
  table.sort(order)
  return out, order
end

local function kernel_of(name)
  local k = language.kernels[name]
  if not k then
    error(("no kernel '%s'; there are: %s"):format(name, table.concat(language.kernel_order, " ")), 0)
  end
  return k
end

-- {kernel, shape = "k=v,…" or nil, nth = which benchmark shape fills the rest in, format = for every weight or cache}
-- -> { spec = for lower, run = {tok, pos, key, ctx, npages}, label }
function M.make(arg)
  local k = kernel_of(arg.kernel)
  local slot, order = slots(k)
  local shape = {}
  local row = k.bench and k.bench[arg.nth or 1]
  for name, v in pairs(row or {}) do shape[name] = v end
  for item in (arg.shape or ""):gmatch("[^,]+") do
    local name, v = item:match("^%s*([%w_]+)%s*=%s*([%w_.+-]+)%s*$")
    if not name then error(("--shape: expected k=v, found '%s'"):format(item), 0) end
    if not slot[name] then
      error(("--shape %s: kernel '%s' has no '%s'; it has: %s"):format(item, k.name, name, table.concat(order, " ")), 0)
    end
    shape[name] = v
  end
  local spec = { kernel = k.name, formats = {}, sizes = {}, params = {} }
  local run = { tok = 1, pos = 0 }
  local label = {}
  for _, name in ipairs(order) do
    local v, kind = shape[name], slot[name]
    if kind == "format" and name:match("^%u") and arg.format then v = arg.format end
    if v == nil and kind ~= "run" then
      error(("kernel '%s': no %s given; try --shape %s=…"):format(k.name, name, name), 0)
    end
    if kind == "size" or kind == "run" then
      local n = math.tointeger(tonumber(v or run[name] or 1))
      local least = name == "pos" and 0 or 1
      if not n or n < least or n > 1 << 24 then
        error(("--shape %s=%s: expected a whole number %d … %d"):format(name, tostring(v), least, 1 << 24), 0)
      end
      v = n
      if kind == "size" then spec.sizes[name] = n else run[name] = n end
    elseif kind == "num" then
      local n = tonumber(v)
      if not n or n ~= n then error(("--shape %s=%s: expected a number"):format(name, tostring(v)), 0) end
      spec.params[name] = n
    else
      formats.get(v, function(msg) error(("--shape %s=%s: %s"):format(name, v, msg), 0) end)
      if name:match("^%u") then spec.formats[name] = v else spec.params[name] = v end
    end
    label[#label + 1] = ("%s=%s"):format(name, tostring(v))
  end
  -- What is compiled for one token: all that a GPU runs for one, and what splits an axis for one.
  if run.tok == 1 and (arg.team or language.splits(k)) then spec.sizes.tok = 1 end
  spec.upto = arg.team and run.tok > 1 and tile.shape(schedules.contract.matrix, run.tok).upto or nil
  run.key, run.ctx = run.pos + run.tok, run.pos + run.tok
  run.npages = (run.key + access.PAGE - 1) // access.PAGE
  return { spec = spec, run = run, label = table.concat(label, ",") }
end

-- How often each float operation runs: once for each value of the variables it depends on.
local arithmetic = { fadd = 1, fsub = 1, fmul = 1, fdiv = 1, fma = 2, fmax = 1, fmin = 1, fneg = 1, fsqrt = 1, fabs = 1,
                     exp = 1, tanh = 1, frint = 1 }

local function evaluate(n, run)
  if n.op == "lin" then
    local x = n.const
    for i, a in ipairs(n.args) do x = x + n.coefs[i] * evaluate(a, run) end
    return x
  elseif n.op == "dim" then return run[n.imm]
  elseif n.op == "var" then return ((n.count or run[n.axis] or 1) - 1) / 2 -- on average
  elseif n.op == "bounded" then return evaluate(n.args[1], run)
  elseif n.op == "idiv" then return evaluate(n.args[1], run) // evaluate(n.args[2], run)
  elseif n.op == "imax" then return math.max(evaluate(n.args[1], run), evaluate(n.args[2], run))
  elseif n.op == "imin" then return math.min(evaluate(n.args[1], run), evaluate(n.args[2], run))
  elseif n.op == "select" then return evaluate(n.args[3], run)
  end
  return 0
end

-- { ops, gathered = {array = rows read where an index is itself loaded} }
local function count(trace, run)
  local ops, extent, gathered, seen = 0, {}, {}, {}
  local function times(deps)
    local x = 1
    for var in pairs(deps) do x = x * (extent[var] or var.count or 1) end
    return x
  end
  local function loads(n)
    if n.op == "load" then return true end
    for _, a in ipairs(n.args) do if loads(a) then return true end end
    return false
  end
  local function visit(n)
    if seen[n] then return end
    seen[n] = true
    if n.binds then
      local from = n.op == "fold" and evaluate(n.args[3], run) or 0
      extent[n.binds] = math.max(0, evaluate(n.args[1], run) - from)
    end
    for _, a in ipairs(n.args) do visit(a) end
    if n.op == "load" then
      for _, a in ipairs(n.args) do
        if loads(a) then gathered[n.array.name] = times(a.deps) end
      end
    elseif n.op == "reduce" then
      ops = ops + times(n.args[2].deps) * (n.args[2].deps[n.binds] and 1 or extent[n.binds])
    elseif n.op == "fold" then -- each element is scaled and added, field by field
      for i = 1, #n.fields do
        local x = n.args[#n.args - #n.fields + i]
        local width = x.op == "vec" and evaluate(x.args[1], run) or 1
        ops = ops + 2 * width * times(n.deps) * extent[n.binds]
      end
    elseif n.ty == "f32" and arithmetic[n.op] then
      ops = ops + arithmetic[n.op] * times(n.deps)
    end
  end
  for _, st in ipairs(trace.stores) do
    for _, var in ipairs(st.axes) do extent[var] = evaluate(var.len, run) end
    for _, e in ipairs(st.idx) do visit(e) end
    visit(st.value)
  end
  return ops, gathered
end

-- The arrays of one launch and its cost: {kernel, trace, run, lanes} ->
-- { arrays = {{name, role, io, fmt, rows, n, bytes}, …}, ops, bytes }. role: weight (packed), cache, ids, pages or values.
function M.case(k, trace, run, lanes, words)
  local ops, gathered = count(trace, run)
  local arrays, total, least = {}, 0, math.maxinteger
  for _, p in ipairs(k.sig.params) do
    local g = trace.given[p.name]
    if p.dims then
      local n, sizes = 1, {}
      for d, dim in ipairs(g.dims) do
        sizes[d] = dim.size or run[dim.name]
        n = n * sizes[d]
      end
      local a = { name = p.name, io = p.io, fmt = g.fmt, rows = sizes[1], n = sizes[#sizes], role = "values", bytes = n * 4 }
      local touched = a.bytes
      if p.layout ~= "dense" then
        a.role, a.bytes = "cache", access.page_bytes(g) * run.npages
        touched = a.bytes / (run.npages * access.PAGE) * (p.io == "out" and run.tok or run.key)
      elseif p.kind:match("^%u") then
        a.role, a.bytes = "weight", formats.packed_bytes(g.def, lanes, words, a.rows, a.n)
        least = math.min(least, a.rows)
        touched = a.bytes
        if gathered[p.name] then touched = a.bytes / a.rows * gathered[p.name] end
      elseif p.name == "pages" then a.role = "pages"
      elseif p.kind == "i32" and p.io == "in" then a.role = "ids"
      end
      arrays[#arrays + 1] = a
      total = total + touched
    end
  end
  return { arrays = arrays, ops = math.floor(ops), bytes = math.floor(total), n_ids = least == math.maxinteger and 1 or least }
end

-- The formats a kernel's weights or cache may have, for `emit --all`; {} where it has neither.
function M.formats_of(k)
  local weight, cache = false, false
  for _, p in ipairs(k.sig.params) do
    if p.kind:match("^%u") then
      if p.layout == "dense" then weight = true else cache = true end
    end
  end
  if cache then return { "f16", "f32" } end
  local out = {}
  if weight then
    for _, name in ipairs(formats.list) do if not formats.get(name).activation then out[#out + 1] = name end end
    table.sort(out)
  end
  return out
end

return M
