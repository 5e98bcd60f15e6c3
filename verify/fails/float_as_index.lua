-- float_as_index.lua:6: kernel 'k': index 2 of array 'x': an index must be an integer expression, this one is f32
kernel "k" {
  sig = "x: f32[tok?,d] -> y: f32[tok?,d]",
  body = function(a)
    for t in each("tok", a.tok) do
      for r in each("row", a.d) do a.y[t][r] = a.x[t][a.x[t][r]] end
    end
  end,
  map = schedules.rows,
}
