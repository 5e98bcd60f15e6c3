-- What a launch costs at least, by counting its flat IR (docs/ir.md): how often each line runs for given sizes, and the
-- machine's slots that it takes. `kgen tune` ranks its candidates by this.
--
-- The unit is the slot: the time of one vector multiply-add, of all threads together. A machine is taken to do, in a slot,
-- one load or store, one multiply-add or its like, `dots` integer dots, and two vector operations of any kind. A loop takes
-- the longest of its resources and of its chains: what a carry goes through from one trip to the next waits LATENCY slots
-- an operation. Values that are alive at once and more than the machine has registers are stored and loaded again.

local M = {}

local LATENCY = 4 -- of a multiply-add or a dot, in slots

local float_ops = { fadd = 1, fsub = 1, fmul = 1, fma = 1, fmin = 1, fmax = 1, fdiv = 8, fsqrt = 8, fpext = 1, fptrunc = 1,
                    sitofp = 1, fptosi = 1, frint = 1, tobf = 1, dotbf = 1, dot2 = 1 }
local vector_ops = { add = true, sub = true, mul = true, ["and"] = true, ["or"] = true, xor = true, shl = true, lshr = true,
                     ashr = true, smin = true, smax = true, ieq = true, ine = true, ilt = true, ile = true, feq = true,
                     flt = true, fle = true, select = true, fneg = true, fabs = true, zext = true, sext = true, trunc = true,
                     concat = true, slice = true, shuffle = true }
local scalar = {
  add = function(a, b) return a + b end, sub = function(a, b) return a - b end, mul = function(a, b) return a * b end,
  udiv = function(a, b) return b ~= 0 and a // b or 0 end, urem = function(a, b) return b ~= 0 and a % b or 0 end,
  smin = math.min, smax = math.max, shl = function(a, b) return a << b end, lshr = function(a, b) return a >> b end,
  ["and"] = function(a, b) return a & b end, ["or"] = function(a, b) return a | b end,
  ilt = function(a, b) return a < b and 1 or 0 end, ile = function(a, b) return a <= b and 1 or 0 end,
  ieq = function(a, b) return a == b and 1 or 0 end, ine = function(a, b) return a ~= b and 1 or 0 end,
}

-- A function's text as a tree: blocks hold lines {id, ty, op, args = {ids}, rest} and loops {id, lo, hi, step, carries,
-- body, yields}, conditions {cond, body}.
local function parse(lines, at, depth)
  local block = {}
  local indent = ("  "):rep(depth)
  while at <= #lines and lines[at]:sub(1, #indent) == indent do
    local text = lines[at]:sub(#indent + 1)
    if text:match("^end") then break end
    local id, lo, hi, step, carries = text:match("^for (%%%d+) = (%%%d+) to (%%%d+) step (%d+)(.*)$")
    if id then
      local loop = { kind = "for", id = id, lo = lo, hi = hi, step = tonumber(step), carries = {}, results = {} }
      for name, ty, init in carries:gmatch("(%%%d+):(%w+) = (%%%d+)") do
        loop.carries[#loop.carries + 1] = { id = name, ty = ty, init = init }
      end
      loop.body, at = parse(lines, at + 1, depth + 1)
      for name in lines[at]:gmatch("%%%d+") do loop.results[#loop.results + 1] = name end
      block[#block + 1] = loop
    elseif text:match("^if ") then
      local branch = { kind = "if", cond = text:match("%%%d+") }
      branch.body, at = parse(lines, at + 1, depth + 1)
      block[#block + 1] = branch
    elseif text:match("^yield") then
      block.yields = {}
      for name in text:gmatch("%%%d+") do block.yields[#block.yields + 1] = name end
    else
      local name, ty, op, rest = text:match("^(%%%d+):(%w+) = (%w+) ?(.*)$")
      if not name then op, rest = text:match("^(%w+) (.*)$") end
      local line = { kind = "line", id = name, ty = ty, op = op, args = {}, rest = rest }
      for a in rest:gmatch("%%%d+") do line.args[#line.args + 1] = a end
      block[#block + 1] = line
    end
    at = at + 1
  end
  return block, at
end

-- {function name -> block}
local function functions(ir)
  local lines, out = {}, {}
  for l in ir:gmatch("[^\n]+") do lines[#lines + 1] = l end
  local at = 2
  while at <= #lines do
    local name = lines[at]:match("^func @(.+)$")
    out[name], at = parse(lines, at + 1, 1)
    at = at + 1
  end
  return out
end

local function is_vector(ty) return ty and ty:find("x", 1, true) end

-- Counts of a block run once, with scalars evaluated where they are known. env: id -> number; types: id -> type.
local C = {}
C.__index = C

local function add(into, from, times)
  for k, v in pairs(from) do into[k] = (into[k] or 0) + v * times end
end

function C:slots(n)
  return math.max((n.loads or 0) + (n.stores or 0), (n.floats or 0) + (n.dots or 0) / self.dots,
                  ((n.floats or 0) + (n.dots or 0) + (n.others or 0)) / 2)
end

-- The longest way from a carry to what it becomes, in operations that wait.
local function chain(block)
  local yields = block.yields
  if not yields or #yields == 0 then return 0 end
  local far, longest = {}, 0
  for _, c in ipairs(block.carries) do far[c.id] = 0 end
  for _, x in ipairs(block) do
    if x.kind == "line" and x.id then
      local d
      for _, a in ipairs(x.args) do if far[a] then d = math.max(d or 0, far[a]) end end
      if d then far[x.id] = d + ((float_ops[x.op] or x.op == "dot4") and 1 or 0) end
    elseif x.kind == "for" then
      for k, c in ipairs(x.carries) do if far[c.init] and x.results[k] then far[x.results[k]] = far[c.init] + 1 end end
    end
  end
  for _, y in ipairs(yields) do longest = math.max(longest, far[y] or 0) end
  return longest
end

-- Vector registers wanted at once in a loop's body: its carries, what it takes from outside that is no constant, and
-- values with several readers between the first and the last of them.
function C:pressure(loop)
  local inside, first, last, uses = {}, {}, {}, {}
  for at, x in ipairs(loop.body) do
    if x.kind == "line" then
      if x.id and is_vector(x.ty) then inside[x.id], first[x.id] = true, at end
      for _, a in ipairs(x.args) do uses[a], last[a] = (uses[a] or 0) + 1, at end
    end
  end
  local held = 0
  for _, c in ipairs(loop.carries) do if is_vector(c.ty) then held, inside[c.id] = held + 1, true end end
  for id in pairs(uses) do
    if not inside[id] and is_vector(self.types[id]) and not self.constant[id] then held = held + 1 end
  end
  local ends, alive, most = {}, 0, 0
  for id in pairs(first) do
    if (uses[id] or 0) > 1 then ends[last[id]] = (ends[last[id]] or 0) + 1 end
  end
  for at, x in ipairs(loop.body) do
    if x.id and first[x.id] and (uses[x.id] or 0) > 1 then alive = alive + 1 end
    most = math.max(most, alive)
    alive = alive - (ends[at] or 0)
  end
  return held + most
end

function C:line(x, n)
  local env = self.env
  if x.ty then self.types[x.id] = x.ty end
  if x.op == "const" then
    self.constant[x.id] = true
    env[x.id] = math.tointeger(tonumber(x.rest))
  elseif x.op == "dim" then env[x.id] = self.dims[tonumber(x.rest) + 1]
  elseif x.op == "begin" then env[x.id] = self.task
  elseif x.op == "end" then env[x.id] = self.task + 1
  elseif x.op == "load" then n.loads = (n.loads or 0) + 1
  elseif x.op == "store" or x.op == "storem" then n.stores = (n.stores or 0) + 1
  elseif x.op == "dot4" then n.dots = (n.dots or 0) + 1
  elseif x.op == "tiledot" then -- a row of A, B or C is a register's worth
    n.loads, n.stores = (n.loads or 0) + 32, (n.stores or 0) + 16
  elseif is_vector(x.ty) and float_ops[x.op] then n.floats = (n.floats or 0) + float_ops[x.op]
  elseif is_vector(x.ty) and vector_ops[x.op] then n.others = (n.others or 0) + 1
  elseif x.op == "hsum" or x.op == "hmax" then n.others = (n.others or 0) + 8
  elseif scalar[x.op] or x.op == "select" then
    local a, b, c = env[x.args[1]], env[x.args[2]], env[x.args[3]]
    if x.op == "select" then
      if a and b and c then env[x.id] = a ~= 0 and b or c end
    elseif a and b then env[x.id] = scalar[x.op](a, b) end
  elseif (x.op == "zext" or x.op == "sext" or x.op == "trunc") and x.args[1] then env[x.id] = env[x.args[1]]
  end
end

-- Returns the slots of a block run once, and adds its counts to total, `times` of them.
function C:block(block, times, total)
  local n, inner = {}, 0
  for _, x in ipairs(block) do
    if x.kind == "line" then
      self:line(x, n)
    elseif x.kind == "if" then
      inner = inner + self:block(x.body, times, total)
    else
      for _, c in ipairs(x.carries) do self.types[c.id] = c.ty end
      for k, r in ipairs(x.results) do self.types[r] = x.carries[k] and x.carries[k].ty end
      local lo, hi = self.env[x.lo], self.env[x.hi]
      local trips = lo and hi and math.max(0, (hi - lo + x.step - 1) // x.step) or 1
      if trips > 0 then
        -- Bounds inside may depend on the counter: the middle trip stands for all.
        self.env[x.id] = lo and lo + (trips - 1) // 2 * x.step
        local slots = self:block(x.body, times * trips, total)
        x.body.carries = x.carries
        local spilled = math.max(0, self:pressure(x) - self.vregs)
        if spilled > 0 then add(total, { spills = spilled }, times * trips) end
        inner = inner + trips * math.max(slots + 2 * spilled, LATENCY * chain(x.body))
      end
    end
  end
  add(total, n, times)
  return inner + self:slots(n)
end

-- launch: what lower.kernel returned. run: sizes by name. target: { lanes, vregs }. dots: integer dots a slot.
-- Returns { slots, loads, stores, floats, dots, others, spills } of all its tasks.
function M.launch(launch, run, target, dots)
  local blocks, total, slots = functions(launch.ir), {}, 0
  local dims = {}
  for k, name in ipairs(launch.dims) do dims[k] = run[name] or 0 end
  for _, parts in ipairs(launch.phases) do
    for _, part in ipairs(parts) do
      local t = part.tasks
      local tasks = t.times * (t.per and (run[t.dim] + t.per - 1) // t.per or 1)
      if tasks > 0 then
        local c = setmetatable({ env = {}, types = {}, constant = {}, dims = dims, task = tasks // 2, vregs = target.vregs or 16,
                                 dots = dots }, C)
        -- What is before the loop over tasks counts for nothing.
        slots = slots + tasks * c:block(blocks[part.fn], tasks, total)
      end
    end
  end
  total.slots = slots
  for _, k in ipairs { "loads", "stores", "floats", "dots", "others", "spills" } do total[k] = math.floor(total[k] or 0) end
  return total
end

return M
