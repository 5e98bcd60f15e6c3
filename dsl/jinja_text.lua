--- Python's str on Lua strings: what chat templates see of text.
--
-- A string is UTF-8; positions and lengths count code points, as in Python. A byte that is no UTF-8 counts as one
-- character, so that any bytes pass through unchanged. Nothing here limits sizes: callers check them (jinja_lib).
-- Case mapping covers ASCII, Latin-1, Latin Extended-A, Greek and Cyrillic; other letters stay as they are.

local M = {}

local byte, sub, find = string.byte, string.sub, string.find

--- Number of bytes of the character that starts at byte `i`: 1 for a byte that starts no valid sequence.
local function char_bytes(s, i)
  local b = byte(s, i)
  local n = b < 0x80 and 1 or b < 0xC2 and 1 or b < 0xE0 and 2 or b < 0xF0 and 3 or b < 0xF5 and 4 or 1
  for k = 1, n - 1 do
    local c = byte(s, i + k)
    if not c or c < 0x80 or c > 0xBF then return 1 end
  end
  return n
end

local function is_ascii(s) return not find(s, "[\x80-\xff]") end

--- The characters of `s` as an array of strings.
function M.chars(s)
  local out = {}
  if is_ascii(s) then
    for i = 1, #s do out[i] = sub(s, i, i) end
    return out
  end
  local i, n = 1, 0
  while i <= #s do
    local k = char_bytes(s, i)
    n = n + 1
    out[n] = sub(s, i, i + k - 1)
    i = i + k
  end
  return out
end

function M.len(s)
  if is_ascii(s) then return #s end
  return utf8.len(s) or #M.chars(s)
end

--- Code point of one character as `chars` gives it; nil for a stray byte.
function M.code(c)
  if #c == 1 then
    local b = byte(c)
    return b < 0x80 and b or nil
  end
  return utf8.len(c) and utf8.codepoint(c) or nil
end

--- Order by code points. `<` on Lua strings follows the locale; UTF-8 bytes sort as their code points do.
function M.less(a, b)
  for i = 1, math.min(#a, #b) do
    local x, y = byte(a, i), byte(b, i)
    if x ~= y then return x < y end
  end
  return #a < #b
end

-- str.isspace() ------------------------------------------------------------------------------------------------------

local SPACE = {}
for _, range in ipairs {
  { 0x09, 0x0D }, { 0x1C, 0x20 }, { 0x85, 0x85 }, { 0xA0, 0xA0 }, { 0x1680, 0x1680 }, { 0x2000, 0x200A },
  { 0x2028, 0x2029 }, { 0x202F, 0x202F }, { 0x205F, 0x205F }, { 0x3000, 0x3000 },
} do
  for c = range[1], range[2] do SPACE[utf8.char(c)] = true end
end
M.SPACE = SPACE

local function set_of(s)
  local set = {}
  for _, c in ipairs(M.chars(s)) do set[c] = true end
  return set
end

--- The first byte from `at` on that starts no white space.
function M.skip_space(s, at)
  while at <= #s do
    local n = char_bytes(s, at)
    if not SPACE[sub(s, at, at + n - 1)] then break end
    at = at + n
  end
  return at
end

--- Strips the characters of `which` (nil: white space) at the left and/or right end.
function M.strip(s, which, left, right)
  local set = which and set_of(which) or SPACE
  local first, last = 1, #s
  while left and first <= last do
    local n = char_bytes(s, first)
    if not set[sub(s, first, first + n - 1)] then break end
    first = first + n
  end
  while right and last >= first do
    local at = last
    while at > first and last - at < 3 and byte(s, at) >= 0x80 and byte(s, at) < 0xC0 do at = at - 1 end
    if at + char_bytes(s, at) - 1 ~= last then at = last end
    if not set[sub(s, at, last)] then break end
    last = at - 1
  end
  return sub(s, first, last)
end

--- s.split(sep, max) or, from the right, s.rsplit(sep, max); `max` < 0 is no limit, `sep` nil is runs of white space.
function M.split(s, sep, max, from_right)
  local out = {}
  if sep then
    local at = 1
    while true do
      local i, j = find(s, sep, at, true)
      if not i or (not from_right and max >= 0 and #out >= max) then break end
      out[#out + 1] = sub(s, at, i - 1)
      at = j + 1
    end
    out[#out + 1] = sub(s, at)
    -- From the right, separators are matched from the end; for the non-overlapping ones of templates that is the
    -- same cut, so the first pieces are joined again.
    if from_right and max >= 0 and #out > max + 1 then
      local extra = #out - max
      out = { table.concat(out, sep, 1, extra), table.unpack(out, extra + 1) }
    end
    return out
  end
  local words, starts, word_at, i = {}, {}, nil, 1
  while i <= #s do
    local n = char_bytes(s, i)
    if SPACE[sub(s, i, i + n - 1)] then
      if word_at then words[#words + 1], starts[#starts + 1] = sub(s, word_at, i - 1), word_at end
      word_at = nil
    else
      word_at = word_at or i
    end
    i = i + n
  end
  if word_at then words[#words + 1], starts[#starts + 1] = sub(s, word_at), word_at end
  if max < 0 or #words <= max then return words end
  if from_right then
    local keep = #words - max
    out[1] = sub(s, 1, starts[keep] + #words[keep] - 1)
    for k = keep + 1, #words do out[#out + 1] = words[k] end
    return out
  end
  for k = 1, max do out[k] = words[k] end
  out[max + 1] = M.strip(sub(s, starts[max + 1]), nil, true, false)
  return out
end

local BREAKS = {}
for _, c in ipairs { 0x0A, 0x0B, 0x0C, 0x0D, 0x1C, 0x1D, 0x1E, 0x85, 0x2028, 0x2029 } do BREAKS[utf8.char(c)] = true end

--- s.splitlines(keepends).
function M.splitlines(s, keepends)
  local out, at, i = {}, 1, 1
  while i <= #s do
    local n = char_bytes(s, i)
    if BREAKS[sub(s, i, i + n - 1)] then
      local stop = i + n - 1
      if sub(s, i, i + 1) == "\r\n" then stop = i + 1 end
      out[#out + 1] = sub(s, at, keepends and stop or i - 1)
      at, i = stop + 1, stop + 1
    else
      i = i + n
    end
  end
  if at <= #s then out[#out + 1] = sub(s, at) end
  return out
end

--- Occurrences of `what` (not empty) in `s`, not overlapping.
function M.count(s, what)
  local n, at = 0, 1
  while true do
    local i, j = find(s, what, at, true)
    if not i then return n end
    n, at = n + 1, j + 1
  end
end

--- s.replace(old, new, max); `max` < 0 is no limit. An empty `old` matches before every character and at the end.
function M.replace(s, old, new, max)
  local out, done = {}, 0
  if old == "" then
    for _, c in ipairs(M.chars(s)) do
      if max < 0 or done < max then
        out[#out + 1] = new
        done = done + 1
      end
      out[#out + 1] = c
    end
    if max < 0 or done < max then out[#out + 1] = new end
    return table.concat(out)
  end
  local at = 1
  while max < 0 or done < max do
    local i, j = find(s, old, at, true)
    if not i then break end
    out[#out + 1] = sub(s, at, i - 1)
    out[#out + 1] = new
    at, done = j + 1, done + 1
  end
  out[#out + 1] = sub(s, at)
  return table.concat(out)
end

--- Index (from 0, in characters) of the first or last `what`, -1 when absent.
function M.find(s, what, from_right)
  local at, last = 1, nil
  while true do
    local i = find(s, what, at, true)
    if not i then break end
    last, at = i, i + 1
    if not from_right then break end
    if at > #s + 1 then break end
  end
  return last and M.len(sub(s, 1, last - 1)) or -1
end

-- Case ---------------------------------------------------------------------------------------------------------------

local UPPER, LOWER = {}, {} -- character -> character; only where they differ
local function pair(upper, lower)
  local u, l = utf8.char(upper), utf8.char(lower)
  LOWER[u], UPPER[l] = l, u
end
for c = 0x41, 0x5A do pair(c, c + 0x20) end
for c = 0xC0, 0xDE do
  if c ~= 0xD7 then pair(c, c + 0x20) end
end
for _, range in ipairs { { 0x100, 0x12E }, { 0x132, 0x136 }, { 0x139, 0x147 }, { 0x14A, 0x176 }, { 0x179, 0x17D } } do
  for c = range[1], range[2], 2 do pair(c, c + 1) end
end
pair(0x178, 0xFF)
for c = 0x391, 0x3AB do
  if c ~= 0x3A2 then pair(c, c + 0x20) end
end
for c = 0x410, 0x42F do pair(c, c + 0x20) end
for c = 0x400, 0x40F do pair(c, c + 0x50) end
UPPER["ß"], UPPER["ς"] = "SS", "Σ"

local function mapped(s, map)
  if is_ascii(s) then return map == UPPER and s:gsub("%l", UPPER) or (s:gsub("%u", LOWER)) end
  local out = M.chars(s)
  for i, c in ipairs(out) do out[i] = map[c] or c end
  return table.concat(out)
end

function M.upper(s) return (mapped(s, UPPER)) end
function M.lower(s) return (mapped(s, LOWER)) end
function M.is_upper(c) return LOWER[c] ~= nil end
function M.is_lower(c) return UPPER[c] ~= nil end
function M.is_letter(c) return UPPER[c] ~= nil or LOWER[c] ~= nil end

function M.swapcase(s)
  local out = M.chars(s)
  for i, c in ipairs(out) do out[i] = UPPER[c] or LOWER[c] or c end
  return table.concat(out)
end

local function capitalized(chars, first, last)
  for i = first, last do
    local map = i == first and UPPER or LOWER
    chars[i] = map[chars[i]] or chars[i]
  end
end

function M.capitalize(s)
  local out = M.chars(s)
  capitalized(out, 1, #out)
  if out[1] == "SS" then out[1] = "Ss" end
  return table.concat(out)
end

--- str.title(): a letter after a non-letter becomes upper case, other letters lower case.
function M.title(s)
  local out = M.chars(s)
  local inside = false
  for i, c in ipairs(out) do
    local map = inside and LOWER or UPPER
    out[i] = map[c] or c
    inside = M.is_letter(c)
  end
  return table.concat(out)
end

--- Jinja's `title` filter: words are cut at white space and - ( { [ < only.
function M.title_words(s)
  local out = M.chars(s)
  local first = 1
  for i = 1, #out + 1 do
    local c = out[i]
    if not c or SPACE[c] or find(c, "^[-({%[<]$") then
      capitalized(out, first, i - 1)
      first = i + 1
    end
  end
  return table.concat(out)
end

-- repr() -------------------------------------------------------------------------------------------------------------

local ESCAPE = { ["\n"] = "\\n", ["\r"] = "\\r", ["\t"] = "\\t", ["\\"] = "\\\\" }

--- Code points that Python's repr() escapes: controls, formats, private use, separators other than the space.
local function printable(c)
  return not (c < 0x20 or (c >= 0x7F and c <= 0xA0) or c == 0xAD or c == 0x1680 or c == 0x3000 or c == 0xFEFF
    or (c >= 0x2000 and c <= 0x200F) or (c >= 0x2028 and c <= 0x202F) or (c >= 0x205F and c <= 0x206F)
    or (c >= 0xE000 and c <= 0xF8FF) or (c >= 0xFFF0 and c <= 0xFFFB) or c >= 0xE0000)
end

function M.repr(s)
  local quote = (find(s, "'", 1, true) and not find(s, '"', 1, true)) and '"' or "'"
  local out = M.chars(s)
  for i, c in ipairs(out) do
    local code = M.code(c)
    if c == quote then
      out[i] = "\\" .. c
    elseif ESCAPE[c] then
      out[i] = ESCAPE[c]
    elseif not code then
      out[i] = ("\\x%02x"):format(byte(c))
    elseif not printable(code) then
      out[i] = (code < 0x100 and "\\x%02x" or code < 0x10000 and "\\u%04x" or "\\U%08x"):format(code)
    end
  end
  return quote .. table.concat(out) .. quote
end

return M
