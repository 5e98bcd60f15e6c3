--- Runs the syntax tree of jinja_parse under the limits of jinja_state.
--
-- Scopes are as in Jinja2: loop bodies, macros, `with` and captured blocks have their own, `if` has none.

local value = require "dsl.jinja_value"
local methods = require "dsl.jinja_methods"
local filters = require "dsl.jinja_filters"
local state = require "dsl.jinja_state"

local M = {}

local NO_ARGS, NO_KW = { n = 0 }, value.new_map()
local MAX_RANGE = 100000 -- as Jinja2's sandbox

-- Scopes and output --------------------------------------------------------------------------------------------------

local function lookup(st, name)
  local scope = st.scope
  repeat
    local v = scope.vars[name]
    if v ~= nil then return v end
    scope = scope.parent
  until not scope
  return value.undefined(name)
end

local eval, exec -- (st, node) and (st, block)

--- Runs fn in a scope of its own, whose parent is `parent`.
local function scoped(st, parent, fn)
  local outer = st.scope
  st.scope = { vars = {}, parent = parent }
  local result = fn()
  st.scope = outer
  return result
end

--- The text that fn writes.
local function captured(st, fn)
  local out, bytes = st.out, st.out_bytes
  st.out, st.out_bytes = { n = 0 }, 0
  fn()
  local s = table.concat(st.out)
  st.out, st.out_bytes = out, bytes
  st:grow(#s)
  return s
end

-- Expressions --------------------------------------------------------------------------------------------------------

local COMPARE = {
  ["=="] = value.equal,
  ["!="] = function(st, a, b) return not value.equal(st, a, b) end,
  ["<"] = value.less,
  [">"] = function(st, a, b) return value.less(st, b, a) end,
  ["<="] = function(st, a, b) return value.less(st, a, b) or value.equal(st, a, b) end,
  [">="] = function(st, a, b) return value.less(st, b, a) or value.equal(st, a, b) end,
  ["in"] = function(st, a, b) return st:contains(b, a) end,
  ["not in"] = function(st, a, b) return not st:contains(b, a) end,
}

local EVAL = {}

function EVAL.const(_, node) return node.value end
function EVAL.name(st, node) return lookup(st, node.name) end

local function eval_all(st, nodes)
  local out = { n = #nodes }
  for i = 1, #nodes do out[i] = eval(st, nodes[i]) end
  return out
end

function EVAL.list(st, node) return value.new_list(eval_all(st, node.items)) end
function EVAL.tuple(st, node) return value.new_tuple(eval_all(st, node.items)) end

function EVAL.dict(st, node)
  local map = value.new_map()
  for i, key_node in ipairs(node.keys) do
    local key = eval(st, key_node)
    if not value.put(map, key, eval(st, node.values[i])) then
      st:fail("a %s cannot be a key", value.type_name(key))
    end
  end
  return map
end

function EVAL.cond(st, node)
  if value.truthy(eval(st, node.test)) then return eval(st, node.yes) end
  if node.no then return eval(st, node.no) end
  return value.undefined("the missing else")
end

EVAL["and"] = function(st, node)
  local a = eval(st, node.a)
  if value.truthy(a) then return eval(st, node.b) end
  return a
end
EVAL["or"] = function(st, node)
  local a = eval(st, node.a)
  if value.truthy(a) then return a end
  return eval(st, node.b)
end
EVAL["not"] = function(st, node) return not value.truthy(eval(st, node.a)) end

local function signed(st, node, sign)
  local v = eval(st, node.a)
  local n = value.number(v)
  if not n then st:fail("'%s' needs a number, found %s", sign < 0 and "-" or "+", value.type_name(v)) end
  return sign < 0 and -n or n
end
function EVAL.neg(st, node) return signed(st, node, -1) end
function EVAL.pos(st, node) return signed(st, node, 1) end

function EVAL.compare(st, node)
  local a = eval(st, node.first)
  for _, step in ipairs(node.rest) do
    local b = eval(st, step[2])
    st.line = node.line
    if not COMPARE[step[1]](st, a, b) then return false end
    a = b
  end
  return true
end

function EVAL.concat(st, node)
  local parts, bytes = {}, 0
  for i, item in ipairs(node.items) do
    parts[i] = value.str(st, eval(st, item))
    bytes = bytes + #parts[i]
    st:check_bytes(bytes)
  end
  st:grow(bytes)
  return table.concat(parts)
end

function EVAL.binary(st, node)
  local a, b = eval(st, node.a), eval(st, node.b)
  st.line = node.line
  return st:binary(node.op, a, b)
end

function EVAL.attr(st, node)
  local a = eval(st, node.a)
  st.line = node.line
  return methods.attribute(st, a, node.name)
end

function EVAL.item(st, node)
  local a, key = eval(st, node.a), eval(st, node.key)
  st.line = node.line
  return methods.item(st, a, key)
end

function EVAL.slice(st, node)
  local a = eval(st, node.a)
  local first = node.first and eval(st, node.first)
  local last = node.last and eval(st, node.last)
  local step = node.step and eval(st, node.step)
  st.line = node.line
  return methods.slice(st, a, first, last, step)
end

--- Evaluates a call's arguments: positional as an array with n, named as a Map.
local function arguments(st, spec)
  if spec.n == 0 and #spec.kw == 0 and not spec.star and not spec.star2 then return NO_ARGS, NO_KW end
  local args, kw = { n = spec.n }, value.new_map()
  for i = 1, spec.n do args[i] = eval(st, spec[i]) end
  if spec.star then
    local more = value.elements(st, eval(st, spec.star))
    table.move(more, 1, more.n, args.n + 1, args)
    args.n = args.n + more.n
    -- positional arguments are passed on Lua's stack
    if args.n > 200 then st:fail("%d arguments in a call are too many", args.n) end
  end
  for _, pair in ipairs(spec.kw) do value.put(kw, pair[1], eval(st, pair[2])) end
  if spec.star2 then
    local more = eval(st, spec.star2)
    if not value.is_map(more) then st:fail("'**' needs a mapping, found %s", value.type_name(more)) end
    for i = 1, more.n do value.put(kw, more.keys[i], more.vals[i]) end
  end
  return args, kw
end

function EVAL.call(st, node)
  local fn = eval(st, node.fn)
  local args, kw = arguments(st, node.args)
  st.line = node.line
  if value.is_undefined(fn) then st:fail("'%s' is undefined, it cannot be called", fn.name) end
  if getmetatable(fn) ~= value.Callable or not fn.call then
    st:fail("a value of type %s cannot be called", value.type_name(fn))
  end
  return fn.call(st, args, kw)
end

function EVAL.filter(st, node)
  local v = eval(st, node.a)
  local args, kw = arguments(st, node.args)
  st.line = node.line
  return filters.filter(st, node.name, v, args, kw)
end

function EVAL.test(st, node)
  local v = eval(st, node.a)
  local args, kw = arguments(st, node.args)
  st.line = node.line
  return filters.test(st, node.name, v, args, kw)
end

--- Counts the nesting of a construct that runs `fn`.
local function deeper(st, fn, node)
  local depth = st.depth + 1
  if depth > st.max_depth then st:fail("nested deeper than %d levels: a recursion without end?", st.max_depth) end
  st.depth = depth
  local result = fn(st, node)
  st.depth = depth - 1
  return result
end

function eval(st, node)
  st.line = node.line
  st:spend(1)
  return deeper(st, EVAL[node.kind], node)
end

-- Statements: each returns nil, "break" or "continue" ----------------------------------------------------------------

local EXEC = {}

function EXEC.text(st, node) st:emit(node.value) end
function EXEC.print(st, node) st:emit(value.str(st, eval(st, node.expr))) end
EXEC["break"] = function() return "break" end
EXEC["continue"] = function() return "continue" end

EXEC["if"] = function(st, node)
  for _, arm in ipairs(node.arms) do
    if value.truthy(eval(st, arm[1])) then return exec(st, arm[2]) end
  end
  return node.orelse and exec(st, node.orelse)
end

local function assign(st, target, v)
  if target.kind == "name" then
    st.scope.vars[target.name] = v
  elseif target.kind == "nsattr" then
    local ns = lookup(st, target.name)
    if getmetatable(ns) ~= value.Namespace then
      st:fail("'%s' is no namespace, its attributes cannot be set", target.name)
    end
    ns.vars[target.attr] = v
  else
    local items = value.elements(st, v)
    if items.n ~= #target.items then st:fail("expected %d values to unpack, found %d", #target.items, items.n) end
    for i, item in ipairs(target.items) do assign(st, item, items[i]) end
  end
end

function EXEC.set(st, node) assign(st, node.target, eval(st, node.value)) end

local function filtered(st, s, chain)
  for _, f in ipairs(chain) do
    local args, kw = arguments(st, f.args)
    st.line = f.line
    s = filters.filter(st, f.name, s, args, kw)
  end
  return s
end

--- What a body writes, in a scope of its own.
local function block_text(st, body)
  return captured(st, function()
    scoped(st, st.scope, function() exec(st, body) end)
  end)
end

function EXEC.set_block(st, node) assign(st, node.target, filtered(st, block_text(st, node.body), node.filters)) end

function EXEC.filter_block(st, node)
  st:emit(value.str(st, filtered(st, block_text(st, node.body), node.filters)))
end

function EXEC.scope(st, node)
  return scoped(st, st.scope, function() return exec(st, node.body) end)
end

EXEC["with"] = function(st, node)
  local values = eval_all(st, node.values)
  return scoped(st, st.scope, function()
    for i, target in ipairs(node.targets) do assign(st, target, values[i]) end
    return exec(st, node.body)
  end)
end

-- Macros

--- A callable with its own scope: parameters, varargs, kwargs and caller; it returns the text of `body`.
local function macro(st_defining, name, params, body)
  local home = st_defining.scope
  local self = value.callable("macro " .. name, function(st, args, kw)
    local line = st.line
    local result = captured(st, function()
      scoped(st, home, function()
        local vars = st.scope.vars
        local extra, known = value.new_map(), { caller = true }
        for i = 1, params.n do
          local param, default = params[i][1], params[i][2]
          known[param] = true
          local v = args[i]
          local by_name = value.get(kw, param)
          if v ~= nil and by_name ~= nil then st:fail("the macro '%s' is given '%s' twice", name, param) end
          if v == nil then v = by_name end
          if v == nil then v = default and eval(st, default) or value.undefined(param) end
          vars[param] = v
        end
        for i = 1, kw.n do
          if not known[kw.keys[i]] then value.put(extra, kw.keys[i], kw.vals[i]) end
        end
        local caller = value.get(kw, "caller")
        if caller ~= nil then vars.caller = caller end
        vars.kwargs = extra
        local n = math.max(0, args.n - params.n)
        vars.varargs = value.new_tuple(table.move(args, params.n + 1, args.n, 1, { n = n }))
        exec(st, body)
      end)
    end)
    st.line = line
    return result
  end)
  self.vars = { name = name }
  return self
end

function EXEC.macro(st, node) st.scope.vars[node.name] = macro(st, node.name, node.params, node.body) end

function EXEC.call_block(st, node)
  local caller = macro(st, "caller", node.params, node.body)
  local fn = eval(st, node.call.fn)
  local args, given = arguments(st, node.call.args)
  st.line = node.line
  if getmetatable(fn) ~= value.Callable or not fn.call then
    st:fail("a value of type %s cannot be called", value.type_name(fn))
  end
  local kw = value.new_map()
  for i = 1, given.n do value.put(kw, given.keys[i], given.vals[i]) end
  value.put(kw, "caller", caller)
  st:emit(value.str(st, fn.call(st, args, kw)))
end

-- Loops

--- The `loop` variable: attributes that change with each turn, and cycle(), changed(), loop(list) of recursive loops.
local function loop_variable(node, items, depth, again)
  local loop = value.callable("loop", node.recursive and function(st, args)
    return captured(st, function() again(st, args[1] == nil and value.undefined("items") or args[1], depth + 1) end)
  end or nil)
  local last
  loop.vars = {
    length = items.n,
    depth = depth,
    depth0 = depth - 1,
    cycle = value.callable("cycle", function(st, args)
      if args.n == 0 then st:fail("cycle needs values") end
      return args[loop.vars.index0 % args.n + 1]
    end),
    changed = value.callable("changed", function(st, args)
      local now = value.new_tuple(table.move(args, 1, args.n, 1, { n = args.n }))
      local same = last and value.equal(st, last, now)
      last = now
      return not same
    end),
  }
  return loop
end

local function turn(vars, items, i)
  vars.index, vars.index0 = i, i - 1
  vars.revindex, vars.revindex0 = items.n - i + 1, items.n - i
  vars.first, vars.last = i == 1, i == items.n
  vars.previtem = items[i - 1] ~= nil and items[i - 1] or value.undefined("previtem")
  vars.nextitem = items[i + 1] ~= nil and items[i + 1] or value.undefined("nextitem")
  if items[i - 1] == false then vars.previtem = false end
  if items[i + 1] == false then vars.nextitem = false end
end

local function run_loop(st, node, iterable, depth)
  local home = st.scope
  local all = value.elements(st, iterable)
  -- a copy: the body may append to the list
  local items = { n = 0 }
  for i = 1, all.n do
    local keep = true
    if node.test then
      keep = scoped(st, home, function()
        assign(st, node.target, all[i])
        return value.truthy(eval(st, node.test))
      end)
    end
    if keep then
      items.n = items.n + 1
      items[items.n] = all[i]
    end
  end
  st:spend(all.n)
  local loop = loop_variable(node, items, depth, function(inner_st, inner, inner_depth)
    deeper(inner_st, function() run_loop(inner_st, node, inner, inner_depth) end)
  end)
  for i = 1, items.n do
    turn(loop.vars, items, i)
    local jump = scoped(st, home, function()
      st.line = node.line
      assign(st, node.target, items[i])
      st.scope.vars.loop = loop
      return exec(st, node.body)
    end)
    st:spend(1)
    if jump == "break" then break end
  end
  if items.n == 0 and node.orelse then
    return scoped(st, home, function() return exec(st, node.orelse) end)
  end
  return nil
end

EXEC["for"] = function(st, node) return run_loop(st, node, eval(st, node.iter), 1) end

function exec(st, block)
  for _, node in ipairs(block) do
    st.line = node.line
    st:spend(1)
    local jump = deeper(st, EXEC[node.kind], node)
    if jump then return jump end
  end
  return nil
end

-- Globals ------------------------------------------------------------------------------------------------------------

local GLOBALS = {}

local function global(name, call) GLOBALS[name] = value.callable(name, call) end

global("raise_exception", function(st, args)
  return st:fail("the template refuses: %s", args.n > 0 and value.str(st, args[1]) or "no reason given")
end)

global("range", function(st, args)
  if args.n < 1 or args.n > 3 then st:fail("range takes 1 to 3 arguments, %d given", args.n) end
  local first = args.n > 1 and methods.integer(st, args[1], nil, "range's start") or 0
  local last = methods.integer(st, args[math.min(args.n, 2)], nil, "range's end")
  local step = methods.integer(st, args[3], 1, "range's step")
  if step == 0 then st:fail("range's step is zero") end
  local out = { n = 0 }
  for i = first, step > 0 and last - 1 or last + 1, step do
    if out.n == MAX_RANGE then st:fail("a range has more than %d elements", MAX_RANGE) end
    out.n = out.n + 1
    out[out.n] = i
  end
  st:spend(out.n)
  return value.new_list(out)
end)

--- dict(mapping or pairs, **named).
local function dict(st, args, kw)
  local out = value.new_map()
  local from = args[1]
  if from ~= nil and value.is_map(from) then
    for i = 1, from.n do value.put(out, from.keys[i], from.vals[i]) end
  elseif from ~= nil then
    local items = value.elements(st, from)
    for i = 1, items.n do
      local pair = value.elements(st, items[i])
      if pair.n ~= 2 then st:fail("dict: element %d is no pair", i - 1) end
      if not value.put(out, pair[1], pair[2]) then st:fail("a %s cannot be a key", value.type_name(pair[1])) end
    end
  end
  for i = 1, kw.n do value.put(out, kw.keys[i], kw.vals[i]) end
  st:spend(out.n)
  return out
end
global("dict", dict)

global("namespace", function(st, args, kw)
  local given, vars = dict(st, args, kw), {}
  for i = 1, given.n do
    if type(given.keys[i]) == "string" then vars[given.keys[i]] = given.vals[i] end
  end
  return setmetatable({ vars = vars }, value.Namespace)
end)

global("joiner", function(st, args)
  local sep, used = args[1] == nil and ", " or value.str(st, args[1]), false
  return value.callable("joiner", function()
    if used then return sep end
    used = true
    return ""
  end)
end)

-- Rendering ----------------------------------------------------------------------------------------------------------

--- Runs `block` with `context` (name -> template value).
--- @param block table what jinja_parse.parse returned
--- @param context table<string, any>
--- @param limits {steps: integer, depth: integer, bytes: integer}
--- @return string
function M.run(block, context, limits)
  -- three scopes: what Jinja gives, what the caller gives, what the template sets
  local st = state.new(limits, { vars = {}, parent = { vars = context, parent = { vars = GLOBALS } } })
  exec(st, block)
  return table.concat(st.out)
end

return M
