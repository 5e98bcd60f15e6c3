-- IQ4_NL: 32 elements in 18 bytes as Q4_0, but a code is an index into a table of sixteen signed values.
return {
  ggml = 20, block = 32, bytes = 18,
  fields = {
    d = { per = 32, at = 0, type = "f16" },
    q = { bits = function(k) return { { 2 + k % 16, k // 16 * 4, 4 } } end,
          table = { -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113 } },
  },
  value = function(f) return f.d * f.q end,
}
