-- Qwen 2 and 2.5: the Llama graph with biases on q, k and v (taken where the file has them), pairs in split halves.
return {
  graph = function(b)
    return blocks.decoder(b, { rotary = function(_, hd) return blocks.rotary(b, hd) end })
  end,
}
