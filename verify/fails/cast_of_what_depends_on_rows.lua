-- kernel 'k': as(): the vector may depend on the token axis only, not on 'row'
kernel "k" {
  sig = "x: f32[tok?,d], w: W[n,d], act: format -> y: f32[tok?,n]",
  body = function(a)
    for t in each("tok", a.tok) do
      for r in each("row", a.n) do
        local xs = as(a.act, vec("k", a.d, function(k) return a.x[t][k] * a.x[t][r] end))
        a.y[t][r] = sum("k", a.d, function(k) return a.w[r][k] * xs[k] end)
      end
    end
  end,
  map = schedules.contract,
}
