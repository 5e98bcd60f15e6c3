-- Writes the C file that carries kgen's Lua sources inside the program (see `struct lua_source` in dsl/host.h).
-- usage: lua5.4 dsl/embed.lua OUT.c ENTRY FILE.lua...   ENTRY: the module whose functions dsl_call calls ("dsl.main").
-- Paths are stored as given: relative to the repository root.

local escapes = { ["\n"] = "\\n", ["\\"] = "\\\\", ['"'] = '\\"', ["\t"] = "\\t" }

-- One C string literal a source line. Octal escapes always have three digits, so that none swallows what follows.
local function literal(line)
  return '"' .. line:gsub('[%c\\"\128-\255?]', function(c)
    return escapes[c] or ("\\%03o"):format(c:byte())
  end) .. '"'
end

local out, paths = {}, { table.unpack(arg, 3) }
table.sort(paths)
out[#out + 1] = '/* Made by dsl/embed.lua: do not edit. */\n#include "dsl/host.h"\n'
out[#out + 1] = ("const char lua_entry[] = %s;"):format(literal(arg[2]))
out[#out + 1] = "const struct lua_source lua_sources[] = {"
for _, path in ipairs(paths) do
  local file = assert(io.open(path, "rb"))
  local text = file:read("a")
  file:close()
  out[#out + 1] = ("    {%s,"):format(literal(path))
  for line in text:gmatch("[^\n]*\n?") do
    if line ~= "" then out[#out + 1] = "     " .. literal(line) end
  end
  out[#out + 1] = ('     "", %d},'):format(#text)
end
if #paths == 0 then out[#out + 1] = '    {"", "", 0},' end
out[#out + 1] = "};"
out[#out + 1] = ("const size_t n_lua_sources = %d;\n"):format(#paths)

local file = assert(io.open(arg[1], "wb"))
assert(file:write(table.concat(out, "\n")))
assert(file:close())
