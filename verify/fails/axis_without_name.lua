-- axis_without_name.lua:6: kernel 'k': an axis has a name: a string, got number
kernel "k" {
  sig = "x: f32[tok?,d] -> y: f32[tok?,d]",
  body = function(a)
    for t in each("tok", a.tok) do
      for r in each(7, a.d) do a.y[t][r] = a.x[t][r] end
    end
  end,
  map = schedules.rows,
}
