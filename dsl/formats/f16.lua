-- F16: plain IEEE half precision.
return {
  ggml = 1, block = 1, bytes = 2,
  fields = { x = { at = 0, type = "f16" } },
  value = function(f) return f.x end,
}
