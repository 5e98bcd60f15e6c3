"""Small models of random weights with exact results: NAME.gguf and NAME.json beside this file.

Usage: make.py [NAME…]
The results are PyTorch's in float32, on the weights as the file stores them (quantized ones dequantized). JSON:
{"cases": [{"ids", "next_token_nll" (nats), "last_top20": [[id, logit], …]}]}. Each model is there for what its line says.
Needs numpy, gguf, torch and transformers from PyPI; made with transformers 5.23, torch 2.15, gguf 0.19.
"""
import json
import os
import sys

import gguf
import numpy as np
import torch
import transformers as tf

import convert

QT = gguf.GGMLQuantizationType
HERE = os.path.dirname(os.path.abspath(__file__))


def models():
    """name, config, types of the matrices (taken in turn), lengths of the cases, further options of convert()."""
    def base(d, h, kv, ff, layers, vocab, **more):
        return dict(hidden_size=d, num_attention_heads=h, num_key_value_heads=kv, intermediate_size=ff,
                    num_hidden_layers=layers, vocab_size=vocab, max_position_embeddings=640, pad_token_id=0,
                    bos_token_id=1, eos_token_id=2, **more)
    short = (1, 7, 48)
    # More tokens than a batch and a page of the cache hold; rows of the head that fill no whole tile; a vocabulary.
    yield "llama-f32", tf.LlamaConfig(**base(32, 2, 1, 96, 2, 515)), [QT.F32], (1, 7, 600), dict(vocab=True)
    # Biases on every projection, q's and k's interleaved with their rows; one key head a query head; tied head.
    yield "llama-bias", tf.LlamaConfig(**base(64, 4, 4, 96, 1, 131, attention_bias=True, mlp_bias=True,
                                              tie_word_embeddings=True)), [QT.F16], short, {}
    # Llama 3.1's slowed rotations, in a file of two parts.
    yield "llama31", tf.LlamaConfig(**base(64, 2, 1, 64, 1, 200), rope_parameters=dict(
        rope_type="llama3", rope_theta=10000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
        original_max_position_embeddings=64)), [QT.BF16], short, dict(parts=True)
    # Rotations slowed all alike.
    yield "llama-linear", tf.LlamaConfig(**base(32, 2, 2, 32, 1, 131), rope_parameters=dict(
        rope_type="linear", rope_theta=10000.0, factor=2.5)), [QT.F16], short, {}
    # A block format after the other within a layer; five heads; a width that is no multiple of 64.
    yield "llama-mixed", tf.LlamaConfig(**base(160, 5, 5, 96, 1, 131)), [QT.Q4_0, QT.Q4_1, QT.Q5_0, QT.Q5_1, QT.Q8_0], \
        short, {}
    # A window; heads wider than the width divided by them.
    yield "mistral", tf.MistralConfig(**base(64, 2, 1, 96, 1, 150, head_dim=80, sliding_window=9)), [QT.F16], short, {}
    # Heads of 24: no multiple of a vector.
    yield "mistral-hd24", tf.MistralConfig(**base(96, 4, 2, 32, 1, 131, sliding_window=None)), [QT.BF16], short, {}
    # Biases on q, k and v; three query heads a key head; a tied head of 777 rows.
    yield "qwen2", tf.Qwen2Config(**base(96, 6, 2, 160, 1, 777, tie_word_embeddings=True)), [QT.Q8_0], short, {}
    yield "qwen3", tf.Qwen3Config(**base(64, 2, 1, 64, 1, 131, head_dim=128)), [QT.F16], short, {}
    # Four query heads for one key head; heads of 96.
    yield "qwen3-hd96", tf.Qwen3Config(**base(32, 4, 1, 64, 2, 131, head_dim=96, tie_word_embeddings=True)), [QT.BF16], \
        short, {}
    # Five layers with a window for each global one, each with its rotary base.
    yield "gemma3", tf.Gemma3TextConfig(**base(64, 2, 1, 64, 6, 131, head_dim=16, query_pre_attn_scalar=16,
                                               sliding_window=5)), [QT.F16], short, {}
    # Heads of 256, scores scaled by another width than the head's.
    yield "gemma3-hd256", tf.Gemma3TextConfig(**base(64, 1, 1, 64, 1, 131, head_dim=256, query_pre_attn_scalar=168,
                                                     sliding_window=7)), [QT.Q8_0], short, {}
    # A global layer at every second place, as the file says.
    yield "gemma3-pattern", tf.Gemma3TextConfig(**base(32, 2, 1, 64, 2, 131, head_dim=64, query_pre_attn_scalar=64,
                                                       sliding_window=4, layer_types=["sliding_attention",
                                                                                      "full_attention"])), \
        [QT.F16], short, dict(keys=dict(sliding_window_pattern=2))
    # Norms behind the blocks alone, q and k normed whole; a width of 40, which is no whole number of activation blocks.
    yield "olmo2", tf.Olmo2Config(**base(40, 2, 1, 72, 2, 131)), [QT.F16], short, {}


def stored(values, qtype):
    """The tensor as a file stores it, and the values that it then has."""
    if qtype == QT.F32:
        return convert.Tensor(values, qtype), values
    if qtype == QT.F16:
        data = values.astype(np.float16)
        return convert.Tensor(data, qtype), data.astype(np.float32)
    data = gguf.quantize(values, qtype)
    exact = gguf.dequantize(data, qtype).reshape(values.shape)
    return convert.Tensor(data.view(np.uint16) if qtype == QT.BF16 else data, qtype), exact


def make(name, config, types, lengths, options):
    torch.manual_seed(sum(name.encode()))
    m = tf.AutoModelForCausalLM.from_config(config).float().eval()
    tensors, matrices = {}, 0
    with torch.no_grad():
        for n, p in m.named_parameters():
            if p.dim() >= 2:
                p.normal_(0, 1.6 / p.shape[-1] ** 0.5 if "embed" not in n and "wte" not in n else 0.6)
            elif "norm" in n or "ln_" in n:
                p.add_(0.3 * torch.randn_like(p))
            else:
                p.normal_(0, 0.3)
        m.tie_weights()
        for n, p in m.named_parameters():
            qtype = QT.F32 if p.dim() < 2 else types[matrices % len(types)]
            matrices += p.dim() >= 2
            tensors[n], exact = stored(p.numpy().copy(), qtype)
            p.copy_(torch.from_numpy(exact))
    c = config.to_dict()
    c["architectures"] = [type(m).__name__]
    convert.convert(c, tensors, os.path.join(HERE, name + ".gguf"), **options)
    g = torch.Generator().manual_seed(7)
    cases = []
    for n in lengths:
        ids = torch.randint(3, config.vocab_size, (1, n), generator=g)
        with torch.no_grad():
            logits = m(ids).logits[0]
        lp = torch.log_softmax(logits.double(), -1)
        top, at = torch.topk(logits[-1], 20)
        cases.append({"ids": ids[0].tolist(), "next_token_nll": [round(float(-lp[i, ids[0, i + 1]]), 5) for i in range(n - 1)],
                      "last_top20": [[int(i), round(float(t), 5)] for i, t in zip(at, top)]})
    with open(os.path.join(HERE, name + ".json"), "w") as f:
        json.dump({"cases": cases}, f, separators=(",", ":"))
        f.write("\n")


for model in models():
    if len(sys.argv) < 2 or model[0] in sys.argv[1:]:
        make(*model)
