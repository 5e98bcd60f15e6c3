-- unknown_parameter.lua:6: kernel 'k': k has no parameter or size 'q'
kernel "k" {
  sig = "x: f32[tok?,d] -> y: f32[tok?,d]",
  body = function(a)
    for t in each("tok", a.tok) do
      for r in each("row", a.d) do a.y[t][r] = a.q[t][r] end
    end
  end,
  map = schedules.rows,
}
