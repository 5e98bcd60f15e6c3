-- kernel 'k': unknown format 'q9_9'; known: 
-- spec: {"formats": {"W": "q9_9"}}
kernel "k" {
  sig = "x: f32[tok?,d], w: W[n,d], act: format -> y: f32[tok?,n]",
  body = function(a)
    for t in each("tok", a.tok) do
      local xs = as(a.act, vec("k", a.d, function(k) return a.x[t][k] end))
      for r in each("row", a.n) do a.y[t][r] = sum("k", a.d, function(k) return a.w[r][k] * xs[k] end) end
    end
  end,
  map = schedules.contract,
}
