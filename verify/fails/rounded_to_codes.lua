-- rounded_to_codes.lua:6: kernel 'k': rounded() takes f32, f16 or bf16, not q8
kernel "k" {
  sig = "x: f32[tok?,d] -> y: f32[tok?,d]",
  body = function(a)
    for t in each("tok", a.tok) do
      for r in each("row", a.d) do a.y[t][r] = rounded("q8", a.x[t][r]) end
    end
  end,
  map = schedules.rows,
}
