-- Llama and what shares its graph (SmolLM2, TinyLlama, Mistral): RMSNorm, rotary positions, grouped-query attention,
-- SwiGLU. Tensor names: the GGUF naming of llama.cpp, which interleaves the rotated pairs of this family.
return {
  graph = function(b)
    return blocks.decoder(b, {
      interleaved = true,
      rotary = function(_, hd) return blocks.rotary(b, hd) end,
      window = function() return blocks.count(b, "attention.sliding_window", 0, 0) end,
    })
  end,
}
