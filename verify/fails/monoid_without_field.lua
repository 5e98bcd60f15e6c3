-- kernel 'k': the monoid gives no field 'i', which its elements have
local m = monoid { zero = function() return { v = 0, i = 0 } end, merge = function(x, y) return { v = x.v + y.v } end }
kernel "k" {
  sig = "x: f32[tok?,d] -> y: f32[tok?]",
  body = function(a)
    for t in each("tok", a.tok) do
      a.y[t] = fold("k", a.d, m, function(k) return { v = a.x[t][k], i = k } end).v
    end
  end,
  map = schedules.rows,
}
