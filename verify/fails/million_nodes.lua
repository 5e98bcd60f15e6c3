-- million_nodes.lua:8: kernel 'k': the kernel grew past
kernel "k" {
  sig = "x: f32[tok?,d] -> y: f32[tok?,d]",
  body = function(a)
    for t in each("tok", a.tok) do
      local v = a.x[t][0]
      for _ = 1, 10 ^ 7 do
        v = v * v + 1
      end
      for r in each("row", a.d) do a.y[t][r] = v end
    end
  end,
  map = schedules.rows,
}
