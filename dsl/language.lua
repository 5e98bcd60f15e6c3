-- The language kernels are written in: what kernels.lua sees, and the tracing of a kernel's body into expressions.
--
-- A body is run once per specialization. Device loops (`each`) run their body once with a symbolic index; arrays are
-- indexed by expressions; a store records (array, indices, value, enclosing axes). Nothing is mutated, so the order of
-- statements carries no meaning beyond naming.

local E = require "dsl.expr"
local formats = require "dsl.formats"
local check = require "dsl.check"

local M = {}

local T -- the trace in progress

-- Errors name the kernel and the line of the file it stands in.
local function user_line()
  for level = 3, 30 do
    local info = debug.getinfo(level, "Sl")
    if not info then return nil end
    if info.source:match("kernels%.lua$") or info.source:match("^@user:") then
      return info.source:gsub("^@user:", ""):gsub("^@", "") .. ":" .. info.currentline
    end
  end
end

local function at_user_line()
  local where = user_line()
  return where and where .. ": " or ""
end

local function fail(fmt, ...)
  local msg = select("#", ...) > 0 and fmt:format(...) or fmt
  local where = user_line()
  where = where and where .. ": " or T and T.where or ""
  error(where .. (T and "kernel '" .. T.name .. "': " or "") .. msg, 0)
end
E.fail = fail
M.fail = fail

-- Values ------------------------------------------------------------------------------------------------------------

local function value(x, what)
  if E.is_node(x) then return x end
  if type(x) == "number" then return E.f32(x) end
  if type(x) == "table" and x.is_array then
    fail("array '%s' needs %d more index(es) here", x.array.name, #x.array.dims - #x.idx)
  end
  fail("%s: expected a number or an expression, got %s", what or "operand", type(x))
end

local function index(x, what)
  if type(x) == "number" then return E.int(x) end
  if E.is_node(x) and x.ty == "i64" then return x end
  if E.is_node(x) then fail("%s: an index must be an integer expression, this one is %s", what or "index", x.ty) end
  fail("%s: expected an index, got %s", what or "index", type(x))
end

-- Binary operators work on two integers or on two floats; plain numbers join either.
local function binary(name, ints, floats)
  return function(a, b)
    local int = (E.is_node(a) and a.ty == "i64") or (E.is_node(b) and b.ty == "i64")
    if int and not (E.is_node(a) and a.ty ~= "i64") and not (E.is_node(b) and b.ty ~= "i64") then
      if not ints then fail("%s is not defined on indices", name) end
      return ints(index(a, name), index(b, name))
    end
    if int then fail("%s mixes an index with a float; convert the index with float()", name) end
    if not floats then fail("%s is defined on indices only", name) end
    return floats(value(a, name), value(b, name))
  end
end

local mt = E.node_mt
mt.__add = binary("+", E.iadd, E.fadd)
mt.__sub = binary("-", function(a, b) return E.iadd(a, b, -1) end, E.fsub)
mt.__mul = binary("*", E.imul, E.fmul)
mt.__div = binary("/", nil, E.fdiv)
mt.__idiv = binary("//", E.idiv, nil)
mt.__mod = binary("%", E.imod, nil)
mt.__unm = function(a)
  if a.ty == "i64" then return E.imul(a, E.int(-1)) end
  return E.un("fneg", a)
end
mt.__pow = function(a, b)
  if b ~= 2 then fail("^ is defined for the exponent 2 only") end
  return E.fmul(a, a)
end
local function no_compare(op, verb)
  return function() fail("'%s' cannot compare staged values (their values are not known yet); use %s", op, verb) end
end
mt.__eq = no_compare("==", "eq(a, b)")
mt.__lt = no_compare("<", "lt(a, b)")
mt.__le = no_compare("<=", "le(a, b)")
mt.__concat = function() fail("a staged value has no text") end
mt.__index = function(n, k)
  if (type(k) == "number" or E.is_node(k)) and rawget(n, "op") then
    if n.op ~= "vec" then fail("only arrays and vec() values can be indexed, this is a %s", n.op) end
    return E.node("at", "f32", { n, index(k) })
  end
end

-- Arrays ------------------------------------------------------------------------------------------------------------

local array_mt = {}

local function array_ref(array, idx) return setmetatable({ is_array = true, array = array, idx = idx }, array_mt) end

-- In arithmetic an array lacks indices; value() says how many.
for _, op in ipairs { "__add", "__sub", "__mul", "__div", "__idiv", "__mod" } do array_mt[op] = mt[op] end

-- Thrown (and caught by M.trace) when an inlined array turns out to need memory of its own.
local materialize_mt = {}

-- The variables that an index runs over, each of its values once. In a launch for one token these may be the digits of a mixed
-- radix, `h·hd + i`, and a digit may be turned by half its range, `(i + n/2) % n`: the reader then computes the elements of such
-- pairs together (store.pairs). The last digit and its half must be whole tiles of T.lone rows. Returns {variable -> coefficient, …},
-- {variable -> half}; nil where the index is anything else.
local function digits(e)
  local const, terms = E.terms_of(e)
  local vars, pairs_, order = {}, {}, {}
  if const ~= 0 then return nil end
  for atom, coef in pairs(terms) do
    local var, half = atom, nil
    if atom.op == "imod" and T.lone then
      local n = E.int_const(atom.args[2])
      local shift, turned = E.terms_of(atom.args[1])
      var = next(turned)
      half = n and n // 2
      if not var or next(turned, var) or turned[var] ~= 1 or 2 * shift ~= n or var.count ~= n or half % T.lone ~= 0 then
        return nil
      end
    end
    if var.op ~= "var" or vars[var] then return nil end
    vars[var], pairs_[var] = coef, half
    order[#order + 1] = var
  end
  table.sort(order, function(a, b) return vars[a] < vars[b] end)
  if #order > 1 and not (T.lone and order[1].count and order[1].count % T.lone == 0) then return nil end
  local radix = 1
  for _, var in ipairs(order) do
    if vars[var] ~= radix then return nil end
    radix = radix * (var.count or math.huge)
  end
  return vars, pairs_
end

-- A view's indices as those of the array it shows: the elements behind the token axis are numbered alike.
local function unview(array, idx)
  local base = array.view_of
  local flat = E.int(0)
  for k = 2, #idx do flat = E.iadd(E.imul(flat, E.int(array.dims[k].size)), idx[k]) end
  local out = { idx[1] }
  for k = #base.dims, 2, -1 do
    local n = E.int(base.dims[k].size)
    out[k] = k == 2 and flat or E.imod(flat, n)
    flat = k == 2 and flat or E.idiv(flat, n)
  end
  return base, out
end

-- What a[i][j] is: the stored expression where the array lives only inside a fusion, a load otherwise. An expensive
-- element (a row of a matrix product) is inlined only into a reader that visits each element once.
local function read(array, idx)
  if array.view_of then array, idx = unview(array, idx) end
  local v = array.virtual
  if v then
    local inside = false -- read once per step of a reduction?
    for _, e in ipairs(idx) do
      for var in pairs(e.deps) do inside = inside or T.inner[var] == "reduction" end
    end
    if inside and v.value.op ~= "load" and (v.heavy or not T.lone) then error(setmetatable({ name = array.name }, materialize_mt)) end
    local map = {}
    for i, var in ipairs(v.vars) do map[var] = idx[i] end
    local inlined = E.subst(v.value, map)
    if v.heavy then
      local open, halves = {}, {}
      for _, var in ipairs(T.axes) do open[var] = not T.inner[var] end
      for k, e in ipairs(idx) do
        local vars, turned = digits(e)
        for var in pairs(vars or {}) do
          if not open[var] then vars = nil break end
          open[var], halves[var] = false, turned[var]
        end
        -- What was made in pairs along its own axis is so along the reader's.
        local inherited = v.pairs and v.pairs[v.vars[k]]
        if inherited and vars then
          if vars[e] then halves[e] = inherited else vars = nil end
        end
        if not vars then error(setmetatable({ name = array.name }, materialize_mt)) end
      end
      T.heavy[#T.heavy + 1] = { value = inlined, map = v.map, tune = v.tune, sizes = v.sizes, pairs = halves }
    end
    return inlined
  end
  local n = E.node("load", array.fmt == "i32" and "i64" or "f32", idx, array.name)
  n.array = array
  return n
end

local function extend(ref, k)
  local idx = table.move(ref.idx, 1, #ref.idx, 1, {})
  local e = index(k, ("index %d of array '%s'"):format(#idx + 1, ref.array.name))
  local axis = ref.array.dims[#idx + 1]
  local lo, hi = E.bounds(e)
  if (lo and lo < 0) or (hi and axis and axis.size and hi >= axis.size) then
    fail("index %d of array '%s' runs from %s to %s; its axis has %s elements", #idx + 1, ref.array.name, tostring(lo),
      tostring(hi), tostring(axis.size or "at least 0"))
  end
  idx[#idx + 1] = e
  return idx
end

array_mt.__index = function(ref, k)
  if k == "rows" then return ref.array.dims[1].size end
  local idx = extend(ref, k)
  if #idx < #ref.array.dims then return array_ref(ref.array, idx) end
  if ref.array.io == "out" and not ref.array.virtual then fail("array '%s' is an output; it cannot be read", ref.array.name) end
  return read(ref.array, idx)
end

local function check_scope(v, what)
  for var in pairs(v.deps) do
    local open = false
    for _, a in ipairs(T.axes) do open = open or rawequal(a, var) end
    if not open then
      fail("%s uses axis '%s' outside its loop; to accumulate over an axis use sum or fold", what, tostring(var.axis))
    end
  end
end

array_mt.__newindex = function(ref, k, v)
  local array, idx = ref.array, extend(ref, k)
  if #idx < #array.dims then fail("array '%s' has %d axes, stored with %d", array.name, #array.dims, #idx) end
  if array.io ~= "out" then fail("array '%s' is an input; it cannot be stored", array.name) end
  if array.fmt == "i32" then
    v = index(v, "the value stored to '" .. array.name .. "'")
  else
    v = value(v, "stored value")
    if v.ty ~= "f32" then fail("'%s' is %s; the value stored is an index or a condition: convert it with float()", array.name, array.fmt) end
  end
  check_scope(v, "the value stored to '" .. array.name .. "'")
  local used = {}
  for _, i in ipairs(idx) do for var in pairs(i.deps) do used[var] = true end end
  for _, var in ipairs(T.axes) do
    if not used[var] then
      fail("the store to '%s' is not indexed by the enclosing axis '%s' (a race)", array.name, var.axis)
    end
  end
  for i, e in ipairs(idx) do check_scope(e, ("index %d of '%s'"):format(i, array.name)) end
  for _, st in ipairs(T.stores) do
    local same = rawequal(st.array, array)
    for i, e in ipairs(idx) do same = same and rawequal(st.idx[i], e) end
    if same then fail("array '%s' is stored twice at the same place", array.name) end
  end
  if #T.stores == check.MAX_STORES then fail("over %d stores", check.MAX_STORES) end
  T.stores[#T.stores + 1] = { array = array, idx = idx, value = v, axes = table.move(T.axes, 1, #T.axes, 1, {}) }
end

-- Loops and reductions ----------------------------------------------------------------------------------------------

-- Annotations are for editors (LuaLS) and for the table of verbs in docs/dsl.md, which verify/test_docs.lua makes of them.

---@alias Index integer|table an expression of loop indices, sizes and integers
---@alias Value number|table an f32 expression
---@alias Condition table
---@alias Size integer|table a width known at compile time, or a size known at run time
---@alias Vector table indexed like an array
---@alias Monoid table

local lang = {}
M.lang = lang

local function extent(n, axis)
  if type(n) == "number" then
    if math.tointeger(n) == nil or n < 1 then fail("axis '%s' has size %s; expected at least 1", axis, tostring(n)) end
    return E.int(n), math.tointeger(n)
  end
  if E.is_node(n) and n.ty == "i64" then return n, E.int_const(n) or n.op == "bounded" and n.imm or nil end
  fail("axis '%s': expected a size, got %s", tostring(axis), type(n))
end

local function axis_name(axis)
  if type(axis) ~= "string" then fail("an axis has a name: a string, got %s", type(axis)) end
  return axis
end

---Opens an axis of the output: `for i in each("axis", n) do … end`. The body runs once, i is symbolic.
---@param axis string
---@param n Size
---@return fun(): Index?
function lang.each(axis, n)
  axis_name(axis)
  local len, static = extent(n, axis)
  local var = E.var(axis, static, #T.axes + 1)
  var.len = len
  for _, a in ipairs(T.axes) do
    if a.axis == axis then fail("axis '%s' is already open", axis) end
  end
  local state = 0
  return function()
    state = state + 1
    if state == 1 then
      T.axes[#T.axes + 1] = var
      return var
    end
    local innermost = T.axes[#T.axes]
    if not rawequal(innermost, var) then
      fail("break or return out of the loop over axis '%s'", innermost and innermost.axis or axis)
    end
    T.axes[#T.axes] = nil
  end
end

local function bound(axis, n, f, kind)
  axis_name(axis)
  local len, static = extent(n, axis)
  local var = E.var(axis, static, #T.axes + 1)
  T.axes[#T.axes + 1] = var
  local outer = T.inner[var]
  T.inner[var] = kind
  local result = f(var)
  T.inner[var] = outer
  T.axes[#T.axes] = nil
  return var, len, result
end

-- A number known at run time, with what it cannot exceed in sight, such as min(64, n). exact: unlike in a fold's tile, what
-- follows it may not be read.
local function at_most(n)
  if not (E.is_node(n) and n.ty == "i64") or n.op == "bounded" or E.int_const(n) then return n end
  local _, most = E.bounds(n)
  if not most or most < 1 then return n end
  local node = E.node("bounded", "i64", { n }, most)
  node.exact = true
  return node
end

local function reduction(kind)
  return function(axis, n, f)
    local var, len, v = bound(axis, at_most(n), f, "reduction")
    return E.node("reduce", "f32", { len, value(v, kind .. " over '" .. axis .. "'") }, kind, var)
  end
end
---Σ f(i) over 0 ≤ i < n.
---@type fun(axis: string, n: Size, f: fun(i: Index): Value): Value
lang.sum = reduction("sum")
---The largest f(i) over 0 ≤ i < n.
---@type fun(axis: string, n: Size, f: fun(i: Index): Value): Value
lang.maximum = reduction("max")

---The vector of f(i), 0 ≤ i < n. Computed where the map says; indexed like an array.
---@param axis string
---@param n Size
---@param f number|fun(i: Index): Value
---@return Vector
function lang.vec(axis, n, f)
  if type(f) == "number" then
    local c = f
    f = function() return c end
  end
  local var, len, v = bound(axis, n, f, "vec")
  return E.node("vec", "vec", { len, value(v, "vec over '" .. axis .. "'") }, "local", var)
end

---The vector with its values rounded to an activation format: "f32" keeps them, "q8" is 8-bit codes in blocks of 256, "bf16"
---halves; the weights that such are multiplied with are rounded to bf16 as well.
---@param fmt string
---@param v Vector
---@return Vector
function lang.as(fmt, v)
  if not (E.is_node(v) and v.op == "vec") then fail("as() takes a vec() value") end
  local def = formats.get(fmt, fail)
  if fmt ~= "f32" and not (def.activation or def.halves) then
    fail("as() takes f32 or a format of activations, not %s", fmt)
  end
  return E.node("vec", "vec", v.args, "as:" .. fmt, v.binds)
end

---A monoid on tables of fields: zero() is neutral, merge(a, b) associative; many(tile), optional, reduces a whole tile.
---@param def { zero: (fun(): table), merge: (fun(a: table, b: table): table), many: (fun(tile: table): table)? }
---@return Monoid
function lang.monoid(def)
  if type(def) ~= "table" or type(def.zero) ~= "function" or type(def.merge) ~= "function" then
    fail("monoid { zero = function, merge = function [, many = function] }")
  end
  return { is_monoid = true, zero = def.zero, merge = def.merge, many = def.many }
end

---Merges the elements f(j), from ≤ j < n, in order of j; one whose field `when` is false counts as zero().
---@param axis string
---@param n Size
---@param monoid Monoid
---@param f fun(j: Index): table
---@param opts { from: Index }?
---@return table fields
function lang.fold(axis, n, monoid, f, opts)
  if type(monoid) ~= "table" or not monoid.is_monoid then fail("fold over '%s': expected a monoid", tostring(axis)) end
  local when
  local var, len, elem = bound(axis, n, function(j)
    local e = f(j)
    if type(e) ~= "table" or E.is_node(e) then fail("a fold's element is a table of fields") end
    when = e.when
    local copy = {}
    for k, x in pairs(e) do if k ~= "when" then copy[k] = x end end
    return copy
  end, "reduction")
  local from = index(opts and opts.from or 0, "fold's from")
  -- The bounds loops run over: the lowering widens them to those of all instances computed together.
  local names, args = {}, { len, when or E.bool(true), from, len, from }
  for k in pairs(elem) do names[#names + 1] = k end
  table.sort(names)
  for i, k in ipairs(names) do
    local x = elem[k]
    if type(x) == "number" then x = E.f32(x) end
    if not E.is_node(x) then fail("field '%s' of the fold's element is a %s", k, type(x)) end
    args[5 + i] = x
  end
  T.n_monoids = T.n_monoids or {}
  local m = T.n_monoids
  if not m[monoid] then
    m[#m + 1] = monoid
    m[monoid] = #m
  end
  local node = E.node("fold", "fold", args, "monoid" .. m[monoid] .. ":" .. table.concat(names, ","), var)
  node.monoid, node.fields = monoid, names
  local out = {}
  for i, k in ipairs(names) do
    local x = args[5 + i]
    if x.op == "vec" then
      out[k] = setmetatable({}, { __index = function(_, i2) return E.node("get", "f32", { node, index(i2) }, k) end })
    else
      out[k] = E.node("get", x.ty, { node }, k)
    end
  end
  return out
end

-- Scalars -----------------------------------------------------------------------------------------------------------

local function unary(op)
  return function(x) return E.un(op, value(x, op)) end
end
---Square root, correctly rounded.
---@type fun(x: Value): Value
lang.sqrt = unary "fsqrt"
---|x|.
---@type fun(x: Value): Value
lang.abs = unary "fabs"
---Relative error under 2e-7; 0 below −87.33, infinite above 88.72.
---@type fun(x: Value): Value
lang.exp = unary "exp"
---Absolute error under 2e-7.
---@type fun(x: Value): Value
lang.tanh = unary "tanh"
---The nearest integer, the even one of two; |x| < 2^22.
---@type fun(x: Value): Value
lang.round = unary "frint"
---1 / sqrt(x), two roundings.
---@param x Value
---@return Value
function lang.rsqrt(x) return E.fdiv(E.f32(1), lang.sqrt(x)) end
local function is_index(x) return E.is_node(x) and x.ty == "i64" end
local ROUNDED = { f32 = true, f16 = true, bf16 = true }
---x rounded to the nearest value of the format, the even one of two: "f32" (as it is), "f16" or "bf16". Where both factors of a
---product are rounded alike, a unit that multiplies such numbers may compute it.
---@param fmt string
---@param x Value
---@return Value
function lang.rounded(fmt, x)
  if not ROUNDED[fmt] then fail("rounded() takes f32, f16 or bf16, not %s", tostring(fmt)) end
  x = value(x, "rounded")
  return fmt == "f32" and x or E.node("rounded", "f32", { x }, fmt)
end
---The larger of two values or of two indices.
---@param a Value|Index
---@param b Value|Index
---@return Value|Index
function lang.max(a, b)
  if is_index(a) or is_index(b) then return E.imax(index(a), index(b)) end
  return E.fmax(value(a), value(b))
end
---The smaller of two values or of two indices.
---@param a Value|Index
---@param b Value|Index
---@return Value|Index
function lang.min(a, b)
  if is_index(a) or is_index(b) then return E.imin(index(a), index(b)) end
  return E.fmin(value(a), value(b))
end
---An index as a value.
---@param i Index
---@return Value
function lang.float(i) return E.cast("itof", "f32", index(i, "float()")) end

-- Conditions combined.
local function condition(x, what)
  if not (E.is_node(x) and x.ty == "bool") then fail("%s takes conditions (from lt, le, eq)", what) end
  return x
end
---a and b.
---@param a Condition
---@param b Condition
---@return Condition
function lang.both(a, b) return E.node("band", "bool", { condition(a, "both"), condition(b, "both") }) end
---a or b.
---@param a Condition
---@param b Condition
---@return Condition
function lang.either(a, b) return E.node("bor", "bool", { condition(a, "either"), condition(b, "either") }) end

local function compare(int_op, float_op)
  return function(a, b)
    local ints = (E.is_node(a) and a.ty == "i64") or (E.is_node(b) and b.ty == "i64")
    if ints then return E.cmp(int_op, index(a), index(b)) end
    return E.cmp(float_op, value(a), value(b))
  end
end
---a < b, of values or of indices; false where one is NaN.
---@type fun(a: Value|Index, b: Value|Index): Condition
lang.lt = compare("ilt", "flt")
---a ≤ b.
---@type fun(a: Value|Index, b: Value|Index): Condition
lang.le = compare("ile", "fle")
---a = b.
---@type fun(a: Value|Index, b: Value|Index): Condition
lang.eq = compare("ieq", "feq")
---a where c holds, else b; both are computed.
---@param c Condition
---@param a Value|Index
---@param b Value|Index
---@return Value|Index
function lang.select(c, a, b)
  if not (E.is_node(c) and c.ty == "bool") then fail("select's condition comes from lt, le or eq") end
  local int = E.is_node(a) and a.ty == "i64" or E.is_node(b) and b.ty == "i64"
  local conv = int and index or value
  return E.select(c, conv(a), conv(b))
end

-- Signatures --------------------------------------------------------------------------------------------------------

-- "x: f32[tok?,d], w: W[n,d], eps: num, pos: dim, act: format -> y: f32[tok?,n]"
-- A size with '?' is known at run time only. A capital name is a format chosen when the kernel is instantiated.
-- "@keys" and "@rows" mark the two layouts of a paged KV cache [kv head, key, i].
local function parse_signature(text, name)
  local function bad(msg) error(("%skernel '%s': signature '%s': %s"):format(at_user_line(), name, text, msg), 0) end
  local ins, outs = text:match("^%s*(.-)%s*%->%s*(.-)%s*$")
  if not ins then bad("expected 'inputs -> outputs'") end
  local params, by_name = {}, {}
  local function parse(list, io)
    local pos = 1
    while pos <= #list do
      local p, kind, layout, rest = list:match("^%s*([%a_][%w_]*)%s*:%s*([%w_]+)(@?%a*)()", pos)
      if not p then bad("cannot read '" .. list:sub(pos, pos + 20) .. "'") end
      if by_name[p] then bad("'" .. p .. "' appears twice") end
      local param = { name = p, kind = kind, io = io, layout = layout ~= "" and layout:sub(2) or "dense" }
      local dims, after = list:match("^%s*%[([^%]]*)%]()", rest)
      if dims then
        param.dims = {}
        for d, q in dims:gmatch("([%w_]+)(%??)") do
          param.dims[#param.dims + 1] = { name = tonumber(d) and nil or d, size = math.tointeger(tonumber(d)), run = q == "?" }
          if q == "?" and #param.dims > 1 and param.layout == "dense" and kind:match("^%u") then
            bad(("axis '%s' of '%s' is known at run time only; of formatted arrays such an axis comes first"):format(d, p))
          end
        end
        rest = after
        if not kind:match("^%u") and kind ~= "f32" and kind ~= "f16" and kind ~= "i32" then
          bad(("'%s' is %s; expected f32, f16, i32 or a format's capital name"):format(p, kind))
        end
      elseif kind ~= "num" and kind ~= "dim" and kind ~= "format" then
        bad("'" .. p .. "' needs axes in brackets, or is num, dim or format")
      end
      params[#params + 1], by_name[p] = param, param
      pos = list:match("^%s*,()", rest) or (list:match("^%s*$", rest) and #list + 1)
      if not pos then bad("expected ',' after '" .. p .. "'") end
    end
  end
  parse(ins, "in")
  parse(outs, "out")
  return { text = text, params = params, by_name = by_name }
end

M.kernels, M.kernel_order = {}, {}

-- Steps are written { "kernel", param = array, … }; as data they are { kernel =, args = }.
local function plain_steps(steps)
  local out = {}
  for n, step in ipairs(steps) do
    if step.kernel then
      out[n] = step
    else
      local args = {}
      for p, v in pairs(step) do if p ~= 1 then args[p] = v end end
      out[n] = { kernel = step[1], args = args }
    end
  end
  return out
end

local function define(name, def, is_fused)
  if type(name) ~= "string" then error("kernel names are strings", 0) end
  if M.kernels[name] then error(("%skernel '%s' is defined twice"):format(at_user_line(), name), 0) end
  if type(def) ~= "table" or type(def.sig) ~= "string" then error(("%skernel '%s' needs sig = \"…\""):format(at_user_line(), name), 0) end
  if is_fused and type(def.steps) ~= "table" then error(("%sfused '%s' needs steps"):format(at_user_line(), name), 0) end
  local k = { name = name, sig = parse_signature(def.sig, name), body = def.body, map = def.map, tune = def.tune,
              bench = def.bench, steps = is_fused and plain_steps(def.steps) or nil }
  if not is_fused and type(def.body) ~= "function" then error(("%skernel '%s' needs a body"):format(at_user_line(), name), 0) end
  if not is_fused and type(def.map) ~= "table" then error(("%skernel '%s' needs a map"):format(at_user_line(), name), 0) end
  k.where = at_user_line()
  M.kernels[name] = k
  M.kernel_order[#M.kernel_order + 1] = name
end

-- A composition that is not registered: the fuser's. lone: for one token, where computing an element twice may pay; the rows of a
-- tile of packed weights.
function M.fusion(name, sig, steps, lone)
  return { name = name, sig = parse_signature(sig, name), steps = plain_steps(steps), lone = lone }
end

-- Whether a map of the kernel, or of a step of it, splits an axis for one token.
function M.splits(k)
  if k.map then return k.map.split ~= nil end
  for _, step in ipairs(k.steps) do
    if M.splits(M.kernels[step.kernel]) then return true end
  end
  return false
end

---Declares a kernel: `kernel "name" { sig = …, body = function(a) … end, map = schedules.…, tune = …, bench = … }`.
---@param name string
---@return fun(def: { sig: string, body: fun(a: table), map: table, tune: table?, bench: table? })
function lang.kernel(name) return function(def) define(name, def, false) end end
---Composes kernels into one launch: `fused "name" { sig = …, steps = { { "kernel", parameter = "array", … }, … } }`.
---@param name string
---@return fun(def: { sig: string, steps: table })
function lang.fused(name) return function(def) define(name, def, true) end end

-- Tracing -----------------------------------------------------------------------------------------------------------

-- Binds a kernel's parameters: given[param] is an array (table with .fmt and .dims) or a scalar.
-- Sizes not known yet are taken from the arrays; a contradiction is an error.
local function bind(k, given)
  local sizes, a = {}, {}
  for _, p in ipairs(k.sig.params) do
    local g = given[p.name]
    if g == nil then fail("%s: parameter '%s' is missing", k.name, p.name) end
    if p.dims then
      if #g.dims ~= #p.dims then
        fail("%s: '%s' has %d axes, expected %d", k.name, p.name, #g.dims, #p.dims)
      end
      if not p.kind:match("^%u") and g.fmt ~= p.kind then
        fail("%s: '%s' is %s, expected %s", k.name, p.name, g.fmt, p.kind)
      end
      for i, d in ipairs(p.dims) do
        local have = g.dims[i]
        if d.name then
          local want = sizes[d.name]
          if want and not d.run and want ~= have.size then
            fail("%s: axis '%s' is %s in '%s' but %s before", k.name, d.name, tostring(have.size), p.name, tostring(want))
          end
          sizes[d.name] = want or (d.run and have.node) or have.size
        elseif d.size ~= have.size then
          fail("%s: axis %d of '%s' is %s, expected %d", k.name, i, p.name, tostring(have.size), d.size)
        end
      end
      check.array(fail, g)
      a[p.name] = array_ref(g, {})
    else
      a[p.name] = g
    end
  end
  for name, s in pairs(sizes) do if a[name] == nil then a[name] = s end end
  return setmetatable(a, { __index = function(_, key) fail("%s has no parameter or size '%s'", k.name, tostring(key)) end }),
    sizes
end

local function run_body(k, given)
  local a, sizes = bind(k, given)
  T.sizes = sizes -- for tunables that depend on them
  local depth = #T.axes
  local ok, err = xpcall(k.body, function(e)
    -- Lua's own errors (an undefined name, arithmetic on a table) know the line but not the kernel.
    if type(e) ~= "string" or e:find("kernel '", 1, true) then return e end
    local line, msg = e:gsub("^user:", ""):match("^(%S+:%d+): (.*)$")
    return line and ("%s: kernel '%s': %s"):format(line, T.name, msg) or ("%skernel '%s': %s"):format(k.where or "", T.name, e)
  end, a)
  if not ok then error(err, 0) end
  if #T.axes ~= depth then fail("break or return out of the loop over axis '%s'", T.axes[#T.axes].axis) end
end

-- Is one element expensive: a reduction over data of that element alone (a row of a matrix product, not the 1/rms that all along
-- its last axis share), or decoded from a block whose position the reader must know?
local function is_heavy(v, last)
  local seen = {}
  local function go(n)
    if seen[n] then return false end
    seen[n] = true
    if n.op == "load" and n.array and n.array.packed and (T.lone or not n.array.packed.float) then return true end
    if n.op == "reduce" and n.deps[last] then return true end
    if n.op == "fold" then
      for var in pairs(n.deps) do if var.axis ~= "tok" then return true end end
    end
    for _, x in ipairs(n.args) do if go(x) then return true end end
    return false
  end
  return go(v)
end

-- An internal array just written is inlined into its readers where its one store is indexed by plain axes and its
-- elements are cheap, or expensive but read once; otherwise it gets memory in the launch's workspace.
local function settle(array, first)
  local mine, at = nil, nil
  for i = first, #T.stores do
    if T.stores[i].array == array then
      if mine then return end
      mine, at = T.stores[i], i
    end
  end
  local set = {}
  for _, e in ipairs(mine.idx) do
    if e.op ~= "var" or set[e] then return end
    set[e] = true
  end
  local heavy = is_heavy(mine.value, mine.idx[#mine.idx]) or mine.heavy
  -- An output is stored whoever reads it here; for one token, computing it again is cheaper than a pass over memory.
  if not array.internal and (heavy or not T.lone or array.fmt ~= "f32" or array.layout ~= "dense") then return end
  if T.materialize[array.name] or (heavy and T.readers[array.name] ~= 1) then return end
  array.virtual = { vars = mine.idx, value = mine.value, heavy = heavy and true, map = mine.map, tune = mine.tune,
                    sizes = mine.sizes, pairs = mine.pairs }
  if array.internal then table.remove(T.stores, at) end
end

local function contains(n, part, seen)
  if rawequal(n, part) then return true end
  if seen[n] then return false end
  seen[n] = true
  for _, a in ipairs(n.args) do if contains(a, part, seen) then return true end end
  return false
end

-- The map of a store whose value holds a matrix product: the product's where the axes are its own; else the reader's lanes and
-- tasks, with the product's tokens and rows.
local derived = setmetatable({}, { __mode = "k" }) -- product's map -> reader's map -> map

local function product_map(product, own, axes)
  for _, var in ipairs(axes) do if var.axis == product.lane then return product end end
  derived[product] = derived[product] or setmetatable({}, { __mode = "k" })
  if not derived[product][own] then
    local task = {}
    for _, axis in ipairs(own.task) do if axis ~= "tok" then task[#task + 1] = axis end end
    derived[product][own] = { task = task, lane = own.lane, unroll = product.unroll, rows_across = product.rows_across, matrix = product.matrix,
                              tile = product.tile, shared = true }
  end
  return derived[product][own]
end

-- Stores that hold a matrix product are scheduled as the product.
local function schedule_stores(first, callee)
  for i = first, #T.stores do
    local st = T.stores[i]
    st.map, st.tune, st.sizes = callee.map, callee.tune, T.sizes
    for _, h in ipairs(T.heavy) do
      if contains(st.value, h.value, {}) then
        if st.array.def then fail("a product is stored in '%s', whose blocks are encoded whole", st.array.name) end
        st.map, st.tune, st.sizes, st.heavy = product_map(h.map, callee.map, st.axes), h.tune, h.sizes, true
        for var, half in pairs(h.pairs) do
          st.pairs = st.pairs or {}
          st.pairs[var] = half
        end
      end
    end
  end
end

-- Runs the steps of a fusion. Steps share arrays by name; a name that is no parameter is internal.
local function run_steps(k, given)
  local env = setmetatable({}, { __index = given })
  T.readers = {}
  for _, step in ipairs(k.steps) do
    local callee = M.kernels[step.kernel]
    if not callee then fail("step names unknown kernel '%s'", tostring(step.kernel)) end
    for _, p in ipairs(callee.sig.params) do
      local name = step.args[p.name] or p.name
      if type(name) == "table" then name = name.view end
      if p.io == "in" and p.dims then T.readers[name] = (T.readers[name] or 0) + 1 end
    end
  end
  for _, step in ipairs(k.steps) do
    local callee = M.kernels[step.kernel]
    local args, sizes, fresh = {}, {}, {}
    for _, p in ipairs(callee.sig.params) do
      local ref = step.args[p.name]
      if ref == nil then ref = given[p.name] end
      if type(ref) == "string" and env[ref] ~= nil then ref = env[ref] end
      if type(ref) == "table" and ref.view then -- { view = array, dims = its sizes behind the token axis }
        local base = env[ref.view]
        local dims = { base.dims[1] }
        for d, size in ipairs(ref.dims) do dims[d + 1] = { size = size } end
        ref = { name = base.name, fmt = base.fmt, dims = dims, io = "in", layout = "dense", internal = true, view_of = base }
      end
      args[p.name] = ref
      if p.dims and type(ref) == "table" then
        for i, d in ipairs(p.dims) do if d.name then sizes[d.name] = sizes[d.name] or ref.dims[i] end end
      end
    end
    for _, p in ipairs(callee.sig.params) do
      local name = step.args[p.name]
      if p.io == "out" and type(args[p.name]) == "string" then
        local dims = {}
        for i, d in ipairs(p.dims) do
          dims[i] = d.size and { size = d.size } or sizes[d.name] or (given[d.name] and { size = given[d.name] })
          if not dims[i] then fail("size '%s' of internal array '%s' is unknown", d.name, name) end
        end
        local array = { name = name, fmt = p.kind, dims = dims, io = "out", layout = "dense", internal = true }
        args[p.name], env[name] = array, array
        fresh[#fresh + 1] = array
      end
    end
    local first = #T.stores + 1
    T.heavy = {}
    run_body(callee, args)
    schedule_stores(first, callee)
    for _, array in ipairs(fresh) do
      array.io = "in"
      settle(array, first)
    end
    for _, p in ipairs(callee.sig.params) do
      local array = args[p.name]
      if p.io == "out" and not array.internal then settle(array, first) end
    end
  end
end

-- Traces a kernel, or a fusion's steps, with its parameters bound to `given` (arrays: {name, fmt, dims, io, layout}).
-- Returns {name, stores, given}: each store has array, idx, value, axes, map, tune.
-- `make_given` builds them anew for each attempt.
function M.trace(k, make_given, opts)
  local materialize = {}
  while true do
    local ctx = E.begin(opts and opts.node_limit)
    T = { name = k.name, where = k.where, axes = {}, inner = {}, stores = {}, ctx = ctx, materialize = materialize, heavy = {},
          lone = k.lone }
    local given = make_given()
    local ok, err = xpcall(function()
      if k.body then
        run_body(k, given)
        for _, st in ipairs(T.stores) do st.map, st.tune, st.sizes = k.map, k.tune, T.sizes end
        for _, p in ipairs(k.sig.params) do
          local stored = p.io ~= "out"
          for _, st in ipairs(T.stores) do stored = stored or st.array == given[p.name] end
          if not stored then fail("the output '%s' is never stored", p.name) end
        end
      else
        run_steps(k, given)
      end
      check.maps(fail, T.stores)
    end, function(e) return e end)
    local trace = T
    T = nil
    if ok then
      trace.given, trace.materialized = given, materialize
      return trace
    end
    if getmetatable(err) ~= materialize_mt then error(err, 0) end
    materialize[err.name] = true
  end
end

-- Lowering runs the user's merge and many: they trace at a depth of their own.
function M.during(trace, f)
  local axes = {}
  for d = 1, 16 do axes[d] = E.var("lowering" .. d, 1, 0) end
  T = { name = trace.name, axes = axes, inner = {}, stores = {}, ctx = trace.ctx }
  local ok, err = xpcall(f, function(e)
    if type(e) == "table" and e.kernel_error then
      return ("%skernel '%s': %s"):format(trace.where or "", trace.name, e.kernel_error)
    end
    return type(e) == "string" and e:match("^internal") and debug.traceback(e) or e
  end)
  T = nil
  if not ok then error(err, 0) end
end

return M
