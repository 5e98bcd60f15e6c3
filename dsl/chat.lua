-- Chat templates: all of Lua that running a model needs once its plan and code are made. The entry points of the
-- runtime-only program (kgen-rt), and among dsl/main.lua's.

local jinja = require "dsl.jinja"

local M = {}

local DAYS = { "Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday" }
local MONTHS = { "January", "February", "March", "April", "May", "June", "July", "August", "September", "October",
                 "November", "December" }

-- C's strftime for what templates ask of it. now: {year, month, day, hour, minute, second, weekday, yearday}
local function strftime(now, format)
  local fields = {
    Y = tostring(now.year), y = ("%02d"):format(now.year % 100), m = ("%02d"):format(now.month), d = ("%02d"):format(now.day),
    H = ("%02d"):format(now.hour), M = ("%02d"):format(now.minute), S = ("%02d"):format(now.second),
    I = ("%02d"):format((now.hour + 11) % 12 + 1), p = now.hour < 12 and "AM" or "PM", j = ("%03d"):format(now.yearday),
    B = MONTHS[now.month], b = MONTHS[now.month]:sub(1, 3), A = DAYS[now.weekday + 1], a = DAYS[now.weekday + 1]:sub(1, 3),
    ["%"] = "%",
  }
  return (format:gsub("%%(.)", fields))
end

-- A conversation as text: {template, messages = {{role, content}, …}, add_generation_prompt, bos_token, eos_token, now}
function M.chat(arg)
  return jinja.render(jinja.compile(arg.template), {
    messages = arg.messages, add_generation_prompt = arg.add_generation_prompt, bos_token = arg.bos_token,
    eos_token = arg.eos_token, strftime_now = function(format) return strftime(arg.now, format) end,
  })
end

return M
