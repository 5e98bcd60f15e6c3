-- gen_instructions.lua: the table of instructions in docs/ptxvm.md, from the decoder's own tables.
--   lua5.4 gen_instructions.lua TESTS… -- exec_decode_*.c …
-- An instruction that no text of the tests names is listed apart.
local sources, tests, at_sources = {}, {}, false
for _, path in ipairs(arg) do
    if path == "--" then
        at_sources = true
    else
        local f = assert(io.open(path))
        table.insert(at_sources and sources or tests, { path = path, text = f:read("a") })
        f:close()
    end
end

local function tested(name)
    for _, t in ipairs(tests) do
        if t.text:find("%f[%w]" .. name .. "[%.;]") then return true end
    end
    return false
end

local total, untested = 0, {}
print("| decoder | instructions |\n|---|---|")
for _, source in ipairs(sources) do
    local rows = {}
    for list in source.text:gmatch("const struct opcode [%w_]+%[%] = (%b{})") do
        for name in list:gmatch('{"([%w_]+)"') do
            rows[#rows + 1] = "`" .. name .. "`"
            total = total + 1
            if not tested(name) then untested[#untested + 1] = "`" .. name .. "`" end
        end
    end
    if #rows > 0 then print(("| `%s` | %s |"):format(source.path:match("[^/]+$"), table.concat(rows, " "))) end
end
print(("\n%d instructions; %d are named in no test of PTX text (CUDA C tests may reach them): %s."):format(
    total, #untested, #untested > 0 and table.concat(untested, " ") or "none"))
