-- A model's layer graph, its fusion into launches, and the memory plan: plain data in, plain data out.
--
-- A family (models/NAME.lua) builds the graph with single kernels of kernels.lua. The fuser then grows launches: a node
-- joins the launch before it where that saves a pass over memory (its input is inlined into it, or it shares an input),
-- and where the result can be traced; otherwise it starts a launch of its own. Nothing is known about particular kernels.

local language = require "dsl.language"
local schedules = require "dsl.schedules"
local tile = require "dsl.tile"

local M = { families = {} }

function M.define(name, family)
  if type(family) ~= "table" or type(family.graph) ~= "function" then
    error(("models/%s.lua must return { graph = function … }"):format(name), 0)
  end
  M.families[name] = family
end

-- Building ----------------------------------------------------------------------------------------------------------

local B = {}
B.__index = B

-- The metadata key ARCHITECTURE.name, else the key `name`, else the default; without one, an error.
function B:key(name, default)
  local v = self.keys[self.arch .. "." .. name]
  if v == nil then v = self.keys[name] end
  if v == nil then v = default end
  if v == nil then error(("the model has no key '%s.%s'"):format(self.arch, name), 0) end
  return v
end

-- Has the file this tensor?
function B:has(name) return self.tensors_in[name] ~= nil end
-- Has the file this key?
function B:has_key(name) return self.keys[self.arch .. "." .. name] ~= nil end

-- Rows of a matrix in the file.
function B:rows(name)
  local info = self.tensors_in[name]
  if not info or #info.ne ~= 2 then error(("tensor '%s' is missing or not a matrix"):format(name), 0) end
  return info.ne[2]
end

local function tensor(self, t)
  self.n_tensors = self.n_tensors + 1
  t.id = self.n_tensors
  self.tensors[t.id] = t
  return t
end

-- A weight of the file; its dims in the language's order (rows first). opts.halves = size of a head: the rows of each
-- head are reordered from interleaved pairs to split halves.
function B:weight(name, dims, opts)
  opts = opts or {}
  local info = self.tensors_in[name]
  if not info then error(("tensor '%s' is missing"):format(name), 0) end
  local want = {}
  for k = #dims, 1, -1 do want[#want + 1] = dims[k] end
  for k = 1, math.max(#want, #info.ne) do
    if (want[k] or 1) ~= (info.ne[k] or 1) then
      error(("tensor '%s' is [%s], expected [%s]"):format(name, table.concat(info.ne, ", "), table.concat(want, ", ")), 0)
    end
  end
  self.used[name] = true
  local key = name .. "|" .. (opts.halves or "")
  if self.weights[key] then return self.weights[key] end
  local packed = #dims == 2
  if not packed and info.fmt ~= "f32" then
    error(("tensor '%s' is %s; a vector must be f32"):format(name, info.fmt), 0)
  end
  local t = tensor(self, { kind = "weight", name = name, fmt = info.fmt, dims = dims, packed = packed, halves = opts.halves })
  self.weights[key] = t
  return t
end

-- A table over positions, computed when the model is loaded: "rope_cos" or "rope_sin" of what blocks.rotary returns.
function B:table(kind, params)
  local key = kind
  local names = {}
  for k in pairs(params) do names[#names + 1] = k end
  table.sort(names)
  for _, k in ipairs(names) do key = key .. "|" .. k .. "=" .. tostring(params[k]) end
  if not self.tables[key] then
    self.tables[key] = tensor(self, { kind = "table", table = kind, params = params, fmt = "f32", dims = { 0, params.dim } })
  end
  return self.tables[key]
end

-- A layer's key or value cache.
function B:cache(name, nkv, hd) return tensor(self, { kind = "cache", name = name, fmt = self.kv, dims = { nkv, 0, hd } }) end

-- The same values seen with other axes after the token axis.
function B:view(t, dims)
  local full = { 0 }
  for _, d in ipairs(dims) do full[#full + 1] = d end
  return { view_of = t.view_of or t, dims = full, id = (t.view_of or t).id, fmt = t.fmt, kind = t.kind }
end

-- Appends a kernel. Inputs by parameter name; returns the outputs in the signature's order. Outputs that are caches are
-- passed in as well.
function B:call(name, args)
  local k = language.kernels[name]
  if not k then error(("the graph calls unknown kernel '%s'"):format(name), 0) end
  local node = { kernel = name, args = {}, params = {}, head = self.in_head }
  local sizes, outs = {}, {}
  for _, p in ipairs(k.sig.params) do
    local v = args[p.name]
    if p.dims then
      if v then
        for d, ax in ipairs(p.dims) do
          if ax.name and not ax.run then
            local have = v.dims[d]
            if sizes[ax.name] and sizes[ax.name] ~= have then
              error(("%s: '%s' has %s along '%s', expected %s"):format(name, p.name, tostring(have), ax.name,
                tostring(sizes[ax.name])), 0)
            end
            sizes[ax.name] = have
          end
        end
      elseif p.io == "in" then
        error(("%s: input '%s' is missing"):format(name, p.name), 0)
      end
      node.args[p.name] = v
    elseif p.kind == "dim" then
      node.dims = true
    elseif v ~= nil then
      node.params[p.name] = v
    elseif p.kind == "format" then
      node.params[p.name] = self.formats[p.name] or error(("%s: parameter '%s' is missing"):format(name, p.name), 0)
    else
      error(("%s: parameter '%s' is missing"):format(name, p.name), 0)
    end
  end
  for _, p in ipairs(k.sig.params) do
    if p.io == "out" then
      local t = args[p.name]
      if not t then
        local dims = {}
        for d, ax in ipairs(p.dims) do dims[d] = ax.run and 0 or ax.size or sizes[ax.name] end
        t = tensor(self, { kind = "act", fmt = p.kind, dims = dims })
        node.args[p.name] = t
      end
      outs[#outs + 1] = t
    end
  end
  self.nodes[#self.nodes + 1] = node
  return table.unpack(outs)
end

-- From here on only the tokens whose logits are wanted are computed.
function B:head() self.in_head = true end

-- Fusion ------------------------------------------------------------------------------------------------------------

local function width_of(t)
  local n = 1
  for d = 2, #t.dims do n = n * t.dims[d] end
  return n
end

-- A run of nodes as the definition of a fused kernel: parameters named by role, tensors by order of appearance.
-- Returns def, formats, sizes, binding (parameter -> tensor) and a key equal for runs of the same structure.
local function composed(run, escapes, lone)
  local names, params, steps, binding = {}, {}, {}, {}
  local unwritten = {} -- parameters that no launch writes
  local formats, sizes, scalars = {}, {}, {}
  local n_fmt, key = 0, {}
  local produced = {}
  for _, node in ipairs(run) do
    local k = language.kernels[node.kernel]
    for _, p in ipairs(k.sig.params) do
      if p.dims and p.io == "out" then produced[node.args[p.name].id] = true end
    end
  end
  local function param(p, t, io)
    local id = t.id .. ":" .. table.concat(t.dims, ",")
    if names[id] then return names[id] end
    local name = "t" .. #binding + 1
    names[id] = name
    binding[#binding + 1] = t
    local fmt = p.kind
    if p.kind:match("^%u") then
      n_fmt = n_fmt + 1
      fmt = "F" .. n_fmt
      formats[fmt] = t.fmt
    end
    local dims = {}
    for d, ax in ipairs(p.dims) do
      if ax.run then dims[d] = ax.name .. "?" else dims[d] = tostring(t.dims[d]) end
    end
    params[#params + 1] = { text = ("%s: %s%s[%s]"):format(name, fmt, p.layout ~= "dense" and "@" .. p.layout or "",
      table.concat(dims, ",")), io = io }
    local constant = t.kind == "weight" or t.kind == "table" or t.kind == "input"
    if constant then unwritten[#unwritten + 1] = name end
    key[#key + 1] = params[#params].text .. "=" .. t.fmt .. (io or "") .. (constant and " unwritten" or "")
    return name
  end
  local internal, shown = 0, {} -- shown: tensor -> the name of what this run writes it to
  local needs_pos, needs_pages = false, false
  for _, node in ipairs(run) do
    local k = language.kernels[node.kernel]
    local step = {}
    local line = { node.kernel }
    for _, p in ipairs(k.sig.params) do
      local t = node.args[p.name]
      if p.name == "pages" then
        step.pages = "pages"
        needs_pages = true
      elseif p.dims then
        local id = t.id .. ":" .. table.concat(t.dims, ",")
        if p.io == "in" then
          if produced[t.id] and t.kind == "cache" then return nil end -- just written
          if produced[t.id] and not names[id] then -- seen under another shape
            step[p.name] = { view = shown[t.id], dims = table.move(t.dims, 2, #t.dims, 1, {}) }
          else
            step[p.name] = names[id] or param(p, t, "in")
          end
        elseif t.kind == "cache" or escapes[t.id] then
          step[p.name] = param(p, t, "out")
        else
          internal = internal + 1
          names[id] = "i" .. internal
          step[p.name] = names[id]
        end
        if p.io == "out" then shown[t.id] = step[p.name] end
        local ref = step[p.name]
        line[#line + 1] = p.name .. "=" .. (type(ref) == "table" and ref.view .. ":" .. table.concat(ref.dims, ",") or ref)
      elseif p.kind == "dim" then
        step[p.name] = p.name
        needs_pos = true
      else
        local v = node.params[p.name]
        if type(v) == "table" then v = lone and v.lone or v.many end
        step[p.name] = v
        line[#line + 1] = p.name .. "=" .. tostring(v)
      end
    end
    steps[#steps + 1] = { kernel = node.kernel, args = step }
    key[#key + 1] = table.concat(line, " ")
  end
  local ins, outs = {}, {}
  for _, p in ipairs(params) do table.insert(p.io == "in" and ins or outs, p.text) end
  if needs_pages then
    ins[#ins + 1] = "pages: i32[npages?]"
    unwritten[#unwritten + 1] = "pages"
  end
  if needs_pos then ins[#ins + 1] = "pos: dim" end
  local sig = table.concat(ins, ", ") .. " -> " .. table.concat(outs, ", ")
  local label, last, count, splits = {}, nil, 0, nil
  local function flush() if last then label[#label + 1] = count > 1 and last .. "x" .. count or last end end
  for _, node in ipairs(run) do
    splits = splits or language.splits(language.kernels[node.kernel]) or nil
    if node.kernel == last then count = count + 1 else flush() last, count = node.kernel, 1 end
  end
  flush()
  if lone then sizes.tok = 1 end
  return { name = table.concat(label, "+"), sig = sig, steps = steps, formats = formats, sizes = sizes, params = scalars,
           unwritten = unwritten, lone = lone, splits = splits },
    binding, table.concat(key, ";")
end

-- Makes a spec's kernel: a name, or steps to compose.
function M.resolve(spec)
  if spec.steps then
    local k = language.fusion(spec.name, spec.sig, spec.steps, spec.lone)
    return { kernel = k, formats = spec.formats, sizes = spec.sizes, params = spec.params, unwritten = spec.unwritten,
             tune = spec.tune, upto = spec.upto }
  end
  return spec
end

-- Would this run trace, and does it materialize nothing that a split would not?
local function try(run, escapes, cache, lone)
  local def, _, key = composed(run, escapes, lone)
  if not def then return nil end
  if cache[key] == nil then
    local ok, result = pcall(function()
      local lower = require "dsl.lower"
      return lower.probe(M.resolve(def))
    end)
    cache[key] = ok and result or false
  end
  return cache[key]
end

-- What each node reads and writes: node -> {ins, outs}, lists of tensor ids (an operand read twice stands there twice), and
-- {reads, writes}, the same as sets.
local function operands_of(nodes)
  local out = {}
  for _, node in ipairs(nodes) do
    local o = { ins = {}, outs = {}, reads = {}, writes = {} }
    for _, p in ipairs(language.kernels[node.kernel].sig.params) do
      local t = p.dims and node.args[p.name]
      if t and p.io == "in" then
        o.ins[#o.ins + 1] = t.id
        o.reads[t.id] = true
      elseif t then
        o.outs[#o.outs + 1] = t.id
        o.writes[t.id] = true
      end
    end
    out[node] = o
  end
  return out
end

local function fuse(nodes, outputs, enabled, lone)
  local runs, operands = {}, operands_of(nodes)
  local function count_reads(list)
    local reads = {} -- tensor id -> how often it is read
    for _, node in ipairs(list) do
      for _, id in ipairs(operands[node].ins) do reads[id] = (reads[id] or 0) + 1 end
    end
    return reads
  end
  local reads = count_reads(nodes)
  local function escapes_of(run)
    local inside, esc = count_reads(run), {}
    for _, node in ipairs(run) do
      for _, id in ipairs(operands[node].outs) do
        if outputs[id] or (reads[id] or 0) > (inside[id] or 0) then esc[id] = true end
      end
    end
    return esc
  end
  local cache = {}
  local run, traced = {}, nil -- traced: what the run's trace said
  local function close()
    if #run > 0 then runs[#runs + 1] = { nodes = run, escapes = escapes_of(run) } end
    run, traced = {}, nil
  end
  -- Does b read what a, before it, reads or writes?
  local function related(a, b)
    local x, y = operands[a], operands[b]
    for id in pairs(y.reads) do if x.reads[id] or x.writes[id] then return true end end
    return false
  end
  -- Do all members hang together, one reading what another reads or writes?
  local function connected(members)
    local reached, n, last = { [members[1]] = true }, 1, 0
    while n > last do
      last = n
      for j, b in ipairs(members) do
        for k, a in ipairs(members) do
          if not reached[b] and reached[a] and (k < j and related(a, b) or k > j and related(b, a)) then
            reached[b] = true
            n = n + 1
          end
        end
      end
    end
    return n == #members
  end
  -- A value read by several nodes can only be inlined once all of them have joined: longer extensions are tried first.
  local LOOKAHEAD = 4
  local at = 1
  while at <= #nodes do
    local taken = 0
    if #run > 0 and enabled then
      if traced == nil then traced = try(run, escapes_of(run), cache, lone) or false end
      local longer = table.move(run, 1, #run, 1, {})
      local reach = 0
      while reach < LOOKAHEAD and nodes[at + reach] and nodes[at + reach].head == run[1].head do
        longer[#longer + 1] = nodes[at + reach]
        reach = reach + 1
      end
      while traced and reach > 0 and taken == 0 do
        local after = connected(longer) and try(longer, escapes_of(longer), cache, lone)
        -- Joining must not add an array that is written and read back inside the launch.
        if after and after.materialized <= traced.materialized then
          taken, traced = reach, after
        else
          longer[#longer] = nil
          reach = reach - 1
        end
      end
    end
    if taken == 0 then
      close()
      taken = 1
    end
    for k = at, at + taken - 1 do run[#run + 1] = nodes[k] end
    at = at + taken
  end
  close()
  return runs
end

-- Plan --------------------------------------------------------------------------------------------------------------

-- Buffers for activations: a slot per tensor, reused once its last reader's launch is over. Offsets and sizes are bytes
-- a token. Tensors written after B:head() hold the wanted tokens only and live in a pool of their own; what crosses into
-- that part stays alive, so that it can be run again for other tokens.
local function place(launches, tensors)
  local last, first = {}, {}
  for l, launch in ipairs(launches) do
    for _, t in ipairs(launch.binding) do
      if t.kind == "act" then
        first[t.id] = first[t.id] or l
        last[t.id] = l
        if launch.head and not launches[first[t.id]].head then last[t.id] = math.huge end
      end
    end
  end
  local offs = {} -- by tensor
  local live, totals = { [false] = {}, [true] = {} }, { [false] = 0, [true] = 0 }
  for l, launch in ipairs(launches) do
    for _, pool in pairs(live) do
      for k = #pool, 1, -1 do if last[pool[k].id] < l then table.remove(pool, k) end end
    end
    for _, t in ipairs(launch.binding) do
      local base = tensors[t.id]
      if t.kind == "act" and not offs[t.id] then
        base.head = launch.head
        local pool = live[launch.head]
        local bytes = (width_of(base) * 4 + 63) // 64 * 64
        table.sort(pool, function(a, b) return a.off < b.off end)
        local at = 0
        for _, x in ipairs(pool) do
          if x.off - at >= bytes then break end
          at = math.max(at, x.off + x.bytes)
        end
        offs[t.id] = at
        pool[#pool + 1] = { id = t.id, off = at, bytes = bytes }
        totals[launch.head] = math.max(totals[launch.head], at + bytes)
      end
    end
  end
  offs.act_bytes, offs.head_bytes = totals[false], totals[true]
  return offs
end

function M.plan(arg)
  local family = M.families[arg.arch]
  if not family then
    local known = {}
    for name in pairs(M.families) do known[#known + 1] = name end
    table.sort(known)
    error(("unknown architecture '%s'; known: %s"):format(tostring(arg.arch), table.concat(known, " ")), 0)
  end
  local b = setmetatable({ arch = arg.arch, keys = arg.keys, tensors_in = arg.tensors, kv = arg.kv,
    -- Parameters of kind `format`, in a program for any number of tokens and in one for a lone token, whose products, bound by
    -- memory, gain nothing from halves.
    formats = { act = { many = arg.many or arg.act, lone = arg.act }, prod = { many = arg.prod, lone = "f32" } },
    tensors = {}, n_tensors = 0, weights = {}, tables = {}, nodes = {}, used = {} }, B)
  b.ids = tensor(b, { kind = "input", fmt = "i32", dims = { 0 }, input = true })
  b.pages = tensor(b, { kind = "input", fmt = "i32", dims = { 0 }, input = true })
  local out = family.graph(b)
  for name in pairs(arg.tensors) do
    if not b.used[name] and not (family.ignore and family.ignore[name]) then
      error(("tensor '%s' is not used by models/%s.lua; running without it would give wrong results"):format(name, arg.arch), 0)
    end
  end
  local outputs = {}
  for _, t in pairs(out) do if type(t) == "table" and t.id then outputs[t.id] = true end end

  local kernels, by_key = {}, {}
  local function kernel_of(key, def, upto)
    key = (upto and "upto " .. upto .. ";" or "") .. key
    if not by_key[key] then
      kernels[#kernels + 1] = { name = def.name, sig = def.sig, steps = def.steps, formats = def.formats, sizes = def.sizes,
                                params = def.params, unwritten = def.unwritten, lone = def.lone, splits = def.splits, upto = upto }
      by_key[key] = #kernels
    end
    return by_key[key] - 1
  end
  -- Products in halves have other code for few tokens, and attention does without the matrix unit: up to how many tokens each.
  local few = {}
  if arg.many == "bf16" then
    few[1] = schedules.attend.few
    for _, shape in ipairs(schedules.contract.matrix) do few[#few + 1] = shape.upto end
    table.sort(few)
  end
  local function kernel_for(key, def, upto)
    local halves, steps = false, {}
    for n, step in ipairs(def.steps) do
      steps[n], halves = step, halves or step.args.act == "bf16"
      if upto <= schedules.attend.few and step.args.prod and step.args.prod ~= b.formats.prod.lone then
        local args = {}
        for name, v in pairs(step.args) do args[name] = v end
        args.prod = b.formats.prod.lone
        steps[n], key = { kernel = step.kernel, args = args }, key .. ";prod of one"
      end
    end
    local other = setmetatable({ steps = steps }, { __index = def })
    return kernel_of(key, other, halves and tile.shape(schedules.contract.matrix, upto).upto or nil)
  end
  local function kernels_for_few(key, def)
    local list = {}
    for n, upto in ipairs(few) do list[n] = kernel_for(key, def, upto) end
    return list
  end
  -- The launches of a program, where its activations lie, and what they take.
  local function program(lone)
    local launches, steps = {}, {}
    for l, run in ipairs(fuse(b.nodes, outputs, arg.fuse ~= false, lone)) do
      local def, binding, key = composed(run.nodes, run.escapes, lone)
      if not def then error("internal: a run of one node does not compose", 0) end
      if lone then key = "lone;" .. key end
      local nodes, ids = {}, {}
      for k, n in ipairs(run.nodes) do nodes[k] = n.kernel end
      for k, t in ipairs(binding) do ids[k] = t.id - 1 end
      launches[l] = { binding = binding, head = run.nodes[1].head or false }
      steps[l] = { kernel = kernel_of(key, def), few = not lone and kernels_for_few(key, def) or {}, tensors = ids,
                   head = launches[l].head, nodes = nodes }
    end
    local offs = place(launches, b.tensors)
    return steps, offs
  end
  local launches, offs = program(nil)
  local lone, lone_offs
  if arg.lone and arg.lone ~= 0 then lone, lone_offs = program(arg.lone) end
  local plain = {}
  for id, t in ipairs(b.tensors) do
    plain[id] = { kind = t.kind, name = t.name, fmt = t.fmt, dims = t.dims, packed = t.packed or false, halves = t.halves or 0,
                  table = t.table, params = t.params, off = offs[id] or -1, lone_off = lone_offs and lone_offs[id] or -1,
                  width = width_of(t), head = t.head or false }
  end
  return { tensors = plain, kernels = kernels, launches = launches, few = few, act_bytes = offs.act_bytes, head_bytes = offs.head_bytes,
           lone = lone or {}, lone_bytes = lone_offs and lone_offs.act_bytes or 0,
           lone_head_bytes = lone_offs and lone_offs.head_bytes or 0, ids = b.ids.id - 1,
    logits = out.logits.id - 1, best = out.best and out.best.id - 1 or -1, hyper = out.hyper or {}, n_nodes = #b.nodes }
end

return M
