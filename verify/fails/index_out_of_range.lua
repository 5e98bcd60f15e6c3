-- index_out_of_range.lua:6: kernel 'k': index 2 of array 'x' runs from 1 to 64; its axis has 64 elements
kernel "k" {
  sig = "x: f32[tok?,d] -> y: f32[tok?,d]",
  body = function(a)
    for t in each("tok", a.tok) do
      for r in each("row", a.d) do a.y[t][r] = a.x[t][r + 1] end
    end
  end,
  map = schedules.rows,
}
