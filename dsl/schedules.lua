-- Named maps: where each axis of a kernel's stores goes. `task` axes are spread over the pool's threads (or thread
-- blocks), the `lane` axis lies across SIMD lanes, `unroll` names how many instances of an axis are computed together
-- ("all", a number, or the name of a tunable). Axes not named are serial loops.
-- rows_across: packed weights lie with their rows across the lanes. tile: how many instances of an axis go through a
-- processor's tile registers together, where it has them. split: the run-time axis whose folds one token's tasks share.
-- matrix: on a GPU's matrix unit, for calls of up to so many tokens (`upto`; the last: of any number), the rows and
-- tokens of a task, and in how many parts a block's warps split its sums; where they do not, each warp has 16 rows, and
-- shared memory has the activations of `stages` trips along k, all but one of them on their way.
-- tasks: where a matrix has fewer, a task has 8 rows. few: see `attend`. Many kernels share these maps (`shared`), so
-- they may name axes that a kernel does not have; a map written in a kernel may not.

local S = {}

-- Row-parallel products: tiles of rows are the tasks; a tile of tokens shares each weight load.
S.contract = { task = { "row" }, lane = "row", unroll = { tok = "toks", row = "rows" }, rows_across = true,
               tile = { tok = 16 },
               matrix = { { upto = 8, rows = 16, tok = 8, parts = 8, tasks = 256 },
                          { upto = 256, rows = 16, tok = 32, parts = 8 },
                          { rows = 128, tok = 64, parts = 1, stages = 4 } } }

-- Token by token, elements across the lanes.
S.rows = { task = { "tok" }, lane = "row", unroll = { row = 4 } }

-- Token by token and head by head, elements of a head across the lanes.
S.heads = { task = { "tok", "head" }, lane = "i", unroll = { i = "all" } }

-- The same, one by one.
S.append = { task = { "tok", "head" }, lane = "e", unroll = {} }

-- Token by token and part by part of a row.
S.parts = { task = { "tok", "part" }, unroll = {} }

-- Attention: tiles of tokens and groups of heads are the tasks; a group shares its keys and values. One token's are
-- also pages of keys. few: for up to so many tokens a GPU shares the keys of each among a block's warps, and does
-- without its matrix unit.
S.attend = { task = { "tok", "head" }, lane = "i", unroll = { i = "all", tok = "toks", head = "heads" }, split = "key",
             few = 32 }

-- Selection: elements across the lanes, blocks of them the tasks.
S.select = { task = { "tok", "block" }, lane = "row", unroll = {} }

-- One task.
S.single = { task = {}, unroll = {} }

for _, map in pairs(S) do map.shared = true end

return S
