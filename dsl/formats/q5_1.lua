-- Q5_1: 32 elements in 24 bytes: scale d, minimum m, the fifth bits (bit k of a 32-bit word), then nibbles as in Q4_1.
--   | d f16 | m f16 | qh u32 | q[0..15] |
return {
  ggml = 7, block = 32, bytes = 24,
  fields = {
    d = { per = 32, at = 0, type = "f16" },
    m = { per = 32, at = 2, type = "f16" },
    q = { bits = function(k) return { { 8 + k % 16, k // 16 * 4, 4 }, { 4 + k // 8, k % 8, 1 } } end },
  },
  value = function(f) return f.d * f.q + f.m end,
}
