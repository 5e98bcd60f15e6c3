-- q8: the activation format. A block of 256 has one float32 scale; where all of a run of 32 are small beside the
-- block's largest, the run's step is halved, up to three times. So a run's scale is the block's least times a power of
-- two: sums of a run's codes are integers, shifted, and a float32 factor is needed once a block. A width that is no
-- multiple of 256 has blocks of 128, 64 or 32. Not a file format.
-- encode: how values become fields; x(e) is the e-th value, amax() the largest magnitude, amax(r) that of the r-th run.
local HALVINGS = 3 -- so that the sum of a run's codes in the block's least steps has 16 bits: 32 · 127 · 2^3 < 2^15
return {
  block = 256, least = 32, bytes = 292, activation = true,
  fields = {
    d = { per = 256, at = 256, type = "f32" },
    s = { per = 32, at = 260, type = "pow2" },
    q = { at = 0, type = "i8" },
  },
  value = function(f) return f.d * f.s * f.q end,
  encode = function(x, amax, op)
    local none = op.lt(amax(), 0x1p-107) -- the halved steps' reciprocals would overflow: such a block is zero
    local inv = op.select(none, 0, 127 / amax())
    local function halvings(r) return op.doublings(amax(r), amax(), HALVINGS) end
    return {
      d = op.select(none, 0, amax() / (127 * 2.0 ^ HALVINGS)),
      s = function(r) return op.minus(HALVINGS, halvings(r)) end,
      q = function(e, r) return op.round(x(e) * (inv * op.pow2(halvings(r)))) end,
    }
  end,
}
