#!/usr/bin/env python3
"""Writes formats.bin and kernels.bin, the expected values of verify/test_ref.c, beside this script.

Needs numpy and gguf (pip). Everything is computed the vectorized way (einsum, complex rotation, masks), so that it shares
neither code nor loops with the C references. Run it again only to add a case: the seed is fixed, the output is committed.

A file is a sequence of records, little-endian: name[24] padded with NUL, uint64 payload bytes, payload.
"""
import math
import pathlib
import struct

import gguf
import numpy as np

HERE = pathlib.Path(__file__).parent
rng = np.random.default_rng(20240611)
HALVINGS = 3  # of a q8 run's step within its block's


def write(path, records):
    with open(HERE / path, "wb") as f:
        for name, array in records:
            data = array if isinstance(array, bytes) else np.ascontiguousarray(array).tobytes()
            assert len(name) < 24
            f.write(struct.pack("<24sQ", name.encode(), len(data)) + data)


# Where the float16 scales of a block lie: random bits there could be NaN, so they are drawn separately.
HALVES = {
    "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "Q2_K": [80, 82], "Q3_K": [108],
    "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208], "IQ4_NL": [0],
}


def random_blocks(name, n):
    kind = gguf.GGMLQuantizationType[name]
    _, size = gguf.GGML_QUANT_SIZES[kind]
    blocks = rng.integers(0, 256, (n, size), dtype=np.uint8)
    for off in HALVES[name]:
        scale = rng.normal(0, 1, n) * 10.0 ** rng.integers(-7, 3, n)  # from subnormal to large
        blocks[:, off:off + 2] = scale.astype(np.float16).view(np.uint8).reshape(n, 2)
    return blocks


def formats():
    for name in HALVES:
        size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name]][0]
        blocks = random_blocks(name, 12 if size == 32 else 3)
        yield name.lower(), blocks
        yield name.lower() + ".values", gguf.dequantize(blocks, gguf.GGMLQuantizationType[name]).astype(np.float32)
    bits = rng.integers(0, 65536, 256, dtype=np.uint16)
    bits[:8] = [0, 0x8000, 1, 0x8001, 0x03ff, 0x0400, 0x7bff, 0x7c00]
    f16 = bits.view(np.float16)
    f16 = f16[~np.isnan(f16)]
    yield "f16", f16
    yield "f16.values", f16.astype(np.float32)
    bf16 = rng.normal(0, 1, 64).astype(np.float32).view(np.uint32) >> 16
    yield "bf16", bf16.astype(np.uint16)
    yield "bf16.values", (bf16.astype(np.uint32) << 16).view(np.float32)
    f32 = rng.normal(0, 1, 64).astype(np.float32)
    yield "f32", f32
    yield "f32.values", f32


def rotate(x, pos, rot_dim, base, pos_scale, factors, neox):
    x = x.copy()
    half = rot_dim // 2
    freq = base ** (-2 * np.arange(half) / rot_dim) / factors
    turn = np.exp(1j * pos[:, None, None] * pos_scale * freq)
    a, b = (x[..., :half], x[..., half:rot_dim]) if neox else (x[..., 0:rot_dim:2], x[..., 1:rot_dim:2])
    z = (a + 1j * b) * turn
    if neox:
        x[..., :half], x[..., half:rot_dim] = z.real, z.imag
    else:
        x[..., 0:rot_dim:2], x[..., 1:rot_dim:2] = z.real, z.imag
    return x


def attention(q, k, v, start, window, scale, cap):
    group = q.shape[1] // k.shape[1]
    k, v = np.repeat(k, group, axis=1), np.repeat(v, group, axis=1)
    s = np.einsum("thd,jhd->htj", q, k) * scale
    if cap:
        s = cap * np.tanh(s / cap)
    p, j = start + np.arange(q.shape[0])[:, None], np.arange(k.shape[0])[None, :]
    visible = (j <= p) & (True if window == 0 else p - j < window)
    s = np.where(visible, s, -np.inf)
    w = np.exp(s - np.logaddexp.reduce(s, axis=-1, keepdims=True))
    return np.einsum("htj,jhd->thd", w, v)


def quantize_q8(x):
    n, k = x.shape
    block = next(b for b in (256, 128, 64, 32) if k % b == 0)
    runs = x.reshape(n, k // block, block // 32, 32)
    peak = np.abs(runs).max(-1)
    amax = peak.max(-1, keepdims=True)
    ratio = np.divide(amax.astype(np.float64), peak, out=np.full(peak.shape, np.inf), where=peak > 0)
    e = np.minimum(np.frexp(np.minimum(ratio, 2.0 ** 20))[1] - 1, HALVINGS)  # 2^e <= ratio < 2^(e + 1)
    empty = amax < np.float32(2.0 ** -107)
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        codes = np.rint(np.ldexp(runs * (np.float32(127) / amax)[..., None], e[..., None]))
    codes[np.broadcast_to(empty[..., None], codes.shape)] = 0
    scales = np.where(empty, np.float32(0), np.ldexp(amax / np.float32(127 << HALVINGS), HALVINGS - e))
    return codes.astype(np.int8).reshape(n, k), scales.astype(np.float32).reshape(n, k // 32)


def kernels():
    x, g, b = rng.normal(0, 2, (3, 11)), rng.normal(1, 1, 11), rng.normal(0, 1, 11)
    yield from [("norm.x", x), ("norm.g", g), ("norm.b", b)]
    yield "rmsnorm.y", x / np.sqrt((x ** 2).mean(-1, keepdims=True) + 1e-2) * g
    yield "layernorm.y", (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-2) * g + b

    w = random_blocks("Q4_K", 3 * 2)  # three rows of 512
    values = gguf.dequantize(w, gguf.GGMLQuantizationType.Q4_K).astype(np.float64).reshape(3, 512)
    x = rng.normal(0, 1, (4, 512)).astype(np.float32)
    bias = rng.normal(0, 1, 3)
    codes, scales = quantize_q8(x)
    yield from [("linear.w", w), ("linear.x", x), ("linear.bias", bias)]
    yield "linear.y", x.astype(np.float64) @ values.T + bias
    yield "linear.mag", np.abs(x).astype(np.float64) @ np.abs(values).T + np.abs(bias)
    yield "linear.values", values.astype(np.float32)
    rounded = codes.reshape(4, 16, 32).astype(np.float64) * scales.reshape(4, 16, 1)
    yield "linear_q8.y", rounded.reshape(4, 512) @ values.T + bias

    # Magnitudes from zero over subnormal to huge, and runs of magnitudes of their own. Blocks of 64.
    x = rng.normal(0, 1, (6, 192)) * np.array([0, 1e-44, 3e-38, 1e-5, 1, 1e36])[:, None]
    x *= 2.0 ** -rng.integers(0, 10, (6, 6)).repeat(32, 1)
    # Rows whose every value is as near to a rounding tie as float32 gets, where any other formula shows; the last runs of
    # their blocks are a power of two below the first.
    amax, half = rng.uniform(0.5, 2, (10, 1)), 2.0 ** -np.arange(10)[:, None]
    ties = (rng.integers(-127, 127, (10, 192)) + 0.5) / 127 * amax
    ties[:, [0, 32, 64, 96, 128, 160]] = amax  # one in each run
    ties *= np.tile(np.concatenate([np.ones((10, 32)), half.repeat(32, 1)], 1), 3)
    x = np.concatenate([x, ties]).astype(np.float32)
    codes, scales = quantize_q8(x)
    yield from [("q8.x", x), ("q8.codes", codes), ("q8.d", scales)]

    x, pos = rng.normal(0, 1, (5, 3, 10)), np.array([0, 1, 2, 77, 4001], dtype=np.int64)
    factors = np.array([1, 1.5, 2, 8])
    yield from [("rope.x", x), ("rope.pos", pos), ("rope.factors", factors)]
    yield "rope.norm", rotate(x, pos, 8, 10000.0, 1.0, factors, False)
    yield "rope.neox", rotate(x, pos, 8, 500000.0, 0.125, np.ones(4), True)

    q, k, v = rng.normal(0, 1, (4, 6, 5)), rng.normal(0, 1, (9, 2, 5)), rng.normal(0, 1, (9, 2, 5))
    yield from [("attn.q", q), ("attn.k", k), ("attn.v", v)]
    yield "attn.plain", attention(q, k, v, 5, 0, 0.7, 0)
    yield "attn.mag", attention(q, k, np.abs(v), 5, 0, 0.7, 0)
    yield "attn.window", attention(q, k, v, 2, 3, 0.7, 0)
    yield "attn.cap", attention(q, k, v, 5, 0, 0.7, 1.5)

    x, up = np.concatenate([[-40, -10, -1e-3, 0, 1e-3, 10, 40], rng.normal(0, 3, 20)]), rng.normal(0, 1, 27)
    phi = np.array([0.5 * math.erfc(-t / math.sqrt(2)) for t in x])
    tanh = 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x ** 3)))
    yield from [("act.x", x), ("act.up", up), ("act.gelu", x * phi), ("act.gelu_tanh", tanh)]
    yield from [("act.gelu_tanh_mul", tanh * up), ("act.silu_mul", x / (1 + np.exp(-x)) * up)]

    logits = rng.normal(0, 30, 50)
    yield from [("nll.logits", logits), ("nll.y", np.logaddexp.reduce(logits) - logits)]


write("formats.bin", formats())
write("kernels.bin", kernels())
