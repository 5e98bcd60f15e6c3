-- gen_instructions.lua: the table of instructions in docs/ptxvm.md, from the decoder's own tables.
--   lua5.4 gen_instructions.lua TESTS… -- exec_decode_*.c …
-- An instruction that opens no statement in the tests' PTX (string literals of C, whole .ptx files) is listed apart.
local sources, tests, at_sources = {}, {}, false
local statements = {} -- opcodes that open a statement in some test

-- Statements end at ; { } and line ends; a label and a guard may stand before the opcode.
local function note_statements(ptx)
    for statement in ptx:gsub("\\n", "\n"):gsub("%%%%", "%%"):gmatch("[^;{}\n]+") do
        statement = statement:gsub("^%s*%%s", ""):gsub("^%s*[%w_$]+:%s+", ""):gsub("^%s*@!?[%w%%_]+%s+", "")
        local opcode = statement:match("^%s*(%l[%w_]*)")
        if opcode then statements[opcode] = true end
    end
end

for _, path in ipairs(arg) do
    if path == "--" then
        at_sources = true
    else
        local f = assert(io.open(path))
        table.insert(at_sources and sources or tests, { path = path, text = f:read("a") })
        f:close()
    end
end
for _, t in ipairs(tests) do
    if t.path:match("%.ptx$") then
        note_statements(t.text)
    else -- comments may hold quotes; adjacent literals are one text
        for literal in t.text:gsub("/%*.-%*/", ""):gsub('"%s*"', ""):gmatch('"([^"\n]*)"') do note_statements(literal) end
    end
end

local total, untested = 0, {}
print("| decoder | instructions |\n|---|---|")
for _, source in ipairs(sources) do
    local rows = {}
    for list in source.text:gmatch("const struct opcode [%w_]+%[%] = (%b{})") do
        for name in list:gmatch('{"([%w_]+)"') do
            rows[#rows + 1] = "`" .. name .. "`"
            total = total + 1
            if not statements[name] then untested[#untested + 1] = "`" .. name .. "`" end
        end
    end
    if #rows > 0 then print(("| `%s` | %s |"):format(source.path:match("[^/]+$"), table.concat(rows, " "))) end
end
print(("\n%d instructions; %s"):format(total, #untested == 0 and "each of them is a statement of some test's PTX."
    or #untested .. " are no statement of any test's PTX: " .. table.concat(untested, " ") .. "."))
