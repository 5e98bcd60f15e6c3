-- Q8_0: 32 elements in 34 bytes: scale d, then 32 signed bytes.
return {
  ggml = 8, block = 32, bytes = 34,
  fields = {
    d = { per = 32, at = 0, type = "f16" },
    q = { at = 2, type = "i8" },
  },
  value = function(f) return f.d * f.q end,
}
