-- fold_without_monoid.lua:6: kernel 'k': fold over 'k': expected a monoid
kernel "k" {
  sig = "x: f32[tok?,d] -> y: f32[tok?]",
  body = function(a)
    for t in each("tok", a.tok) do
      a.y[t] = fold("k", a.d, max, function(k) return { v = a.x[t][k] } end).v
    end
  end,
  map = schedules.rows,
}
