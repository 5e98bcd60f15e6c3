-- Q5_0: 32 elements in 22 bytes: scale d, the fifth bits (bit k of a 32-bit word), then nibbles as in Q4_0; offset 16.
--   | d f16 | qh u32 | q[0..15] |
return {
  ggml = 6, block = 32, bytes = 22,
  fields = {
    d = { per = 32, at = 0, type = "f16" },
    q = { bits = function(k) return { { 6 + k % 16, k // 16 * 4, 4 }, { 2 + k // 8, k % 8, 1 } } end, bias = 16 },
  },
  value = function(f) return f.d * f.q end,
}
