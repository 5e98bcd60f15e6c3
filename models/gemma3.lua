-- Gemma 3 (text): QK-norm, norms before and after each block, GeGLU, scaled embedding; five layers with a sliding
-- window and a rotary base of 10,000 for each global one, unless the file says otherwise. The file's norm weights
-- already hold 1 + w.

return {
  graph = function(b)
    local period = blocks.count(b, "attention.sliding_window_pattern", 6)
    local function is_global(l) return l % period == period - 1 end
    return blocks.decoder(b, {
      qk_norm = true, post_norms = true, gate = "gelu_mul",
      embed_scale = function(d) return d ^ 0.5 end,
      rotary = function(_, hd, l)
        if is_global(l) then return blocks.rotary(b, hd, blocks.positive(b, "rope.freq_base", 1000000)) end
        return { base = blocks.positive(b, "rope.freq_base_swa", 10000), dim = hd }
      end,
      window = function(_, l) return is_global(l) and 0 or blocks.count(b, "attention.sliding_window") end,
    })
  end,
}
