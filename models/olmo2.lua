-- OLMo 2: the outputs of attention and feed-forward are normed instead of their inputs; q and k are normed whole, all
-- heads together, before rotation.
return {
  graph = function(b)
    return blocks.decoder(b, {
      qk_norm = "whole", post_norms = true, no_pre_norms = true,
      rotary = function(_, hd) return blocks.rotary(b, hd) end,
    })
  end,
}
