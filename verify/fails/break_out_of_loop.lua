-- break_out_of_loop.lua:5: kernel 'k': break or return out of the loop over axis 'row'
kernel "k" {
  sig = "x: f32[tok?,d] -> y: f32[tok?,d]",
  body = function(a)
    for t in each("tok", a.tok) do
      for r in each("row", a.d) do
        a.y[t][r] = a.x[t][r]
        break
      end
    end
  end,
  map = schedules.rows,
}
