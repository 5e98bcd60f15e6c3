-- endless_loop.lua:6: kernel 'k': ran over its budget of
kernel "k" {
  sig = "x: f32[tok?,d] -> y: f32[tok?,d]",
  body = function(a)
    for t in each("tok", a.tok) do
      while true do t = t end
    end
  end,
  map = schedules.rows,
}
