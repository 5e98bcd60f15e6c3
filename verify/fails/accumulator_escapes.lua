-- accumulator_escapes.lua:11: kernel 'k': the value stored to 'y' uses axis 'row' outside its loop; to accumulate over an axis use sum or fold
kernel "k" {
  sig = "x: f32[tok?,d] -> y: f32[tok?], z: f32[tok?,d]",
  body = function(a)
    for t in each("tok", a.tok) do
      local acc = 0
      for r in each("row", a.d) do
        a.z[t][r] = a.x[t][r]
        acc = acc + a.x[t][r]
      end
      a.y[t] = acc
    end
  end,
  map = schedules.rows,
}
