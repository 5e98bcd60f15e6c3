-- select_without_condition.lua:6: kernel 'k': select's condition comes from lt, le or eq
kernel "k" {
  sig = "x: f32[tok?,d] -> y: f32[tok?,d]",
  body = function(a)
    for t in each("tok", a.tok) do
      for r in each("row", a.d) do a.y[t][r] = select(a.x[t][r], 1, 0) end
    end
  end,
  map = schedules.rows,
}
