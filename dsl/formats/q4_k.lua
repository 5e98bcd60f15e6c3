-- Q4_K: a super-block of 256 elements in 144 bytes, eight sub-blocks of 32 with 6-bit scales and minimums.
--   | d f16 | dmin f16 | scales[12] | q[128]: per 64 elements 32 bytes, lo nibble first 32, hi nibble next 32 |
-- scales: sub-blocks j < 4 have 6 bits in byte j (scale) and j + 4 (minimum); sub-blocks j >= 4 have their low 4 bits
-- in the halves of byte j + 4 and their high 2 bits on top of bytes j − 4 and j.
return {
  ggml = 12, block = 256, bytes = 144,
  fields = {
    d = { per = 256, at = 0, type = "f16" },
    dmin = { per = 256, at = 2, type = "f16" },
    sc = { per = 32, bits = function(j)
      if j < 4 then return { { 4 + j, 0, 6 } } end
      return { { 8 + j, 0, 4 }, { j, 6, 2 } }
    end },
    m = { per = 32, bits = function(j)
      if j < 4 then return { { 8 + j, 0, 6 } } end
      return { { 8 + j, 4, 4 }, { 4 + j, 6, 2 } }
    end },
    q = { bits = function(k) return { { 16 + k // 64 * 32 + k % 32, k // 32 % 2 * 4, 4 } } end },
  },
  value = function(f) return f.d * f.sc * f.q - f.dmin * f.m end,
}
