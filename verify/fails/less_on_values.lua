-- less_on_values.lua:7: kernel 'k': '<' cannot compare staged values (their values are not known yet); use lt(a, b)
kernel "k" {
  sig = "x: f32[tok?,d] -> y: f32[tok?,d]",
  body = function(a)
    for t in each("tok", a.tok) do
      for r in each("row", a.d) do
        if a.x[t][r] < a.x[t][0] then a.y[t][r] = 0 end
      end
    end
  end,
  map = schedules.rows,
}
