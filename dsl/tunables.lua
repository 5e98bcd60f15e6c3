-- Tunables: what `kgen tune` tries for a kernel. A tunable says how many instances of an axis are computed together; it
-- changes the order of independent work, never a result.

local M = {}

local MOST = 50       -- candidates of a kernel
local LARGEST = 16    -- instances, unless four times the default is more
local TOGETHER = 32   -- of all tunables: more accumulators than that spill on every target

local function add(list, seen, v)
  if not seen[v] then
    seen[v] = true
    list[#list + 1] = v
  end
end

-- Where the extent is known, its divisors (lowering takes no others); otherwise powers of two, and three of them.
local function values(t)
  local list, seen = {}, {}
  local most = math.max(LARGEST, 4 * t.default)
  add(list, seen, t.default)
  if t.extent then
    for v = 1, math.min(most, t.extent) do
      if t.extent % v == 0 then add(list, seen, v) end
    end
  else
    local v = 1
    while v <= most do
      add(list, seen, v)
      if v >= 2 and 3 * v // 2 <= most then add(list, seen, 3 * v // 2) end
      v = v * 2
    end
  end
  return list
end

-- tunables: {name -> {default, extent}} as lowering met them -> {{name = value, …}, …}: the default first, then by how
-- far they are from it, since the defaults come from the limits of the machine.
function M.candidates(tunables)
  local names = {}
  for name in pairs(tunables) do names[#names + 1] = name end
  table.sort(names)
  local all = { { tune = {}, far = 0, product = 1 } }
  for _, name in ipairs(names) do
    local longer = {}
    for _, c in ipairs(all) do
      for _, v in ipairs(values(tunables[name])) do
        local tune = { [name] = v }
        for n, x in pairs(c.tune) do tune[n] = x end
        longer[#longer + 1] = { tune = tune, far = c.far + math.abs(math.log(v / tunables[name].default, 2)),
                                product = c.product * v }
      end
    end
    all = longer
  end
  local kept, place = {}, {}
  for n, c in ipairs(all) do
    place[c] = n
    if c.far == 0 or c.product <= TOGETHER then kept[#kept + 1] = c end
  end
  table.sort(kept, function(a, b)
    if a.far ~= b.far then return a.far < b.far end
    return place[a] < place[b]
  end)
  local out = {}
  for n = 1, math.min(#kept, MOST) do out[n] = #names > 0 and kept[n].tune or nil end
  return out
end

return M
