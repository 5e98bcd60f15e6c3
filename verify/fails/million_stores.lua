-- million_stores.lua:7: kernel 'k': array 'y' is stored twice at the same place
kernel "k" {
  sig = "x: f32[tok?,d] -> y: f32[tok?,d]",
  body = function(a)
    for t in each("tok", a.tok) do
      for r in each("row", a.d) do
        for _ = 1, 10 ^ 6 do a.y[t][r] = a.x[t][r] end
      end
    end
  end,
  map = schedules.rows,
}
