-- kernel 'k': the run-time axis 'tok' cannot be unrolled whole
kernel "k" {
  sig = "x: f32[tok?,d] -> y: f32[tok?,d]",
  body = function(a)
    for t in each("tok", a.tok) do
      for r in each("row", a.d) do a.y[t][r] = a.x[t][r] end
    end
  end,
  map = { task = {}, unroll = { tok = "all" } },
}
