/* safety: whether a model's keys may be kept in 16 bits.
 *
 * Where keys are normalized (attn_k_norm, attn_q_norm), their sizes are in the file: a key's element is at most
 * sqrt(n) max|g_k|, rotated by up to sqrt(2) of that, and with normalized queries and keys the score q·k / sqrt(n) has a
 * rounding error of 2^-12 rms(g_q g_k) nats where keys are f16 (relative errors of 2^-12 of each term, independent). Keys
 * are unsafe in f16 where they may overflow, where most are below its normal numbers, or where that error is over
 * SAFETY_SCORE_ERROR.
 */
#ifndef KGEN_SAFETY_H
#define KGEN_SAFETY_H

#include "runtime/gguf.h"

#define SAFETY_SCORE_ERROR 0.02

/* why[256]: "" where keys are safe (or nothing is known of them), else the first layer whose keys are not, and why. g was
 * opened with a type table. */
bool safety_of_f16_keys(const struct gguf *g, char why[256], struct err *e);

#endif
