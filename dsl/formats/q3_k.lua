-- Q3_K: a super-block of 256 elements in 110 bytes, sixteen sub-blocks of 16 with 6-bit scales offset by 32.
--   | hmask[32]: bit k/32 of byte k%32 | q[64]: low two bits as in Q2_K | scales[12] | d f16 |
-- The third bit comes from hmask; codes are offset by 4. Scale j: low 4 bits in the halves of bytes 0..7, high 2 bits
-- in bytes 8..11.
return {
  ggml = 11, block = 256, bytes = 110,
  fields = {
    d = { per = 256, at = 108, type = "f16" },
    sc = { per = 16, bits = function(j)
      return { { 96 + j % 8, j // 8 * 4, 4 }, { 104 + j % 4, j // 4 * 2, 2 } }
    end, bias = 32 },
    q = { bits = function(k)
      return { { 32 + k // 128 * 32 + k % 32, k // 32 % 4 * 2, 2 }, { k % 32, k // 32, 1 } }
    end, bias = 4 },
  },
  value = function(f) return f.d * f.sc * f.q end,
}
