--- Syntax tree of a chat template: Jinja2's grammar by recursive descent, nesting bounded.
--
-- parse(text, max_depth) returns a block: an array of statements. Every node is {kind =, line =, …}:
--   statements   text(value) print(expr) if(arms = {{test, body}…}, orelse) for(target, iter, test, body, orelse,
--                recursive) set(target, value) set_block(target, filters, body) with(names, values, body)
--                macro(name, params, body) call_block(params, call, body) filter_block(filters, body) scope(body)
--                break continue
--   expressions  const(value) name(name) list(items) tuple(items) dict(keys, values) cond(test, yes, no) and or
--                not(a) neg(a) pos(a) compare(first, rest = {{op, expr}…}) concat(items) binary(op, a, b)
--                attr(a, name) item(a, key) slice(a, first, last, step) call(fn, args) filter(a, name, args)
--                test(a, name, args)
--   targets      name, tuple (of targets), nsattr(name, attr)
--   args         {n = count, [1..n] positional, kw = {{name, expr}…}, star, star2}
--   params       {n = count, [i] = {name, default or nil}}

local lexer = require "dsl.jinja_lex"
local value = require "dsl.jinja_value"

local M = {}

local Parser = {}
Parser.__index = Parser

-- Tokens -------------------------------------------------------------------------------------------------------------

local END_TEXT = { block_end = "%}", variable_end = "}}", block_begin = "{%", variable_begin = "{{",
  data = "text", eof = "the end of the template" }

local function shown(token)
  local s = END_TEXT[token.kind] or tostring(token.value)
  return #s > 40 and s:sub(1, 40) .. "…" or s
end

function Parser:fail(fmt, ...) lexer.fail(self.token.line, fmt, ...) end

function Parser:advance()
  local token = self.token
  self.at = self.at + 1
  self.token = self.tokens[self.at] or token
  return token
end

function Parser:is(kind, val) return self.token.kind == kind and (val == nil or self.token.value == val) end
function Parser:is_op(op) return self.token.kind == "op" and self.token.value == op end
function Parser:is_name(name) return self.token.kind == "name" and self.token.value == name end

function Parser:accept(kind, val)
  if self:is(kind, val) then return self:advance() end
  return nil
end

function Parser:expect(kind, val)
  if not self:is(kind, val) then
    self:fail("expected '%s', found '%s'", val or END_TEXT[kind] or kind, shown(self.token))
  end
  return self:advance()
end

--- Every recursion of the grammar passes here.
function Parser:nest(rule, ...)
  self.depth = self.depth + 1
  if self.depth > self.max_depth then self:fail("nested deeper than %d levels", self.max_depth) end
  local node = rule(self, ...)
  self.depth = self.depth - 1
  return node
end

function Parser:node(kind, fields)
  fields = fields or {}
  fields.kind, fields.line = kind, fields.line or self.token.line
  return fields
end

-- Expressions, loosest first -----------------------------------------------------------------------------------------

function Parser:expression() return self:nest(self.conditional) end

function Parser:conditional()
  local node = self:disjunction()
  while self:is_name("if") do
    local line = self:advance().line
    local test, no = self:disjunction(), nil
    if self:accept("name", "else") then no = self:expression() end
    node = self:node("cond", { test = test, yes = node, no = no, line = line })
  end
  return node
end

function Parser:disjunction()
  local node = self:conjunction()
  while self:is_name("or") do
    local line = self:advance().line
    node = self:node("or", { a = node, b = self:conjunction(), line = line })
  end
  return node
end

function Parser:conjunction()
  local node = self:negation()
  while self:is_name("and") do
    local line = self:advance().line
    node = self:node("and", { a = node, b = self:negation(), line = line })
  end
  return node
end

function Parser:negation()
  if not self:is_name("not") then return self:comparison() end
  local line = self:advance().line
  return self:node("not", { a = self:nest(self.negation), line = line })
end

local COMPARISONS = { ["=="] = true, ["!="] = true, ["<"] = true, ["<="] = true, [">"] = true, [">="] = true }

function Parser:comparison()
  local first, rest, line = self:sum(), {}, self.token.line
  while true do
    local op
    if self.token.kind == "op" and COMPARISONS[self.token.value] then
      op = self:advance().value
    elseif self:accept("name", "in") then
      op = "in"
    elseif self:is_name("not") and (self.tokens[self.at + 1] or {}).value == "in" then
      self:advance()
      self:advance()
      op = "not in"
    else
      break
    end
    rest[#rest + 1] = { op, self:sum() }
  end
  if #rest == 0 then return first end
  return self:node("compare", { first = first, rest = rest, line = line })
end

--- A level of left-associative binary operators.
local function binary_level(ops, operand)
  return function(self)
    local node = self[operand](self)
    while self.token.kind == "op" and ops[self.token.value] do
      local token = self:advance()
      node = self:node("binary", { op = token.value, a = node, b = self[operand](self), line = token.line })
    end
    return node
  end
end

Parser.sum = binary_level({ ["+"] = true, ["-"] = true }, "concatenation")

function Parser:concatenation()
  local line = self.token.line
  local items = { self:product() }
  while self:accept("op", "~") do items[#items + 1] = self:product() end
  return #items == 1 and items[1] or self:node("concat", { items = items, line = line })
end

Parser.product = binary_level({ ["*"] = true, ["/"] = true, ["//"] = true, ["%"] = true }, "power")
Parser.power = binary_level({ ["**"] = true }, "signed")

function Parser:signed() return self:nest(self.unary, true) end

function Parser:unary(with_filters)
  local node
  local line = self.token.line
  if self:accept("op", "-") then
    node = self:node("neg", { a = self:nest(self.unary, false), line = line })
  elseif self:accept("op", "+") then
    node = self:node("pos", { a = self:nest(self.unary, false), line = line })
  else
    node = self:primary()
  end
  node = self:postfix(node)
  return with_filters and self:filters_and_tests(node) or node
end

local CONSTANTS = { ["true"] = true, True = true, ["false"] = false, False = false, none = value.none,
  None = value.none }

function Parser:primary()
  local token = self.token
  if token.kind == "name" then
    self:advance()
    if CONSTANTS[token.value] ~= nil then
      return self:node("const", { value = CONSTANTS[token.value], line = token.line })
    end
    return self:node("name", { name = token.value, line = token.line })
  elseif token.kind == "str" then
    local parts = {}
    while self:is("str") do parts[#parts + 1] = self:advance().value end
    return self:node("const", { value = table.concat(parts), line = token.line })
  elseif token.kind == "int" or token.kind == "float" then
    self:advance()
    return self:node("const", { value = token.value, line = token.line })
  elseif self:accept("op", "(") then
    local node = self:tuple(true)
    self:expect("op", ")")
    return node
  elseif self:accept("op", "[") then
    local items = {}
    while not self:is_op("]") do
      items[#items + 1] = self:expression()
      if not self:accept("op", ",") then break end
    end
    self:expect("op", "]")
    return self:node("list", { items = items, line = token.line })
  elseif self:accept("op", "{") then
    local keys, values = {}, {}
    while not self:is_op("}") do
      keys[#keys + 1] = self:expression()
      self:expect("op", ":")
      values[#values + 1] = self:expression()
      if not self:accept("op", ",") then break end
    end
    self:expect("op", "}")
    return self:node("dict", { keys = keys, values = values, line = token.line })
  end
  return self:fail("expected an expression, found '%s'", shown(token))
end

--- a, b, …: one expression, or a tuple when there is a comma. `in_parentheses` allows the empty tuple.
function Parser:tuple(in_parentheses, without_condition)
  local line, items, comma = self.token.line, {}, false
  while true do
    local token = self.token
    if #items > 0 or in_parentheses then
      local ends = token.kind == "block_end" or token.kind == "variable_end" or self:is_op(")") or self:is_name("in")
      if ends then break end
    end
    items[#items + 1] = without_condition and self:nest(self.disjunction) or self:expression()
    if not self:accept("op", ",") then break end
    comma = true
  end
  if #items == 1 and not comma then return items[1] end
  return self:node("tuple", { items = items, line = line })
end

function Parser:postfix(node)
  while self.token.kind == "op" do
    local line = self.token.line
    if self:accept("op", ".") then
      if self:is("int") then
        node = self:node("item", { a = node, key = self:node("const", { value = self:advance().value }), line = line })
      else
        node = self:node("attr", { a = node, name = self:expect("name").value, line = line })
      end
    elseif self:accept("op", "[") then
      node = self:subscript(node, line)
      self:expect("op", "]")
    elseif self:is_op("(") then
      node = self:node("call", { fn = node, args = self:arguments(), line = line })
    else
      break
    end
  end
  return node
end

function Parser:subscript(node, line)
  local parts, colons = {}, 0
  while not self:is_op("]") do
    if self:accept("op", ":") then
      colons = colons + 1
      if colons > 2 then self:fail("a slice has at most two ':'") end
    else
      if parts[colons] then self:fail("expected ']', found '%s'", shown(self.token)) end
      parts[colons] = self:expression()
    end
  end
  if colons > 0 then
    return self:node("slice", { a = node, first = parts[0], last = parts[1], step = parts[2], line = line })
  end
  if not parts[0] then self:fail("expected an index, found ']'") end
  return self:node("item", { a = node, key = parts[0], line = line })
end

function Parser:arguments()
  local args = { n = 0, kw = {} }
  self:expect("op", "(")
  while not self:is_op(")") do
    local following = self.tokens[self.at + 1]
    if self:accept("op", "*") then
      args.star = self:expression()
    elseif self:accept("op", "**") then
      args.star2 = self:expression()
    elseif self:is("name") and following and following.kind == "op" and following.value == "=" then
      local name = self:advance().value
      self:advance()
      args.kw[#args.kw + 1] = { name, self:expression() }
    else
      if #args.kw > 0 then self:fail("a positional argument follows a named one") end
      args.n = args.n + 1
      args[args.n] = self:expression()
    end
    if not self:accept("op", ",") then break end
  end
  self:expect("op", ")")
  return args
end

function Parser:dotted_name()
  local name = self:expect("name").value
  while self:accept("op", ".") do name = name .. "." .. self:expect("name").value end
  return name
end

--- What a test's single argument without parentheses may begin with.
local function begins_argument(token)
  if token.kind == "name" then
    return not (token.value == "else" or token.value == "or" or token.value == "and" or token.value == "is"
      or token.value == "if" or token.value == "in" or token.value == "not")
  end
  return token.kind == "str" or token.kind == "int" or token.kind == "float"
    or (token.kind == "op" and (token.value == "(" or token.value == "[" or token.value == "{"))
end

function Parser:filters_and_tests(node)
  while true do
    local line = self.token.line
    if self:is_op("|") then
      node = self:filter(node)
    elseif self:accept("name", "is") then
      local negated = self:accept("name", "not")
      local name = self:dotted_name()
      local args = { n = 0, kw = {} }
      if self:is_op("(") then
        args = self:arguments()
      elseif begins_argument(self.token) then
        args = { n = 1, kw = {}, self:nest(function(p) return p:postfix(p:primary()) end) }
      end
      node = self:node("test", { a = node, name = name, args = args, line = line })
      if negated then node = self:node("not", { a = node, line = line }) end
    elseif self:is_op("(") then
      node = self:node("call", { fn = node, args = self:arguments(), line = line })
    else
      return node
    end
  end
end

function Parser:filter(node)
  local line = self:expect("op", "|").line
  local name = self:dotted_name()
  local args = self:is_op("(") and self:arguments() or { n = 0, kw = {} }
  return self:node("filter", { a = node, name = name, args = args, line = line })
end

-- Statements ---------------------------------------------------------------------------------------------------------

--- Statements up to a tag named in `ends`; leaves the parser after that tag's name and returns it too.
function Parser:body(ends, opener_line, opener)
  local out = {}
  while true do
    local token = self:advance()
    if token.kind == "eof" then
      if ends then lexer.fail(opener_line, "the '%s' block opened here is never closed", opener) end
      return out
    elseif token.kind == "data" then
      out[#out + 1] = self:node("text", { value = token.value, line = token.line })
    elseif token.kind == "variable_begin" then
      out[#out + 1] = self:node("print", { expr = self:tuple(false), line = token.line })
      self:expect("variable_end")
    else -- block_begin
      local name = self:expect("name").value
      if ends and ends[name] then return out, name end
      local statement = self["tag_" .. name]
      if not statement then
        lexer.fail(token.line, "%s '%s'", name:find("^end") and "nothing is open for" or "unknown tag", name)
      end
      out[#out + 1] = self:nest(statement, token.line)
    end
  end
end

function Parser:block_body(ends, line, opener)
  self:expect("block_end")
  return self:body(ends, line, opener)
end

--- The body up to {% endNAME %}, and the end of that tag.
function Parser:closed_body(line, opener)
  local body = self:block_body({ ["end" .. opener] = true }, line, opener)
  self:expect("block_end")
  return body
end

function Parser:target(one_name)
  local line, items = self.token.line, {}
  local comma = false
  repeat
    if #items > 0 and not (self:is("name") or self:is_op("(")) then break end
    local item_line = self.token.line
    if self:accept("op", "(") then
      items[#items + 1] = self:nest(self.target)
      self:expect("op", ")")
    else
      local name = self:expect("name").value
      if CONSTANTS[name] ~= nil then lexer.fail(item_line, "cannot assign to '%s'", name) end
      if one_name and self:accept("op", ".") then
        items[#items + 1] = self:node("nsattr", { name = name, attr = self:expect("name").value, line = item_line })
      else
        items[#items + 1] = self:node("name", { name = name, line = item_line })
      end
    end
    local more = self:accept("op", ",")
    comma = comma or more ~= nil
  until not more
  return comma and self:node("tuple", { items = items, line = line }) or items[1]
end

function Parser:tag_if(line)
  local arms, ends = {}, { ["elif"] = true, ["else"] = true, ["endif"] = true }
  local orelse, stop
  repeat
    local test = self:tuple(false)
    local body
    body, stop = self:block_body(ends, line, "if")
    arms[#arms + 1] = { test, body }
  until stop ~= "elif"
  if stop == "else" then orelse = self:block_body({ endif = true }, line, "if") end
  self:expect("block_end")
  return self:node("if", { arms = arms, orelse = orelse, line = line })
end

function Parser:tag_for(line)
  local target = self:target()
  self:expect("name", "in")
  local iter = self:tuple(false, true)
  local test = self:accept("name", "if") and self:expression() or nil
  local recursive = self:accept("name", "recursive") ~= nil
  self.loops = self.loops + 1
  local body, stop = self:block_body({ endfor = true, ["else"] = true }, line, "for")
  self.loops = self.loops - 1
  local orelse = stop == "else" and self:block_body({ endfor = true }, line, "for") or nil
  self:expect("block_end")
  return self:node("for", { target = target, iter = iter, test = test, recursive = recursive, body = body,
    orelse = orelse, line = line })
end

function Parser:jump(kind, line)
  if self.loops == 0 then lexer.fail(line, "'%s' outside of a loop", kind) end
  self:expect("block_end")
  return self:node(kind, { line = line })
end

function Parser:tag_break(line) return self:jump("break", line) end
function Parser:tag_continue(line) return self:jump("continue", line) end

function Parser:filters()
  local filters = {}
  while self:is_op("|") do filters[#filters + 1] = self:filter(nil) end
  return filters
end

function Parser:tag_set(line)
  local target = self:target(true)
  if self:accept("op", "=") then
    local val = self:tuple(false)
    self:expect("block_end")
    return self:node("set", { target = target, value = val, line = line })
  end
  local filters = self:filters()
  return self:node("set_block", { target = target, filters = filters, body = self:closed_body(line, "set"),
    line = line })
end

function Parser:tag_with(line)
  local targets, values = {}, {}
  while not self:is("block_end") do
    if #targets > 0 then self:expect("op", ",") end
    targets[#targets + 1] = self:node("name", { name = self:expect("name").value })
    self:expect("op", "=")
    values[#values + 1] = self:expression()
  end
  return self:node("with", { targets = targets, values = values, body = self:closed_body(line, "with"), line = line })
end

function Parser:parameters()
  local params = { n = 0 }
  self:expect("op", "(")
  while not self:is_op(")") do
    local name = self:expect("name").value
    local default = self:accept("op", "=") and self:expression() or nil
    if not default and params.n > 0 and params[params.n][2] then
      self:fail("the parameter '%s' without a default follows one with", name)
    end
    params.n = params.n + 1
    params[params.n] = { name, default }
    if not self:accept("op", ",") then break end
  end
  self:expect("op", ")")
  return params
end

--- A macro's or call's body: loops around it are not its own.
function Parser:function_body(line, opener)
  local loops = self.loops
  self.loops = 0
  local body = self:closed_body(line, opener)
  self.loops = loops
  return body
end

function Parser:tag_macro(line)
  local name = self:expect("name").value
  local params = self:parameters()
  return self:node("macro", { name = name, params = params, body = self:function_body(line, "macro"), line = line })
end

function Parser:tag_call(line)
  local params = self:is_op("(") and self:parameters() or { n = 0 }
  local call = self:expression()
  if call.kind ~= "call" then lexer.fail(line, "the tag 'call' needs a macro call") end
  return self:node("call_block", { params = params, call = call, body = self:function_body(line, "call"),
    line = line })
end

function Parser:tag_filter(line)
  local name_line = self.token.line
  local name = self:dotted_name()
  local args = self:is_op("(") and self:arguments() or { n = 0, kw = {} }
  local filters = { self:node("filter", { name = name, args = args, line = name_line }) }
  for _, filter in ipairs(self:filters()) do filters[#filters + 1] = filter end
  return self:node("filter_block", { filters = filters, body = self:closed_body(line, "filter"), line = line })
end

--- {% generation %} marks what an assistant wrote, for training masks: its text is text.
function Parser:tag_generation(line)
  return self:node("scope", { body = self:closed_body(line, "generation"), line = line })
end

--- @param source string the template
--- @param max_depth integer nesting of expressions and blocks that is accepted
--- @return table block
function M.parse(source, max_depth)
  local tokens = lexer.lex(source)
  local parser = setmetatable({ tokens = tokens, at = 1, token = tokens[1], depth = 0, max_depth = max_depth,
    loops = 0 }, Parser)
  return (parser:body(nil))
end

return M
