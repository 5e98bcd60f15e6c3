-- Q6_K: a super-block of 256 elements in 210 bytes, sixteen sub-blocks of 16 with signed 8-bit scales.
--   | ql[128]: per 128 elements 64 bytes, lo nibble first 64, hi nibble next 64 | qh[64]: per 128 elements 32 bytes,
--   2 bits per run of 32 | scales[16] i8 | d f16 |      codes are offset by 32
return {
  ggml = 14, block = 256, bytes = 210,
  fields = {
    d = { per = 256, at = 208, type = "f16" },
    sc = { per = 16, at = 192, type = "i8" },
    q = { bits = function(k)
      return { { k // 128 * 64 + k % 64, k // 64 % 2 * 4, 4 }, { 128 + k // 128 * 32 + k % 32, k // 32 % 4 * 2, 2 } }
    end, bias = 32 },
  },
  value = function(f) return f.d * f.sc * f.q end,
}
