-- Blocks that model families are made of: what the decoders of this decade have in common, with their differences as
-- options. A family file states the options; one that does not fit writes its graph with b:call directly.

local M = {}

-- A head's elements are computed together, in registers: wider ones than this would not end in sensible code.
local MAX_HEAD = 1024

-- A whole number of the model's metadata, from `least` on.
function M.count(b, name, default, least)
  local v = b:key(name, default)
  if math.type(v) ~= "integer" or v < (least or 1) then
    error(("key '%s.%s' is %s, expected a whole number from %d on%s"):format(b.arch, name,
      type(v) == "table" and "a list" or type(v) == "string" and "text" or tostring(v), least or 1,
      type(v) == "table" and "; layers of different widths are not supported" or ""), 0)
  end
  return v
end

-- A positive number of the model's metadata.
function M.positive(b, name, default)
  local v = b:key(name, default)
  if type(v) ~= "number" or not (v > 0 and v < math.huge) then
    error(("key '%s.%s' is %s, expected a positive number"):format(b.arch, name,
      type(v) == "number" and tostring(v) or "no number"), 0)
  end
  return v
end

-- W·x. Inputs that are no whole number of activation blocks stay f32.
local function product(b, x, w)
  return b:call("linear", { x = x, w = w, act = x.dims[2] % 32 ~= 0 and "f32" or nil })
end

-- Linear layer NAME.weight [rows, cols], with NAME.bias where the file has one.
function M.linear(b, x, name, rows, opts)
  local y = product(b, x, b:weight(name .. ".weight", { rows, x.dims[2] }, opts))
  if b:has(name .. ".bias") then y = b:call("add_bias", { x = y, b = b:weight(name .. ".bias", { rows }, opts) }) end
  return y
end

-- Rotary positions of a model: base and, where the file gives them, factors (Llama 3.1) or a linear scaling.
function M.rotary(b, hd, base)
  local rot = { base = base or M.positive(b, "rope.freq_base", 10000), dim = hd }
  local dims = b:key("rope.dimension_count", hd)
  if dims ~= hd then
    error(("key '%s.rope.dimension_count' is %s; only rotating all %d elements of a head is supported"):format(b.arch,
      tostring(dims), hd), 0)
  end
  local scaling = b:key("rope.scaling.type", "none")
  if scaling == "linear" then
    rot.scale = M.positive(b, "rope.scaling.factor")
  elseif scaling ~= "none" then
    error(("key '%s.rope.scaling.type': rotary scaling '%s' is not supported; none and linear are"):format(b.arch,
      tostring(scaling)), 0)
  end
  if b:has("rope_freqs.weight") then
    b:weight("rope_freqs.weight", { hd // 2 })
    rot.factors = "rope_freqs.weight"
  end
  return rot
end

-- A pre-norm decoder with rotary positions and grouped-query attention.
--   interleaved    llama.cpp interleaved the rotated pairs of q and k when it converted
--   gate           the gated activation's kernel: "silu_mul", "gelu_mul"
--   qk_norm        q and k are normed: true, head by head; "whole", all heads together
--   post_norms     the outputs of attention and feed-forward are normed before they are added
--   no_pre_norms   their inputs are not
--   embed_scale    the embedding is multiplied by it
--   rotary(l)      rotary positions of layer l
--   window(l)      keys seen in layer l; 0: all
function M.decoder(b, o)
  local n_layers, d = M.count(b, "block_count"), M.count(b, "embedding_length")
  local n_heads = M.count(b, "attention.head_count")
  local n_kv = M.count(b, "attention.head_count_kv", n_heads)
  local ff, eps = M.count(b, "feed_forward_length"), M.positive(b, "attention.layer_norm_rms_epsilon")
  local ctx = M.count(b, "context_length")
  if n_heads % n_kv ~= 0 then
    error(("key '%s.attention.head_count_kv': %d query heads cannot share %d key heads"):format(b.arch, n_heads,
      n_kv), 0)
  end
  if not b:has_key("attention.key_length") and d % n_heads ~= 0 then
    error(("key '%s.attention.head_count': a width of %d is not divisible into %d heads"):format(b.arch, d, n_heads), 0)
  end
  local hd = M.count(b, "attention.key_length", d // n_heads)
  if hd % 2 ~= 0 or hd > MAX_HEAD then
    error(("key '%s.attention.key_length': heads of %d are not supported; expected an even width up to %d"):format(
      b.arch, hd, MAX_HEAD), 0)
  end
  if b:key("attention.value_length", hd) ~= hd then
    error(("key '%s.attention.value_length' is %s; values of another width than keys (%d) are not supported"):format(
      b.arch, tostring(b:key("attention.value_length")), hd), 0)
  end
  local vocab = b:rows("token_embd.weight")

  local embedding = b:weight("token_embd.weight", { vocab, d })
  local x = b:call("embed", { ids = b.ids, w = embedding, scale = o.embed_scale and o.embed_scale(d) or 1 })
  local halves = o.interleaved and { halves = hd } or nil
  for l = 0, n_layers - 1 do
    local function name(s) return ("blk.%d.%s"):format(l, s) end
    local function norm(t, s) return b:call("rmsnorm", { x = t, g = b:weight(name(s), { d }), eps = eps }) end
    local rot = o.rotary(b, hd, l)
    local cos, sin = b:table("rope_cos", rot), b:table("rope_sin", rot)

    local h = o.no_pre_norms and x or norm(x, "attn_norm.weight")
    local q = M.linear(b, h, name("attn_q"), n_heads * hd, halves)
    local k = M.linear(b, h, name("attn_k"), n_kv * hd, halves)
    local v = b:view(M.linear(b, h, name("attn_v"), n_kv * hd), { n_kv, hd })
    if o.qk_norm == "whole" then
      q = b:call("rmsnorm", { x = q, g = b:weight(name("attn_q_norm.weight"), { n_heads * hd }), eps = eps })
      k = b:call("rmsnorm", { x = k, g = b:weight(name("attn_k_norm.weight"), { n_kv * hd }), eps = eps })
    end
    q, k = b:view(q, { n_heads, hd }), b:view(k, { n_kv, hd })
    if o.qk_norm == true then
      q = b:call("head_norm", { x = q, g = b:weight(name("attn_q_norm.weight"), { hd }), eps = eps })
      k = b:call("head_norm", { x = k, g = b:weight(name("attn_k_norm.weight"), { hd }), eps = eps })
    end
    q = b:call("rope", { x = q, cos = cos, sin = sin })
    k = b:call("rope", { x = k, cos = cos, sin = sin })
    local kc, vc = b:cache("k" .. l, n_kv, hd), b:cache("v" .. l, n_kv, hd)
    b:call("kv_append", { k = k, v = v, pages = b.pages, kc = kc, vc = vc })
    local a = b:call("attention", { q = q, kc = kc, vc = vc, pages = b.pages,
                                    scale = M.positive(b, "attention.scale", hd ^ -0.5),
                                    window = o.window and o.window(b, l) or 0 })
    a = M.linear(b, b:view(a, { n_heads * hd }), name("attn_output"), d)
    if l == n_layers - 1 then b:head() end
    if o.post_norms then a = norm(a, "post_attention_norm.weight") end
    x = b:call("add", { a = x, b = a })

    h = o.no_pre_norms and x or norm(x, "ffn_norm.weight")
    local gate = M.linear(b, h, name("ffn_gate"), ff)
    local up = M.linear(b, h, name("ffn_up"), ff)
    h = M.linear(b, b:call(o.gate or "silu_mul", { gate = gate, up = up }), name("ffn_down"), d)
    if o.post_norms then h = norm(h, "post_ffw_norm.weight") end
    x = b:call("add", { a = x, b = h })
  end
  local h = b:call("rmsnorm", { x = x, g = b:weight("output_norm.weight", { d }), eps = eps })
  local head = b:has("output.weight") and b:weight("output.weight", { vocab, d }) or embedding
  local logits = product(b, h, head)
  return { logits = logits, hyper = { n_layers = n_layers, d = d, n_heads = n_heads, n_kv = n_kv, hd = hd, ff = ff,
                                      vocab = vocab, ctx = ctx } }
end

return M
