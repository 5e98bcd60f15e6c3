-- For `luacheck .`; verify/test_docs.lua runs it where it is installed.
std = "lua54"
max_line_length = false -- luacheck counts bytes; verify/test_docs.lua counts characters
self = false            -- a method need not use its object
include_files = { "kernels.lua", "dsl/**/*.lua", "models/*.lua", "verify/*.lua" }

-- The closed environment of dsl/main.lua: no os, io, load or require.
local function with(names)
  for _, n in ipairs {
    "math", "string", "table", "ipairs", "pairs", "tostring", "tonumber", "type", "error", "assert", "select",
  } do names[#names + 1] = n end
  return { read_globals = names }
end
stds.formats = with {}
stds.kernels = with {
  "kernel", "fused", "schedules", "each", "sum", "maximum", "vec", "as", "monoid", "fold", "sqrt", "rsqrt", "abs", "exp",
  "tanh", "round", "rounded", "max", "min", "float", "lt", "le", "eq", "both", "either",
}
stds.models = with { "blocks" }
files["dsl/formats"].std = "formats"
files["kernels.lua"].std = "kernels"
files["models"].std = "models"
files["dsl/main.lua"].read_globals = { "next_job" } -- of dsl/host.c
