-- Q4_1: 32 elements in 20 bytes: scale d, minimum m, then 16 bytes of codes; byte j holds element j in its low half and
-- element j + 16 in its high half.
--   | d f16 | m f16 | q[0..15]: hi nibble k = j+16, lo nibble k = j |
return {
  ggml = 3, block = 32, bytes = 20,
  fields = {
    d = { per = 32, at = 0, type = "f16" },
    m = { per = 32, at = 2, type = "f16" },
    q = { bits = function(k) return { { 4 + k % 16, k // 16 * 4, 4 } } end },
  },
  value = function(f) return f.d * f.q + f.m end,
}
