-- The cost model (dsl/cost.lua): counts of hand-written flat IR against numbers worked out by hand, and of real kernels
-- against what their algebra says.
package.path = "./?.lua;" .. package.path
local cost = require "dsl.cost"

local planned, failures = 0, 0
local function is(found, expected, name)
  planned = planned + 1
  if found ~= expected then failures = failures + 1 end
  print((found == expected and "ok " or "not ok ") .. planned .. " - " .. name)
  if found ~= expected then print(("# expected %s, found %s"):format(expected, found)) end
end

local function count(ir, run, tasks, dims, vregs)
  return cost.launch({ ir = ir, dims = dims or {}, phases = { { { fn = "f", tasks = tasks or { times = 1 } } } } }, run or {},
                     { vregs = vregs or 32 }, 1)
end

-- Ten trips of two loads, a multiply-add and a store, for each of three tasks.
local axpy = [[
kgen-ir 1
func @f
  %1:ptr = arg 0
  %2:i64 = begin
  %3:i64 = end
  %4:i64 = const 0
  %5:i64 = const 160
  %6:f32x16 = const 0x1p+1
  for %7 = %2 to %3 step 1
    for %8 = %4 to %5 step 16
      %9:f32x16 = load %1, %8, 0 align 64
      %10:f32x16 = load %1, %8, 4096 align 64
      %11:f32x16 = fma %9, %6, %10
      store %11, %1, %8, 0 align 64
    end
  end
end
]]
local c = count(axpy, {}, { times = 3 })
is(c.loads, 60, "loads of a nest of loops")
is(c.stores, 30, "stores")
is(c.floats, 30, "multiply-adds")
is(c.spills, 0, "nothing is spilled")
is(c.slots, 90, "three accesses a trip take three slots")

-- One accumulator waits for itself; four need only their throughput.
local function sum(n)
  local carry, body, yields, names = {}, {}, {}, {}
  for k = 1, n do
    carry[k] = ("%%%d:f32x16 = %%6"):format(20 + k)
    body[k] = ("    %%%d:f32x16 = fma %%6, %%6, %%%d\n"):format(40 + k, 20 + k)
    yields[k], names[k] = "%" .. 40 + k, "%" .. 60 + k
  end
  return ("kgen-ir 1\nfunc @f\n  %%4:i64 = const 0\n  %%5:i64 = const 100\n  %%6:f32x16 = const 0x1p+1\n" ..
    "  for %%8 = %%4 to %%5 step 1 carry %s\n%s    yield %s\n  end -> %s\nend\n"):format(
    table.concat(carry, ", "), table.concat(body), table.concat(yields, ", "), table.concat(names, ", "))
end
is(count(sum(1)).slots, 400, "a chain of one accumulator waits four slots a trip")
is(count(sum(4)).slots, 400, "four accumulators fill them")
is(count(sum(8)).slots, 800, "eight are bound by throughput")
is(count(sum(20)).spills, 0, "twenty accumulators fit into 32 registers")
is(count(sum(20), {}, nil, nil, 16).spills, 400, "and not into 16: four are spilled a trip")

-- Bounds from run-time sizes: tiles of eight tokens and the rest.
local tiles = [[
kgen-ir 1
func @f
  %1:ptr = arg 0
  %2:i64 = dim 0
  %3:i64 = const 8
  %4:i64 = urem %2, %3
  %5:i64 = sub %2, %4
  %6:i64 = const 0
  for %7 = %6 to %5 step 8
    %8:i32 = load %1, %7, 0 align 4
  end
  for %9 = %5 to %2 step 1
    %10:i32 = load %1, %9, 0 align 4
    %11:i32 = load %1, %9, 4 align 4
  end
end
]]
is(count(tiles, { tok = 1 }, nil, { "tok" }).loads, 2, "a token runs the rest alone")
is(count(tiles, { tok = 27 }, nil, { "tok" }).loads, 3 + 2 * 3, "tiles and the rest")
is(count(tiles, { tok = 16 }, { times = 2, per = 8, dim = "tok" }, { "tok" }).loads, 2 * 2 * 2, "tasks over a run-time axis")

is(count([[
kgen-ir 1
func @f
  %1:ptr = ws
  %2:i64 = const 0
  tiledot %1, %2, %1, %2, %1, %2 m16n16k32.s8u8 stride 64
end
]]).slots, 48, "a product of tiles loads 32 rows and stores 16")

-- Real kernels.
local main, lower, graph = require "dsl.main", require "dsl.lower", require "dsl.graph"
local list = { "kernels.lua" }
for path in io.popen("ls dsl/formats/*.lua models/*.lua"):lines() do list[#list + 1] = path end
main.open(list, function(path)
  local f <close> = assert(io.open(path))
  return f:read("a")
end)
local target = { class = "x86-64-v4", lanes = 16, pack_lanes = 16, pack_words = 1, vregs = 32, team = 0 }
local function linear(tune, tok)
  local made = main.shape { kernel = "linear", shape = ("tok=%d,n=256,d=512,W=q4_k,act=q8"):format(tok), nth = 1 }
  made.spec.tune = tune
  return cost.launch(lower.kernel(graph.resolve(made.spec), target), made.run, target, 1), made
end
local one, made = linear({ toks = 1 }, 24)
is(one.dots, 24 * 256 * 512 // 64, "a product's dots: 64 elements each")
is(linear({ toks = 8 }, 24).dots, one.dots, "tiles do not change their number")
local eight = linear({ toks = 8 }, 24)
is(eight.loads < one.loads and eight.others < one.others and eight.slots < one.slots, true, "a tile of tokens shares loads and unpacking")
is(linear({ toks = 16, rows = 4 }, 24).dots, one.dots, "nor do rows computed together")

target.tiledot = true
is(linear({ toks = 8 }, 24).dots, 8 * 256 * 512 // 64, "where there are tile registers, 16 of 24 tokens go through them")
target.tiledot = nil

local candidates = main.candidates { spec = made.spec, target = target, runs = { made.run }, dots = 1 }
local ranked = true
for n = 3, #candidates do ranked = ranked and candidates[n - 1].slots[1] <= candidates[n].slots[1] end
is(candidates[1].tune.toks == 8 and candidates[1].tune.rows == 1, true, "the default comes first")
is(ranked, true, "the others as the limits rank them")
made.run.tok, made.run.key, made.run.ctx = 1, 1, 1
local for_one = main.candidates { spec = made.spec, target = target, runs = { made.run }, dots = 1 }
local same_toks = #for_one > 1
for _, x in ipairs(for_one) do
  same_toks = same_toks and (x.tune.toks == 1 or x == for_one[1])
end
is(same_toks, true, "of one token nothing is tried that only several would see")

print("1.." .. planned)
os.exit(failures == 0 and 0 or 1)
