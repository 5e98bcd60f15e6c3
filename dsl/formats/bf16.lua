-- BF16: the upper half of IEEE single precision.
return {
  ggml = 30, block = 1, bytes = 2, halves = true, -- activations may have it too
  fields = { x = { at = 0, type = "bf16" } },
  value = function(f) return f.x end,
}
