-- equals_on_values.lua:7: kernel 'k': '==' cannot compare staged values (their values are not known yet); use eq(a, b)
kernel "k" {
  sig = "x: f32[tok?,d] -> y: f32[tok?,d]",
  body = function(a)
    for t in each("tok", a.tok) do
      for r in each("row", a.d) do
        a.y[t][r] = a.x[t][r] == a.x[t][0] and 1 or 0
      end
    end
  end,
  map = schedules.rows,
}
