-- step names unknown kernel 'nope'
fused "k" {
  sig = "x: f32[tok?,d] -> y: f32[tok?,d]",
  steps = { { "nope", x = "x", y = "y" } },
}
