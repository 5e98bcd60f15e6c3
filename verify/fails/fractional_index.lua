-- fractional_index.lua:6: kernel 'k': an index must be a whole number, got 0.5
kernel "k" {
  sig = "x: f32[tok?,d] -> y: f32[tok?,d]",
  body = function(a)
    for t in each("tok", a.tok) do
      for r in each("row", a.d) do a.y[t][r] = a.x[t][0.5] end
    end
  end,
  map = schedules.rows,
}
