-- Q2_K: a super-block of 256 elements in 84 bytes, sixteen sub-blocks of 16 with 4-bit scales and minimums.
--   | scales[16]: lo nibble scale, hi nibble minimum | q[64]: per 128 elements 32 bytes, 2 bits per run of 32 | d f16 |
--   | dmin f16 |
return {
  ggml = 10, block = 256, bytes = 84,
  fields = {
    d = { per = 256, at = 80, type = "f16" },
    dmin = { per = 256, at = 82, type = "f16" },
    sc = { per = 16, bits = function(j) return { { j, 0, 4 } } end },
    m = { per = 16, bits = function(j) return { { j, 4, 4 } } end },
    q = { bits = function(k) return { { 16 + k // 128 * 32 + k % 32, k // 32 % 4 * 2, 2 } } end },
  },
  value = function(f) return f.d * f.sc * f.q - f.dmin * f.m end,
}
