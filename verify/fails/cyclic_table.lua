-- cyclic_table.lua:8: kernel 'k': +: expected a number or an expression, got table
kernel "k" {
  sig = "x: f32[tok?,d] -> y: f32[tok?,d]",
  body = function(a)
    local loop = {}
    loop.loop = loop
    for t in each("tok", a.tok) do
      for r in each("row", a.d) do a.y[t][r] = a.x[t][r] + loop.loop.loop end
    end
  end,
  map = schedules.rows,
}
