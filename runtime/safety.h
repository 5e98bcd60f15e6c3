/* safety: in how many bits a model's keys may be kept.
 *
 * Where keys are normalized (attn_k_norm, attn_q_norm), their sizes are in the file: a key's element is at most
 * sqrt(n) max|g_k|, rotated by up to sqrt(2) of that, and with normalized queries and keys the score q·k / sqrt(n) has
 * a rounding error of 2^-12 rms(g_q g_k) nats where keys are f16 (relative errors of 2^-12 of each term, independent).
 * Keys are unsafe in f16 where they may overflow, where most are below its normal numbers, or where that error is over
 * SAFETY_SCORE_ERROR.
 *
 * Where keys and queries are BF16, relative errors are 2^-9 of both: keys are unsafe where 2^-9 sqrt(2) rms(g_q g_k) is
 * over SAFETY_SCORE_ERROR, where they are unsafe in f16, and where biases (attn_q.bias, attn_k.bias) alone make such an
 * error: 2^-9 sqrt(2) |b_q b_k| / sqrt(n) of a head, the products taken element by element.
 */
#ifndef KGEN_SAFETY_H
#define KGEN_SAFETY_H

#include "runtime/gguf.h"

#define SAFETY_SCORE_ERROR 0.02

/* why[256]: "" where keys are safe in f16 (or nothing is known of them), else the first layer whose keys are not, and
 * why; *bf16: whether they are in BF16. g was opened with a type table. */
bool safety_of_keys(const struct gguf *g, char why[256], bool *bf16, struct err *e);

#endif
