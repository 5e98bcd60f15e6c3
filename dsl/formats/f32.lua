-- F32: plain IEEE single precision.
return {
  ggml = 0, block = 1, bytes = 4,
  fields = { x = { at = 0, type = "f32" } },
  value = function(f) return f.x end,
}
