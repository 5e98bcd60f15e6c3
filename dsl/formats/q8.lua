-- q8: the activation format: 32 elements share one float32 scale. Not a file format.
-- encode: how values become fields; x(e) is the e-th value of a block, `amax` its largest magnitude.
return {
  block = 32, bytes = 36, activation = true,
  fields = {
    d = { per = 32, at = 32, type = "f32" },
    q = { at = 0, type = "i8" },
  },
  value = function(f) return f.d * f.q end,
  encode = function(x, amax, op)
    local none = op.lt(amax, 3.8e-37) -- 127 / amax would overflow: such a block is zero; one with a NaN is not
    local inv = op.select(none, 0, 127 / amax)
    return { d = op.select(none, 0, amax / 127), q = function(e) return op.round(x(e) * inv) end }
  end,
}
