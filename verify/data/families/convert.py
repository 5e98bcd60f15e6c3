"""Hugging Face model directories as GGUF, the way llama.cpp's converter writes them: tensor names, metadata keys, and
what it changes in the weights. Shares nothing with kgen, so that kgen's reading of these files is checked by it.

Usage: convert.py HF_DIR OUT.gguf [--vocab]
Matrices keep the type they are stored in; vectors become float32. --vocab adds a made-up SentencePiece vocabulary of the
model's size (bytes, then words), so that `kgen run` can use the file. Needs numpy and gguf from PyPI.
"""
import argparse
import glob
import json
import math
import os
import re

import gguf
import numpy as np

QT = gguf.GGMLQuantizationType
# Stored type by safetensors' name: numpy type of the bytes, ggml type.
STORED = {"F32": (np.float32, QT.F32), "F16": (np.float16, QT.F16), "BF16": (np.uint16, QT.BF16)}


class Tensor:
    """Values [rows, …] of a numpy type, or rows of raw bytes where the ggml type is a block format."""

    def __init__(self, data, qtype):
        self.data, self.qtype = data, qtype

    def f32(self):
        if self.qtype == QT.BF16:
            return (self.data.astype(np.uint32) << 16).view(np.float32)
        return self.data.astype(np.float32)

    def with_data(self, data):
        return Tensor(np.ascontiguousarray(data), self.qtype)


def load(hf_dir):
    """All tensors of a directory's safetensors files by name."""
    tensors = {}
    for path in sorted(glob.glob(os.path.join(hf_dir, "*.safetensors"))):
        raw = open(path, "rb").read()
        n = int.from_bytes(raw[:8], "little")
        for name, t in json.loads(raw[8:8 + n]).items():
            if name == "__metadata__":
                continue
            kind, qtype = STORED[t["dtype"]]
            lo, hi = t["data_offsets"]
            tensors[name] = Tensor(np.frombuffer(raw[8 + n + lo:8 + n + hi], kind).reshape(t["shape"]), qtype)
    return tensors


ARCH = {"LlamaForCausalLM": "llama", "MistralForCausalLM": "llama", "MixtralForCausalLM": "llama",
        "Qwen2ForCausalLM": "qwen2", "Qwen3ForCausalLM": "qwen3", "Gemma3ForCausalLM": "gemma3",
        "Gemma2ForCausalLM": "gemma2", "Phi3ForCausalLM": "phi3", "PhiForCausalLM": "phi2", "Olmo2ForCausalLM": "olmo2",
        "StableLmForCausalLM": "stablelm", "GPTNeoXForCausalLM": "gptneox", "GPT2LMHeadModel": "gpt2"}

# Names after "layers.N.", "h.N.": GGUF's after "blk.N.".
LAYER = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "self_attn.dense": "attn_output", "attention.dense": "attn_output",
    "self_attn.qkv_proj": "attn_qkv", "attention.query_key_value": "attn_qkv",
    "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm", "input_layernorm": "attn_norm",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "mlp.gate_up_proj": "ffn_up",
    "mlp.fc1": "ffn_up", "mlp.fc2": "ffn_down", "mlp.dense_h_to_4h": "ffn_up", "mlp.dense_4h_to_h": "ffn_down",
    "post_attention_layernorm": "ffn_norm", "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
    "ln_1": "attn_norm", "ln_2": "ffn_norm", "attn.c_attn": "attn_qkv", "attn.c_proj": "attn_output",
    "mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down",
}
TOP = {"embed_tokens": "token_embd", "embed_in": "token_embd", "wte": "token_embd", "wpe": "position_embd",
       "norm": "output_norm", "final_layernorm": "output_norm", "final_layer_norm": "output_norm", "ln_f": "output_norm",
       "lm_head": "output", "embed_out": "output"}
SANDWICH = {"gemma2", "gemma3", "olmo2"}  # post_attention_layernorm follows attention instead of opening the feed-forward


def gguf_name(name, arch):
    base, _, kind = name.rpartition(".")
    m = re.fullmatch(r"(?:model\.|transformer\.|gpt_neox\.)?(?:layers|h)\.(\d+)\.(.+)", base)
    if m:
        inner = LAYER[m[2]]
        if m[2] == "post_attention_layernorm" and arch in SANDWICH:
            inner = "post_attention_norm"
        return f"blk.{m[1]}.{inner}.{kind}"
    return TOP[re.sub(r"^(model|transformer|gpt_neox)\.", "", base)] + "." + kind


def interleave(t, n_heads):
    """llama.cpp rotates neighbouring rows in this family: row (half, i) of each head moves to 2i + half."""
    d = t.data
    return t.with_data(d.reshape(n_heads, 2, d.shape[0] // n_heads // 2, *d.shape[1:]).swapaxes(1, 2).reshape(d.shape))


def qkv_rows(t, n_heads):
    """GPT-NeoX keeps q, k and v of a head together: all q, all k, all v instead."""
    d = t.data
    return t.with_data(d.reshape(n_heads, 3, d.shape[0] // n_heads // 3, *d.shape[1:]).swapaxes(0, 1).reshape(d.shape))


def llama3_factors(c, rope, hd):
    """What rope_freqs.weight holds: by how much each rotation of Llama 3.1 is slowed."""
    old, lo, hi = rope["original_max_position_embeddings"], rope["low_freq_factor"], rope["high_freq_factor"]
    out = []
    for i in range(0, hd, 2):
        wave = 2 * math.pi * rope["rope_theta"] ** (i / hd)
        if wave < old / hi:
            out.append(1.0)
        elif wave > old / lo:
            out.append(rope["factor"])
        else:
            smooth = (old / wave - lo) / (hi - lo)
            out.append(1 / ((1 - smooth) / rope["factor"] + smooth))
    return np.array(out, np.float32)


def add_vocabulary(w, n):
    tokens, scores, types = [b"<unk>", b"<s>", b"</s>"], [0.0] * 3, [2, 3, 3]
    for i in range(256):
        tokens.append(b"<0x%02X>" % i)
        scores.append(0.0)
        types.append(6)
    for i in range(n - len(tokens)):
        tokens.append(("\u2581w%d" % i).encode())
        scores.append(-float(i))
        types.append(1)
    w.add_tokenizer_model("llama")
    w.add_token_list(tokens)
    w.add_token_scores(scores)
    w.add_token_types(types)
    w.add_bos_token_id(1)
    w.add_eos_token_id(2)
    w.add_unk_token_id(0)


def add_keys(w, c, arch, hd):
    neox = arch == "gptneox"
    d = c.get("hidden_size", c.get("n_embd"))
    h = c.get("num_attention_heads", c.get("n_head"))
    w.add_block_count(c.get("num_hidden_layers", c.get("n_layer")))
    w.add_context_length(c.get("max_position_embeddings", c.get("n_positions")))
    w.add_embedding_length(d)
    w.add_feed_forward_length(c.get("intermediate_size") or 4 * d)
    w.add_head_count(h)
    if not neox and arch != "gpt2":
        w.add_head_count_kv(c["num_key_value_heads"])
    if "rms_norm_eps" in c:
        w.add_layer_norm_rms_eps(c["rms_norm_eps"])
    else:
        w.add_layer_norm_eps(c.get("layer_norm_eps", c.get("layer_norm_epsilon")))
    if c.get("head_dim"):
        w.add_key_length(hd)
        w.add_value_length(hd)
    rope = c.get("rope_parameters") or {}
    glob_rope = rope.get("full_attention", rope)
    if "rope_theta" in glob_rope:
        w.add_rope_freq_base(glob_rope["rope_theta"])
    if arch in ("llama", "phi3", "phi2", "stablelm", "gptneox"):
        w.add_rope_dimension_count(int(glob_rope.get("partial_rotary_factor", 1.0) * hd))
    if glob_rope.get("rope_type") in ("linear", "yarn"):
        w.add_rope_scaling_type(gguf.RopeScalingType(glob_rope["rope_type"]))
        w.add_rope_scaling_factor(glob_rope["factor"])
    if c.get("sliding_window") and c.get("use_sliding_window", True) and arch != "phi3":
        w.add_sliding_window(c["sliding_window"])
    if c.get("query_pre_attn_scalar", hd) != hd:
        w.add_attention_scale(c["query_pre_attn_scalar"] ** -0.5)
    if neox or arch == "stablelm":
        w.add_parallel_residual(c["use_parallel_residual"])
    if arch == "gemma2":
        w.add_attn_logit_softcapping(c["attn_logit_softcapping"])
        w.add_final_logit_softcapping(c["final_logit_softcapping"])


def convert(config, tensors, out, vocab=False, parts=False, keys=None):
    """tensors: what load() returns, or some of them as rows of bytes of a block format. parts: a file of two parts.
    keys: further sizes of the model, by name."""
    c = config
    arch = ARCH[c["architectures"][0]]
    h = c.get("num_attention_heads", c.get("n_head"))
    hd = c.get("head_dim") or c.get("hidden_size", c.get("n_embd")) // h
    w = gguf.GGUFWriter(out, arch, split_max_tensors=len(tensors) // 2 + 1 if parts else 0)
    add_keys(w, c, arch, hd)
    for name, value in (keys or {}).items():
        w.add_uint32(f"{arch}.attention.{name}", value)
    if vocab:
        add_vocabulary(w, c["vocab_size"])
    rope = c.get("rope_parameters") or {}
    if rope.get("rope_type") == "llama3":
        w.add_tensor("rope_freqs.weight", llama3_factors(c, rope, hd))
    tied = c.get("tie_word_embeddings")
    for name, t in tensors.items():
        if re.search(r"inv_freq|attn\.(masked_)?bias$", name) or (tied and name.startswith(("lm_head", "embed_out"))):
            continue
        as_gguf = gguf_name(name, arch)
        if arch == "llama" and re.search(r"attn_[qk]\.", as_gguf):
            t = interleave(t, h if "attn_q." in as_gguf else c["num_key_value_heads"])
        if arch == "gptneox" and "attn_qkv" in as_gguf:
            t = qkv_rows(t, h)
        if arch == "gpt2" and re.search(r"(attn_qkv|attn_output|ffn_up|ffn_down)\.weight", as_gguf):
            t = t.with_data(t.data.T)  # Conv1D stores [in, out]
        if t.data.ndim == 1:
            t = Tensor(t.f32(), QT.F32)
            if arch.startswith("gemma"):
                t = Tensor(t.data + np.float32(1), QT.F32)
        w.add_tensor(as_gguf, t.data if t.qtype != QT.BF16 else t.data.view(np.uint8), raw_dtype=t.qtype)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("hf_dir")
    ap.add_argument("out")
    ap.add_argument("--vocab", action="store_true")
    a = ap.parse_args()
    convert(json.load(open(os.path.join(a.hf_dir, "config.json"))), load(a.hf_dir), a.out, a.vocab)


if __name__ == "__main__":
    main()
