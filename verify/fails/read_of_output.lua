-- read_of_output.lua:6: kernel 'k': array 'y' is an output; it cannot be read
kernel "k" {
  sig = "x: f32[tok?,d] -> y: f32[tok?,d]",
  body = function(a)
    for t in each("tok", a.tok) do
      for r in each("row", a.d) do a.y[t][r] = a.y[t][r] + a.x[t][r] end
    end
  end,
  map = schedules.rows,
}
