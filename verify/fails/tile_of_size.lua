-- kernel 'k': tile of axis 'tok' is 8; expected a multiple of 16 up to 64
kernel "k" {
  sig = "x: f32[tok?,d] -> y: f32[tok?,d]",
  body = function(a)
    for t in each("tok", a.tok) do
      for r in each("row", a.d) do a.y[t][r] = a.x[t][r] end
    end
  end,
  map = { task = { "row" }, lane = "row", unroll = {}, tile = { tok = 8 } },
}
