-- Qwen 3: q and k are normed head by head before rotation; no biases.
return {
  graph = function(b)
    return blocks.decoder(b, { qk_norm = true, rotary = function(_, hd) return blocks.rotary(b, hd) end })
  end,
}
