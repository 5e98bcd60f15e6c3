-- What a kernel's definition and its instances must satisfy before they are lowered. Each function reports through
-- `fail(format, …)`, which knows the kernel.

local E = require "dsl.expr"

local M = { MAX_STORES = 4096 }

local MAX_ELEMENTS = 1 << 45 -- of an array: byte offsets stay far below 2^63
local MAX_UNROLL = 4096
local TILE, MAX_TILE = 16, 64 -- instances that go through tile registers together

local function sorted(set)
  local list = {}
  for name in pairs(set) do list[#list + 1] = tostring(name) end
  table.sort(list)
  return list
end

-- An array bound to a parameter: sizes, and a format that can be there.
function M.array(fail, g)
  local elements = 1
  for _, d in ipairs(g.dims) do
    local n = d.size
    if n then
      if math.type(n) ~= "integer" or n < 1 then
        fail("size '%s' is %s; expected a whole number from 1", tostring(d.name), tostring(n))
      end
      if n > MAX_ELEMENTS // elements then fail("array '%s' has over 2^45 elements", g.name) end
      elements = elements * n
    end
  end
  local def = g.def
  if not def then return end
  if def.activation then fail("'%s' cannot be %s, a format of activations", g.name, def.name) end
  local width = g.dims[#g.dims].size
  if width and width % def.block ~= 0 then
    fail("'%s' is %s, in blocks of %d elements; its width of %d is not a multiple", g.name, def.name, def.block, width)
  end
end

local map_keys = { task = true, lane = true, unroll = true, rows_across = true, tile = true, split = true, matrix = true,
                   few = true, shared = true }

local function unroll(fail, axis, u, static, tune, shared)
  if u == "all" then
    if static == false then fail("the run-time axis '%s' cannot be unrolled whole", axis) end
    if static and static > MAX_UNROLL then
      fail("unrolling all %d of axis '%s'; at most %d", static, axis, MAX_UNROLL)
    end
  elseif type(u) == "string" then
    if not shared and not (tune and tune[u]) then
      fail("its map unrolls axis '%s' by '%s', which its tune table does not have", axis, u)
    end
  elseif math.type(u) ~= "integer" or u < 1 or u > MAX_UNROLL then
    fail("unroll of axis '%s' is %s; expected 1 to %d, \"all\" or the name of a tunable", axis, tostring(u), MAX_UNROLL)
  end
end

-- Shapes of a matrix unit's tasks, by ascending numbers of tokens; the last is for any number. Eight warps split their sums, or none.
local function matrix(fail, shapes)
  local upto = 0
  for k, s in ipairs(shapes) do
    local function field(name, ok)
      if math.type(s[name]) ~= "integer" or not ok(s[name]) then
        fail("matrix[%d].%s is %s; see docs/dsl.md", k, name, tostring(s[name]))
      end
    end
    field("parts", function(n) return n == 1 or n == 8 end)
    field("rows", function(n) return n == 128 // s.parts end)
    field("tok", function(n) return n > 0 and n % 8 == 0 and n <= 64 // (s.parts == 1 and 1 or 2) end)
    if s.parts == 1 then field("stages", function(n) return n >= 2 and n <= 8 end) end
    if shapes[k + 1] then field("upto", function(n) return n > upto end) end
    if not shapes[k + 1] and s.upto then fail("matrix[%d], the last, has an upto", k) end
    upto = s.upto
  end
end

-- A map, for stores over `axes` (name -> extent, or false where known at run time only). A shared map (a named schedule)
-- may name axes that a kernel does not have.
function M.map(fail, map, axes, tune)
  for _, key in ipairs(sorted(map)) do
    if not map_keys[key] then
      fail("a map has task, lane, unroll, rows_across, tile, split, matrix and few; not '%s'", key)
    end
  end
  local function known(axis)
    if axes[axis] == nil and not map.shared then
      fail("its map names the axis '%s'; its stores have: %s", tostring(axis), table.concat(sorted(axes), " "))
    end
    return axes[axis] ~= nil
  end
  if type(map.task) ~= "table" then fail("a map needs task = { axes }") end
  for _, axis in ipairs(map.task) do known(axis) end
  if map.lane ~= nil then known(map.lane) end
  local is_task = {}
  for _, axis in ipairs(map.task) do is_task[axis] = true end
  for _, axis in ipairs(sorted(map.tile or {})) do
    local n = map.tile[axis]
    if is_task[axis] then fail("its map tiles axis '%s', which is cut into tasks", axis) end
    if math.type(n) ~= "integer" or n < TILE or n > MAX_TILE or n % TILE ~= 0 then
      fail("tile of axis '%s' is %s; expected a multiple of %d up to %d", axis, tostring(n), TILE, MAX_TILE)
    end
    known(axis)
  end
  matrix(fail, map.matrix or {})
  for _, axis in ipairs(sorted(map.unroll or {})) do
    if known(axis) then unroll(fail, axis, map.unroll[axis], axes[axis], tune, map.shared) end
  end
end

-- The maps of a traced kernel's stores.
function M.maps(fail, stores)
  local axes_of, tune_of, maps = {}, {}, {}
  for _, st in ipairs(stores) do
    if not axes_of[st.map] then
      axes_of[st.map], tune_of[st.map] = {}, st.tune
      maps[#maps + 1] = st.map
    end
    for _, var in ipairs(st.axes) do axes_of[st.map][var.axis] = E.int_const(var.len) or false end
  end
  for _, map in ipairs(maps) do M.map(fail, map, axes_of[map], tune_of[map]) end
end

return M
