-- 's' lies in the launch's workspace, and its axis 'npages' is known at run time only, which there the first may be
kernel "squares" {
  sig = "x: f32[tok?,npages?,8] -> y: f32[tok?,npages?,8]",
  body = function(a)
    for t in each("tok", a.tok) do
      for b in each("page", a.npages) do
        for i in each("i", 8) do a.y[t][b][i] = a.x[t][b][i] * sum("j", 8, function(j) return a.x[t][b][j] end) end
      end
    end
  end,
  map = schedules.heads,
}
kernel "total" {
  sig = "x: f32[tok?,npages?,8] -> y: f32[tok?,8]",
  body = function(a)
    for t in each("tok", a.tok) do
      for i in each("i", 8) do a.y[t][i] = sum("b", a.npages, function(b) return a.x[t][b][i] end) end
    end
  end,
  map = schedules.heads,
}
fused "k" {
  sig = "x: f32[tok?,npages?,8] -> y: f32[tok?,8]",
  steps = { { "squares", x = "x", y = "s" }, { "total", x = "s", y = "y" } },
}
