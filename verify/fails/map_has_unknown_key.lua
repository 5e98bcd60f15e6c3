-- kernel 'k': a map has task, lane, unroll, rows_across, tile, split, matrix and few; not 'lanes'
kernel "k" {
  sig = "x: f32[tok?,d] -> y: f32[tok?,d]",
  body = function(a)
    for t in each("tok", a.tok) do
      for r in each("row", a.d) do a.y[t][r] = a.x[t][r] end
    end
  end,
  map = { task = { "tok" }, lanes = "row", unroll = {} },
}
