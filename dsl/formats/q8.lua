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
    local some = op.lt(3.8e-37, amax) -- below, 127 / amax overflows: such a block is zero
    local inv = op.select(some, 127 / amax, 0)
    return { d = op.select(some, amax / 127, 0), q = function(e) return op.round(x(e) * inv) end }
  end,
}
