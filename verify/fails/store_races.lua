-- store_races.lua:7: kernel 'k': the store to 'y' is not indexed by the enclosing axis 'tok' (a race)
kernel "k" {
  sig = "x: f32[tok?,d] -> y: f32[d]",
  body = function(a)
    for t in each("tok", a.tok) do
      for r in each("row", a.d) do
        a.y[r] = a.x[t][r]
      end
    end
  end,
  map = schedules.rows,
}
