-- zero_extent.lua:6: kernel 'k': axis 'k' has size 0; expected at least 1
kernel "k" {
  sig = "x: f32[tok?,d] -> y: f32[tok?,d]",
  body = function(a)
    for t in each("tok", a.tok) do
      for r in each("row", a.d) do a.y[t][r] = sum("k", 0, function(k) return a.x[t][k] end) end
    end
  end,
  map = schedules.rows,
}
