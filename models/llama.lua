-- Llama, and what shares its graph (SmolLM2, TinyLlama, Mistral without windows): RMSNorm, rotary positions,
-- grouped-query attention, SwiGLU. Tensor names: the GGUF naming of llama.cpp.
return {
  graph = function(b)
    local n_layers, d = b:key("block_count"), b:key("embedding_length")
    local n_heads = b:key("attention.head_count")
    local n_kv = b:key("attention.head_count_kv", n_heads)
    local ff, eps = b:key("feed_forward_length"), b:key("attention.layer_norm_rms_epsilon")
    if n_heads < 1 or n_kv < 1 or n_heads % n_kv ~= 0 then
      error(("%d query heads cannot share %d key heads"):format(n_heads, n_kv), 0)
    end
    local hd = b:key("attention.key_length", d // n_heads)
    local vocab = b.tensors_in["token_embd.weight"].ne[2]
    local rot = { base = b:key("rope.freq_base", 10000), dim = hd }
    local cos, sin = b:table("rope_cos", rot), b:table("rope_sin", rot)

    local table_w = b:weight("token_embd.weight", { vocab, d })
    local x = b:call("embed", { ids = b.ids, w = table_w, scale = 1 })
    for l = 0, n_layers - 1 do
      local function w(name, dims, opts) return b:weight(("blk.%d.%s.weight"):format(l, name), dims, opts) end
      local kc, vc = b:cache("k" .. l, n_kv, hd), b:cache("v" .. l, n_kv, hd)

      local h = b:call("rmsnorm", { x = x, g = w("attn_norm", { d }), eps = eps })
      -- llama.cpp interleaves the rotated pairs of q and k when it converts; halves undoes it.
      local q = b:call("linear", { x = h, w = w("attn_q", { n_heads * hd, d }, { halves = hd }) })
      local k = b:call("linear", { x = h, w = w("attn_k", { n_kv * hd, d }, { halves = hd }) })
      local v = b:call("linear", { x = h, w = w("attn_v", { n_kv * hd, d }) })
      q = b:call("rope", { x = b:view(q, { n_heads, hd }), cos = cos, sin = sin })
      k = b:call("rope", { x = b:view(k, { n_kv, hd }), cos = cos, sin = sin })
      b:call("kv_append", { k = k, v = b:view(v, { n_kv, hd }), pages = b.pages, kc = kc, vc = vc })
      local o = b:call("attention", { q = q, kc = kc, vc = vc, pages = b.pages, scale = hd ^ -0.5 })
      o = b:call("linear", { x = b:view(o, { n_heads * hd }), w = w("attn_output", { d, n_heads * hd }) })
      if l == n_layers - 1 then b:head() end
      x = b:call("add", { a = x, b = o })

      h = b:call("rmsnorm", { x = x, g = w("ffn_norm", { d }), eps = eps })
      local gate = b:call("linear", { x = h, w = w("ffn_gate", { ff, d }) })
      local up = b:call("linear", { x = h, w = w("ffn_up", { ff, d }) })
      h = b:call("silu_mul", { gate = gate, up = up })
      h = b:call("linear", { x = h, w = w("ffn_down", { d, ff }) })
      x = b:call("add", { a = x, b = h })
    end
    local h = b:call("rmsnorm", { x = x, g = b:weight("output_norm.weight", { d }), eps = eps })
    local head = b:has("output.weight") and b:weight("output.weight", { vocab, d }) or table_w
    local logits = b:call("linear", { x = h, w = head })
    return { logits = logits, hyper = { n_layers = n_layers, d = d, n_heads = n_heads, n_kv = n_kv, hd = hd, ff = ff,
                                        vocab = vocab, ctx = b:key("context_length") } }
  end,
}
