-- Q4_0: 32 elements in 18 bytes: scale d, then 16 bytes of codes offset by 8; byte j holds element j in its low half
-- and element j + 16 in its high half.
return {
  ggml = 2, block = 32, bytes = 18,
  fields = {
    d = { per = 32, at = 0, type = "f16" },
    q = { bits = function(k) return { { 2 + k % 16, k // 16 * 4, 4 } } end, bias = 8 },
  },
  value = function(f) return f.d * f.q end,
}
