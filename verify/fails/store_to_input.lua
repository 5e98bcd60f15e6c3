-- store_to_input.lua:6: kernel 'k': array 'x' is an input; it cannot be stored
kernel "k" {
  sig = "x: f32[tok?,d] -> y: f32[tok?,d]",
  body = function(a)
    for t in each("tok", a.tok) do
      for r in each("row", a.d) do a.x[t][r] = 1 end
    end
  end,
  map = schedules.rows,
}
