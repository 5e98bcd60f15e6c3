--- Chat templates: the Jinja2 that models carry, rendered as transformers renders it.
--
--   local template = jinja.compile(source)
--   local prompt = jinja.render(template, { messages = …, add_generation_prompt = true, bos_token = "<s>", … })
--
-- The context is plain Lua (see jinja_value.from_plain): arrays are lists, other tables dicts in sorted key order, and
-- jinja.map{{"key", value}, …} dicts in the order given; jinja.none is None, an absent name is undefined; a function is
-- callable with plain strings and numbers (strftime_now, say). Templates see trim_blocks and lstrip_blocks, break and
-- continue, {% generation %}, raise_exception(), and a tojson that keeps non-ASCII text.
--
-- Differences from Jinja2 with transformers' sandbox: list.append works; filters that give generators give lists;
-- integers have 64 bits and say so when they overflow; no include, import, extends or block; case mapping knows the
-- Latin, Greek and Cyrillic letters only.
--
-- Templates come from files of strangers. Everything is bounded (see DEFAULTS); what goes wrong is an error (a string)
-- "template line N: …". Needs nothing of Lua but its base functions, string, table, math and utf8.

local value = require "dsl.jinja_value"
local parser = require "dsl.jinja_parse"
local evaluator = require "dsl.jinja_eval"

local M = {}

--- Limits that a caller may change: steps of evaluation (5 million take about 2 s), nesting of expressions, blocks and
--- macro calls, bytes of the output and of any one string.
local DEFAULTS = { steps = 5000000, depth = 200, bytes = 16 << 20 }

--- A template's own size: the largest real ones have some 20 KB, and the syntax tree takes up to 400 bytes a byte.
local MAX_SOURCE = 256 << 10

M.none, M.list, M.map, M.from_plain = value.none, value.list, value.map, value.from_plain

local function limit(limits, name) return limits and limits[name] or DEFAULTS[name] end

--- @param source string the template's text
--- @param limits? {depth: integer}
--- @return table template for render; raises "template line N: …" when the text is no template
function M.compile(source, limits)
  if #source > MAX_SOURCE then
    error(("template line 1: the template has %d bytes, at most %d are accepted"):format(#source, MAX_SOURCE), 0)
  end
  return { block = parser.parse(source, limit(limits, "depth")) }
end

--- @param template table what compile returned
--- @param context table<string, any> the names that the template sees
--- @param limits? {steps: integer, depth: integer, bytes: integer}
--- @return string text; raises "template line N: …"
function M.render(template, context, limits)
  local vars = {}
  for name, v in next, context do vars[name] = value.from_plain(v) end
  return evaluator.run(template.block, vars,
    { steps = limit(limits, "steps"), depth = limit(limits, "depth"), bytes = limit(limits, "bytes") })
end

return M
