-- fold_element_no_table.lua:7: kernel 'k': a fold's element is a table of fields
local m = monoid { zero = function() return { v = 0 } end, merge = function(x, y) return { v = x.v + y.v } end }
kernel "k" {
  sig = "x: f32[tok?,d] -> y: f32[tok?]",
  body = function(a)
    for t in each("tok", a.tok) do
      a.y[t] = fold("k", a.d, m, function(k) return a.x[t][k] end).v
    end
  end,
  map = schedules.rows,
}
