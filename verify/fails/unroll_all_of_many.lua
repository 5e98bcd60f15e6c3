-- kernel 'k': unrolling all 1000000 of axis 'row'; at most 4096
-- spec: {"sizes": {"d": 1000000}}
kernel "k" {
  sig = "x: f32[tok?,d] -> y: f32[tok?,d]",
  body = function(a)
    for t in each("tok", a.tok) do
      for r in each("row", a.d) do a.y[t][r] = a.x[t][r] end
    end
  end,
  map = { task = { "tok" }, unroll = { row = "all" } },
}
