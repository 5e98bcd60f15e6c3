--- Tokens of a chat template: Jinja2's, with trim_blocks and lstrip_blocks on, as transformers sets them.
--
-- lex(text) returns an array of tokens {kind =, value =, line =}; kinds:
--   data                       text between tags (value), white space already removed
--   block_begin, block_end     {% and %}        variable_begin, variable_end   {{ and }}
--   name, str, int, float      inside a tag (value converted)
--   op                         inside a tag: value is the operator or bracket itself
--   eof
--
-- White space: "-" at a tag strips all of it on that side. Otherwise the line break right after a block or comment tag
-- goes, and so does what is before such a tag on its line when that is only blanks ("+" keeps it). One line break at
-- the end of the template goes. Line breaks are "\n" from here on.

local text = require "dsl.jinja_text"

local M = {}

local function fail(line, fmt, ...) error(("template line %d: " .. fmt):format(line, ...), 0) end
M.fail = fail

local function count_lines(s) return select(2, s:gsub("\n", "")) end

-- Literals -----------------------------------------------------------------------------------------------------------

local ESCAPES = { n = "\n", t = "\t", r = "\r", a = "\a", b = "\b", f = "\f", v = "\v", ["\\"] = "\\", ["'"] = "'",
  ['"'] = '"', ["\n"] = "" }
local HEX_DIGITS = { x = 2, u = 4, U = 8 }

--- The value of a string literal's inside: Python's escapes, an unknown one is kept as written.
local function unescape(s, line)
  if not s:find("\\", 1, true) then return s end
  local out, at = {}, 1
  while true do
    local i = s:find("\\", at, true)
    if not i then break end
    out[#out + 1] = s:sub(at, i - 1)
    local c = s:sub(i + 1, i + 1)
    local digits = HEX_DIGITS[c]
    if ESCAPES[c] then
      out[#out + 1], at = ESCAPES[c], i + 2
    elseif digits then
      local hex = s:sub(i + 2, i + 1 + digits)
      local code = #hex == digits and hex:find("^%x+$") and tonumber(hex, 16)
      if not code or code > 0x10FFFF then fail(line, "bad escape \\%s%s in a string", c, hex) end
      out[#out + 1], at = utf8.char(code), i + 2 + digits
    elseif c:find("[0-7]") then
      local oct = s:match("^[0-7][0-7]?[0-7]?", i + 1)
      out[#out + 1], at = utf8.char(tonumber(oct, 8)), i + 1 + #oct
    else
      out[#out + 1], at = "\\" .. c, i + 2
    end
  end
  out[#out + 1] = s:sub(at)
  return table.concat(out)
end

local RADIX = { x = 16, o = 8, b = 2 }

--- The number at byte `at`: its value, kind and the byte after it.
local function number(s, at, line)
  local radix = RADIX[(s:match("^0([xXoObB])", at) or ""):lower()]
  if radix then
    local digits = s:match("^[%x_]+", at + 2) or ""
    local value = tonumber((digits:gsub("_", "")), radix)
    if not value then fail(line, "bad number 0%s%s", s:sub(at + 1, at + 1), digits) end
    return value, "int", at + 2 + #digits
  end
  local whole = s:match("^%d[%d_]*", at)
  local stop = at + #whole
  local fraction = s:match("^%.%d[%d_]*", stop) or ""
  local exponent = s:match("^[eE][-+]?%d[%d_]*", stop + #fraction) or ""
  stop = stop + #fraction + #exponent
  local written = (whole .. fraction .. exponent):gsub("_", "")
  if fraction ~= "" or exponent ~= "" then return tonumber(written) + 0.0, "float", stop end
  local value = math.tointeger(tonumber(written))
  if not value or #written > 19 then fail(line, "the integer %.40s does not fit in 64 bits", written) end
  return value, "int", stop
end

-- Inside a tag -------------------------------------------------------------------------------------------------------

local OPERATORS = {} -- by length, longest first
for _, op in ipairs { "//", "**", "==", "!=", ">=", "<=", "+", "-", "/", "*", "%", "~", "[", "]", "(", ")", "{", "}",
  ">", "<", "=", ".", ":", "|", ",", ";" } do OPERATORS[op] = true end
local CLOSES = { [")"] = "(", ["]"] = "[", ["}"] = "{" }

local Lexer = {}
Lexer.__index = Lexer

function Lexer:add(kind, value) self.tokens[#self.tokens + 1] = { kind = kind, value = value, line = self.line } end

--- Reads tokens until the tag's end, `close` ("%}" or "}}"); returns the byte after the end.
function Lexer:tag(at, close, end_kind)
  local s, open = self.text, {}
  local opened_at = self.line
  while true do
    local blank = s:match("^%s*", at)
    self.line = self.line + count_lines(blank)
    at = at + #blank
    if at > #s then fail(opened_at, "a tag opened here is never closed, expected '%s'", close) end
    if #open == 0 then
      local sign = s:match("^[-+]?", at)
      if s:sub(at + #sign, at + #sign + 1) == close and (sign ~= "+" or close == "%}") then
        self:add(end_kind)
        return self:after(at + #sign + 2, sign, close == "%}")
      end
    end
    local c = s:sub(at, at)
    if c:find("[%a_\x80-\xff]") then
      local name = s:match("^[%w_\x80-\xff]+", at)
      self:add("name", name)
      at = at + #name
    elseif c:find("%d") then
      local value, kind
      value, kind, at = number(s, at, self.line)
      self:add(kind, value)
    elseif c == "'" or c == '"' then
      at = self:string(at, c)
    else
      local op = s:sub(at, at + 1)
      if not OPERATORS[op] then op = c end
      if not OPERATORS[op] then fail(self.line, "unexpected character '%s'", c:find("%c") and "?" or c) end
      if op == "(" or op == "[" or op == "{" then
        open[#open + 1] = op
      elseif CLOSES[op] then
        if table.remove(open) ~= CLOSES[op] then fail(self.line, "unexpected '%s'", op) end
      end
      self:add("op", op)
      at = at + #op
    end
  end
end

function Lexer:string(at, quote)
  local s, stop = self.text, at + 1
  while true do
    stop = s:find("[\\" .. quote .. "]", stop)
    if not stop then fail(self.line, "a string opened here is never closed") end
    if s:sub(stop, stop) == quote then break end
    stop = stop + 2
  end
  local raw = s:sub(at + 1, stop - 1)
  self:add("str", unescape(raw, self.line))
  self.line = self.line + count_lines(raw)
  return stop + 1
end

--- White space after a tag that ends before byte `at`; `trims`: block and comment tags take a line break with them.
function Lexer:after(at, sign, trims)
  local s = self.text
  local stop = at
  if sign == "-" then
    stop = text.skip_space(s, at)
  elseif sign ~= "+" and trims and s:sub(at, at) == "\n" then
    stop = at + 1
  end
  self.line = self.line + count_lines(s:sub(at, stop - 1))
  self.line_start = s:sub(stop - 1, stop - 1) == "\n"
  return stop
end

-- Between tags -------------------------------------------------------------------------------------------------------

--- Adds the text before a tag, stripped as its sign and kind ask.
function Lexer:data(s, sign, lstrips)
  local kept = s
  if sign == "-" then
    kept = text.strip(s, nil, false, true)
  elseif sign ~= "+" and lstrips then
    local line_at = s:match(".*\n()") or 1
    if (line_at > 1 or self.line_start) and text.skip_space(s, line_at) > #s then kept = s:sub(1, line_at - 1) end
  end
  if kept ~= "" then self:add("data", kept) end
  self.line = self.line + count_lines(s)
end

--- A raw block whose opening tag ends before `at`: text up to the endraw tag. Returns the byte after that.
function Lexer:raw(at)
  local s, opened_at = self.text, self.line
  local from = at
  while true do
    local i = s:find("{%", from, true)
    if not i then fail(opened_at, "the raw block opened here is never closed") end
    local sign, end_sign, stop = s:match("^([-+]?)%s*endraw%s*([-+]?)%%}()", i + 2)
    if sign then
      self:data(s:sub(at, i - 1), sign, true)
      self.line = self.line + count_lines(s:sub(i, stop - 1))
      return self:after(stop, end_sign, true)
    end
    from = i + 2
  end
end

--- @param source string the template
--- @return table[] tokens
function M.lex(source)
  source = source:gsub("\r\n", "\n"):gsub("\r", "\n"):gsub("\n$", "")
  local lexer = setmetatable({ text = source, tokens = {}, line = 1, line_start = true }, Lexer)
  local at = 1
  while true do
    local i = at
    repeat -- the next "{" that opens a tag
      i = source:find("{", i, true)
      local c = i and source:sub(i + 1, i + 1)
      local opens = c == "%" or c == "{" or c == "#"
      if i and not opens then i = i + 1 end
    until not i or opens
    if not i then break end
    local opener = source:sub(i, i + 1)
    local sign = source:match("^[-+]?", i + 2)
    lexer:data(source:sub(at, i - 1), sign, opener ~= "{{")
    at = i + 2 + #sign
    local raw_sign, raw_stop = source:match("^%s*raw%s*(%-?)%%}()", at)
    if opener == "{#" then
      local stop = source:find("#}", at, true)
      if not stop then fail(lexer.line, "the comment opened here is never closed") end
      local end_sign = stop > at and source:match("^[-+]", stop - 1) or ""
      lexer.line = lexer.line + count_lines(source:sub(at, stop))
      at = lexer:after(stop + 2, end_sign, true)
    elseif opener == "{%" and raw_stop then
      lexer.line = lexer.line + count_lines(source:sub(at, raw_stop - 1))
      at = lexer:raw(lexer:after(raw_stop, raw_sign, false))
    elseif opener == "{%" then
      lexer:add("block_begin")
      at = lexer:tag(at, "%}", "block_end")
    else
      lexer:add("variable_begin")
      at = lexer:tag(at, "}}", "variable_end")
    end
  end
  lexer:data(source:sub(at), "+", false)
  lexer:add("eof")
  return lexer.tokens
end

return M
