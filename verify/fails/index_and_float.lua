-- index_and_float.lua:6: kernel 'k': * mixes an index with a float; convert the index with float()
kernel "k" {
  sig = "x: f32[tok?,d] -> y: f32[tok?,d]",
  body = function(a)
    for t in each("tok", a.tok) do
      for r in each("row", a.d) do a.y[t][r] = a.x[t][r] * r end
    end
  end,
  map = schedules.rows,
}
