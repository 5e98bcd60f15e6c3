-- store_with_few_indices.lua:6: kernel 'k': array 'y' has 2 axes, stored with 1
kernel "k" {
  sig = "x: f32[tok?,d] -> y: f32[tok?,d]",
  body = function(a)
    for t in each("tok", a.tok) do
      for r in each("row", a.d) do a.y[t] = a.x[t][r] end
    end
  end,
  map = schedules.rows,
}
