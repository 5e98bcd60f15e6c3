-- cyclic_monoid_element.lua:9: kernel 'k': field 'self' of the fold's element is a table
local m = monoid { zero = function() return { v = 0 } end, merge = function(x, y) return { v = x.v + y.v } end }
kernel "k" {
  sig = "x: f32[tok?,d] -> y: f32[tok?]",
  body = function(a)
    for t in each("tok", a.tok) do
      local e = {}
      e.self = e
      a.y[t] = fold("k", a.d, m, function() return e end).v
    end
  end,
  map = schedules.rows,
}
