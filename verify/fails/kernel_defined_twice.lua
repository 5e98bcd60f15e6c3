-- kernel_defined_twice.lua:2: kernel 'linear' is defined twice
kernel "linear" {
  sig = "x: f32[tok?,d] -> y: f32[tok?,d]",
  body = function() end,
  map = schedules.rows,
}
