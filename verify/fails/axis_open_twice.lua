-- axis_open_twice.lua:6: kernel 'k': axis 'tok' is already open
kernel "k" {
  sig = "x: f32[tok?,d] -> y: f32[tok?,d]",
  body = function(a)
    for t in each("tok", a.tok) do
      for r in each("tok", a.d) do a.y[t][r] = a.x[t][r] end
    end
  end,
  map = schedules.rows,
}
