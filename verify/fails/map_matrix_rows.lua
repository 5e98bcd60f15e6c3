-- kernel 'k': matrix[1].rows is 32; see docs/dsl.md
kernel "k" {
  sig = "x: f32[tok?,d] -> y: f32[tok?,d]",
  body = function(a)
    for t in each("tok", a.tok) do
      for r in each("row", a.d) do a.y[t][r] = a.x[t][r] end
    end
  end,
  map = { task = { "tok" }, lane = "row", unroll = {},
          matrix = { { upto = 8, rows = 32, tok = 8, parts = 8 }, { rows = 128, tok = 64, parts = 1 } } },
}
