-- Tunables: what `kgen tune` tries for a kernel. A tunable says how many instances of an axis are computed together; it
-- changes the order of independent work, never a result.

local cost = require "dsl.cost"

local M = {}

local MOST = 50       -- candidates of a kernel
local LARGEST = 8     -- instances, unless twice the default is more

local function add(list, seen, v)
  if not seen[v] then
    seen[v] = true
    list[#list + 1] = v
  end
end

-- Where the extent is known, its divisors (lowering takes no others); otherwise powers of two, and three of them, up to
-- what the launches have of that axis.
local function values(t, longest)
  local list, seen = {}, {}
  local most = math.max(LARGEST, 2 * t.default)
  if longest == 1 then return { 1 } end -- a loop over several is never entered
  add(list, seen, t.default)
  if t.extent then
    for v = 1, math.min(most, t.extent) do
      if t.extent % v == 0 then add(list, seen, v) end
    end
  else
    local v = 1
    while v <= math.min(most, longest) do
      add(list, seen, v)
      if v >= 2 and 3 * v // 2 <= most then add(list, seen, 3 * v // 2) end
      v = v * 2
    end
  end
  return list
end

-- The most instances of a tunable's axis that any of the launches has.
local function most_of(t, runs)
  if t.extent then return t.extent end
  local most = 1
  for _, run in ipairs(runs) do most = math.max(most, run[t.axis] or 1 << 30) end
  return most
end

-- {name -> {default, extent, axis}} as lowering met them -> {{name = value, …}, …}, the default first, then by how far
-- they are from it. together: instances of all tunables at once, more of which do not fit into the registers.
local function combinations(tunables, runs, together)
  local names = {}
  for name in pairs(tunables) do names[#names + 1] = name end
  table.sort(names)
  local all, default = { { tune = {}, far = 0, product = 1 } }, { far = -1, product = 1, tune = {} }
  for _, name in ipairs(names) do default.tune[name] = tunables[name].default end
  for _, name in ipairs(names) do
    local longer = {}
    for _, c in ipairs(all) do
      local most = most_of(tunables[name], runs)
      for _, v in ipairs(values(tunables[name], most)) do
        local tune = { [name] = v }
        for n, x in pairs(c.tune) do tune[n] = x end
        longer[#longer + 1] = { tune = tune, far = c.far + math.abs(math.log(v / tunables[name].default, 2)),
                                product = c.product * math.min(v, most) }
      end
    end
    all = longer
  end
  local kept, place = { default }, { [default] = 0 }
  for n, c in ipairs(all) do
    place[c] = n
    local same = true
    for name, v in pairs(c.tune) do same = same and v == default.tune[name] end
    if not same and c.product <= together then kept[#kept + 1] = c end
  end
  table.sort(kept, function(a, b)
    if a.far ~= b.far then return a.far < b.far end
    return place[a] < place[b]
  end)
  local out = {}
  for n = 1, math.min(#kept, MOST) do out[n] = #names > 0 and kept[n].tune or nil end
  return out
end

-- lower(tune) -> a launch. arg: { target, runs, dots }, see dsl/cost.lua. Returns {{tune, slots = {of each run}}, …}: the
-- default first, then by their slots. Of several that do the same work in these runs only the first is kept.
function M.candidates(lower, arg)
  local first = lower(nil)
  local list, known = {}, {}
  local together = math.max(8, (arg.target.vregs or 16) // 2)
  for n, tune in ipairs(combinations(first.tunables, arg.runs, together)) do
    local launch = lower(tune)
    local c, mark = { tune = tune, slots = {}, product = 1, n = n }, {}
    for r, run in ipairs(arg.runs) do
      local k = cost.launch(launch, run, arg.target, arg.dots)
      c.slots[r], c.product = k.slots, c.product * math.max(k.slots, 1)
      mark[r] = ("%.0f,%d,%d,%d,%d,%d"):format(k.slots, k.loads, k.floats, k.dots, k.others, k.spills)
    end
    mark = table.concat(mark, ";")
    if not known[mark] then
      known[mark] = true
      list[#list + 1] = c
    end
  end
  table.sort(list, function(a, b)
    if a.n == 1 or b.n == 1 then return a.n < b.n end
    if a.product ~= b.product then return a.product < b.product end
    return a.n < b.n
  end)
  local out = {}
  for n, c in ipairs(list) do out[n] = { tune = c.tune, slots = c.slots } end
  return out
end

return M
