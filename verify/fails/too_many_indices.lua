-- too_many_indices.lua:6: kernel 'k': only arrays and vec() values can be indexed, this is a load
kernel "k" {
  sig = "x: f32[tok?,d] -> y: f32[tok?,d]",
  body = function(a)
    for t in each("tok", a.tok) do
      for r in each("row", a.d) do a.y[t][r] = a.x[t][r][0] end
    end
  end,
  map = schedules.rows,
}
