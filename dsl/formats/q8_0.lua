-- Q8_0: 32 elements in 34 bytes: scale d, then 32 signed bytes.
return {
  ggml = 8, block = 32, bytes = 34,
  fields = {
    d = { per = 32, at = 0, type = "f16" },
    q = { at = 2, type = "i8" },
  },
  value = function(f) return f.d * f.q end,
  -- How values become a block (for the KV cache): x(e) is the e-th of them, amax() the largest magnitude.
  encode = function(x, amax, op)
    local none = op.lt(amax(), 3.8e-37) -- 127 / amax would overflow: such a block is zero; one with a NaN is not
    local inv = op.select(none, 0, 127 / amax())
    return { d = op.select(none, 0, amax() / 127), q = function(e) return op.round(x(e) * inv) end }
  end,
}
