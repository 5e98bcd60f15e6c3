-- kernel 'k': unroll of axis 'tok' is 1000000000; expected 1 to 4096, "all" or the name of a tunable
kernel "k" {
  sig = "x: f32[tok?,d] -> y: f32[tok?,d]",
  body = function(a)
    for t in each("tok", a.tok) do
      for r in each("row", a.d) do a.y[t][r] = a.x[t][r] end
    end
  end,
  map = { task = { "tok" }, lane = "row", unroll = { tok = 1000000000 } },
}
