-- Q5_K: a super-block of 256 elements in 176 bytes, eight sub-blocks of 32 with 6-bit scales and minimums as in Q4_K.
--   | d f16 | dmin f16 | scales[12] | qh[32]: bit k/32 of byte k%32 | q[128]: low four bits as in Q4_K |
return {
  ggml = 13, block = 256, bytes = 176,
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
    q = { bits = function(k)
      return { { 48 + k // 64 * 32 + k % 32, k // 32 % 2 * 4, 4 }, { 16 + k % 32, k // 32, 1 } }
    end },
  },
  value = function(f) return f.d * f.sc * f.q - f.dmin * f.m end,
}
