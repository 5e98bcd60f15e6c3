-- too_few_indices.lua:6: kernel 'k': array 'x' needs 1 more index(es) here
kernel "k" {
  sig = "x: f32[tok?,d] -> y: f32[tok?,d]",
  body = function(a)
    for t in each("tok", a.tok) do
      for r in each("row", a.d) do a.y[t][r] = a.x[t] + 1 end
    end
  end,
  map = schedules.rows,
}
