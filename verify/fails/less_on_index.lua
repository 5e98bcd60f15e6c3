-- less_on_index.lua:7: kernel 'k': '<' cannot compare staged values (their values are not known yet); use lt(a, b)
kernel "k" {
  sig = "x: f32[tok?,d] -> y: f32[tok?,d]",
  body = function(a)
    for t in each("tok", a.tok) do
      for r in each("row", a.d) do
        if r < 3 then a.y[t][r] = 0 else a.y[t][r] = 1 end
      end
    end
  end,
  map = schedules.rows,
}
