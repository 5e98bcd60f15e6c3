/* An emulator of AMX for machines without it: the instructions raise #UD there, and a handler of SIGILL does what they
 * say and goes on behind them. Each thread has tile registers of its own, as a processor has. Meanings: Intel 64 and
 * IA-32 Architectures Software Developer's Manual, volume 2 (LDTILECFG, STTILECFG, TILELOADD, TILELOADDT1, TILESTORED,
 * TILEZERO, TILERELEASE, TDPBSSD, TDPBSUD, TDPBUSD, TDPBUUD), operand checks included: what would fault ends the
 * process with a message.
 *
 *     LD_PRELOAD=build/amx.so build/kgen run ...
 *
 * kgen finds kgen_emulated_features and takes the processor to have AMX (codegen/target_x86.c). With AMX_REPORT set,
 * how many of each instruction ran is said at the end, on standard error. Where the processor has AMX itself, nothing
 * is ever emulated. */
#include "verify/amx/emulator.h"

#include "codegen/target.h"

#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>
#include <unistd.h>

__attribute__((visibility("default"))) const unsigned kgen_emulated_features = FEAT_AMX;

enum { N_TILES = 8, MAX_ROWS = 16, MAX_COLUMNS = 64, CONFIG_BYTES = 64, CONFIG_COLUMNS = 16, CONFIG_ROWS = 48 };

/* The state of a processor. `config` is what ldtilecfg read: all zero while the registers are not configured. */
struct state {
    uint8_t config[CONFIG_BYTES];
    uint8_t tile[N_TILES][MAX_ROWS][MAX_COLUMNS];
};
static __thread struct state state;

static _Atomic uint64_t counts[AMX_N_KINDS];
static const char *const names[AMX_N_KINDS] = {"ldtilecfg", "sttilecfg", "tilerelease", "tilezero", "tileload",
                                               "tilestore", "tdpbssd",   "tdpbsud",     "tdpbusd",  "tdpbuud"};

uint64_t amx_emulated(enum amx_kind kind) {
    return atomic_load(&counts[kind]);
}

/* Only what a signal handler may call. */
static void die(const char *why) {
    char text[160];
    int n = snprintf(text, sizeof text, "amx emulator: %s\n", why);
    if (write(STDERR_FILENO, text, (size_t)n) < 0) _exit(126);
    _exit(125);
}

/* ---- the registers ---- */

static unsigned n_rows(unsigned t) {
    return state.config[CONFIG_ROWS + t];
}
static unsigned n_bytes(unsigned t) {
    return state.config[CONFIG_COLUMNS + 2 * t] | (unsigned)state.config[CONFIG_COLUMNS + 2 * t + 1] << 8;
}

static void want_configured(unsigned t) {
    if (!state.config[0]) die("#UD: the tile registers are not configured");
    if (!n_rows(t) || !n_bytes(t)) die("#UD: a tile register without rows");
}

static void check_config(const uint8_t *c) {
    if (c[0] > 1) die("#GP: ldtilecfg of an unknown palette");
    for (unsigned i = 2; i < CONFIG_COLUMNS; i++)
        if (c[i]) die("#GP: ldtilecfg with a reserved byte");
    for (unsigned i = CONFIG_COLUMNS; i < CONFIG_BYTES; i++) {
        bool used = i < CONFIG_COLUMNS + 2 * N_TILES || (i >= CONFIG_ROWS && i < CONFIG_ROWS + N_TILES);
        if (!used && c[i]) die("#GP: ldtilecfg with a reserved byte");
    }
    for (unsigned t = 0; t < N_TILES && c[0]; t++) {
        unsigned columns = c[CONFIG_COLUMNS + 2 * t] | (unsigned)c[CONFIG_COLUMNS + 2 * t + 1] << 8;
        unsigned rows = c[CONFIG_ROWS + t];
        if (columns > MAX_COLUMNS || rows > MAX_ROWS || !columns != !rows) die("#GP: ldtilecfg of an impossible shape");
    }
}

static void load_config(const uint8_t *from) {
    check_config(from);
    memset(&state, 0, sizeof state);
    if (from[0]) memcpy(state.config, from, CONFIG_BYTES); /* palette 0 is the initial state */
}

/* ---- the instructions ---- */

static void load_tile(unsigned t, const uint8_t *from, uint64_t stride) {
    want_configured(t);
    uint8_t rows[MAX_ROWS][MAX_COLUMNS] = {{0}};
    for (unsigned i = state.config[1]; i < n_rows(t); i++) memcpy(rows[i], from + i * stride, n_bytes(t));
    memcpy(state.tile[t], rows, sizeof rows);
    state.config[1] = 0;
}

static void store_tile(unsigned t, uint8_t *to, uint64_t stride) {
    want_configured(t);
    for (unsigned i = state.config[1]; i < n_rows(t); i++) memcpy(to + i * stride, state.tile[t][i], n_bytes(t));
    state.config[1] = 0;
}

/* c += a . b, bytes in fours; what lies beyond c's rows and columns becomes zero. */
static void dot(unsigned c, unsigned a, unsigned b, bool a_signed, bool b_signed) {
    if (c == a || c == b || a == b) die("#UD: a product of a tile register with itself");
    want_configured(c), want_configured(a), want_configured(b);
    if (n_bytes(a) % 4 || n_bytes(b) % 4 || n_bytes(c) % 4) die("#UD: a product of rows that are not whole words");
    if (n_rows(c) != n_rows(a) || n_bytes(c) != n_bytes(b) || n_rows(b) != n_bytes(a) / 4)
        die("#UD: a product of shapes that do not match");
    uint32_t sum[MAX_ROWS][MAX_COLUMNS / 4] = {{0}};
    for (unsigned i = 0; i < n_rows(c); i++)
        for (unsigned j = 0; j < n_bytes(c) / 4; j++) {
            memcpy(&sum[i][j], &state.tile[c][i][4 * j], 4);
            for (unsigned e = 0; e < n_bytes(a); e++) {
                uint8_t x = state.tile[a][i][e], y = state.tile[b][e / 4][4 * j + e % 4];
                sum[i][j] += (uint32_t)((a_signed ? (int8_t)x : x) * (b_signed ? (int8_t)y : y));
            }
        }
    memcpy(state.tile[c], sum, sizeof sum);
    state.config[1] = 0;
}

/* ---- decoding ---- */

/* An instruction: VEX C4, its two bytes, opcode, ModRM, and for memory SIB and displacement. */
struct insn {
    unsigned pp, vvvv, opcode, mod, reg, rm; /* pp: 0 none, 1 66, 2 F3, 3 F2 */
    uint8_t *memory;                         /* without the index, which is a stride where there are rows */
    uint64_t stride;
    const uint8_t *end;
};

/* x86's numbers of registers, as ucontext names them. */
static uint64_t general(const greg_t *g, unsigned n) {
    static const uint8_t place[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                                      REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};
    return (uint64_t)g[place[n]];
}

static int64_t displacement(const uint8_t **p, unsigned bytes) {
    int8_t small;
    int32_t large;
    memcpy(bytes == 1 ? (void *)&small : &large, *p, bytes);
    *p += bytes;
    return bytes == 1 ? small : large;
}

/* Everything from ModRM on; x and b extend the index and the base. */
static void decode_memory(struct insn *in, const greg_t *g, const uint8_t *p, unsigned x, unsigned b) {
    unsigned modrm = *p++;
    in->mod = modrm >> 6;
    in->reg = modrm >> 3 & 7;
    in->rm = modrm & 7;
    uint64_t at = 0;
    if (in->mod < 3 && in->rm == 4) {
        unsigned sib = *p++, index = (sib >> 3 & 7) | x, base = (sib & 7) | b;
        if (index != 4) in->stride = general(g, index) << (sib >> 6);
        bool none = in->mod == 0 && (sib & 7) == 5;
        at = none ? 0 : general(g, base);
        if (none) at += (uint64_t)displacement(&p, 4);
    } else if (in->mod == 0 && in->rm == 5) {
        at = (uint64_t)displacement(&p, 4);
        at += (uint64_t)(uintptr_t)p; /* relative to what follows */
    } else if (in->mod < 3) {
        at = general(g, in->rm | b);
    }
    if (in->mod == 1) at += (uint64_t)displacement(&p, 1);
    if (in->mod == 2) at += (uint64_t)displacement(&p, 4);
    in->memory = (uint8_t *)(uintptr_t)at;
    in->end = p;
}

/* False where p does not start an instruction of AMX. */
static bool decode(struct insn *in, const greg_t *g, const uint8_t *p) {
    *in = (struct insn){0};
    if (p[0] != 0xc4 || (p[1] & 31) != 2 || (p[2] & 0x84) != 0) return false; /* map 0F38, W0, L0 */
    if (p[3] != 0x49 && p[3] != 0x4b && p[3] != 0x5e) return false;
    in->pp = p[2] & 3;
    in->vvvv = ~(unsigned)p[2] >> 3 & 15;
    in->opcode = p[3];
    decode_memory(in, g, p + 4, p[1] & 0x40 ? 0 : 8, p[1] & 0x20 ? 0 : 8);
    return true;
}

/* What the instruction is; AMX_N_KINDS where it is none. */
static enum amx_kind kind_of(const struct insn *in) {
    bool memory = in->mod < 3;
    if (in->opcode == 0x5e) {
        static const enum amx_kind dots[4] = {AMX_TDPBUUD, AMX_TDPBUSD, AMX_TDPBSUD, AMX_TDPBSSD};
        return !memory && in->vvvv < N_TILES ? dots[in->pp] : AMX_N_KINDS;
    }
    if (in->vvvv) return AMX_N_KINDS;
    if (in->opcode == 0x4b) {
        if (!memory || in->rm != 4 || in->pp == 0) return AMX_N_KINDS;
        return in->pp == 2 ? AMX_TILESTORE : AMX_TILELOAD;
    }
    if (memory) return in->reg ? AMX_N_KINDS : in->pp == 0 ? AMX_LDTILECFG : in->pp == 1 ? AMX_STTILECFG : AMX_N_KINDS;
    if (in->pp == 0 && in->reg == 0 && in->rm == 0) return AMX_TILERELEASE;
    return in->pp == 3 && in->rm == 0 ? AMX_TILEZERO : AMX_N_KINDS;
}

static void run(enum amx_kind kind, const struct insn *in) {
    switch (kind) {
    case AMX_LDTILECFG:
        load_config(in->memory + in->stride);
        break;
    case AMX_STTILECFG:
        memcpy(in->memory + in->stride, state.config, CONFIG_BYTES);
        break;
    case AMX_TILERELEASE:
        memset(&state, 0, sizeof state);
        break;
    case AMX_TILEZERO:
        want_configured(in->reg);
        memset(state.tile[in->reg], 0, sizeof state.tile[0]);
        break;
    case AMX_TILELOAD:
        load_tile(in->reg, in->memory, in->stride);
        break;
    case AMX_TILESTORE:
        store_tile(in->reg, in->memory, in->stride);
        break;
    default:
        dot(in->reg, in->rm, in->vvvv, kind == AMX_TDPBSSD || kind == AMX_TDPBSUD,
            kind == AMX_TDPBSSD || kind == AMX_TDPBUSD);
    }
}

/* Runs the instruction and those of AMX directly behind it: signals are what takes time here. */
static void on_illegal(int signo, siginfo_t *info, void *context) {
    (void)info;
    greg_t *g = ((ucontext_t *)context)->uc_mcontext.gregs;
    struct insn in;
    bool any = false;
    for (;; any = true) {
        enum amx_kind kind = AMX_N_KINDS;
        if (decode(&in, g, (const uint8_t *)g[REG_RIP])) kind = kind_of(&in);
        if (kind == AMX_N_KINDS) break;
        atomic_fetch_add_explicit(&counts[kind], 1, memory_order_relaxed);
        run(kind, &in);
        g[REG_RIP] = (greg_t)(uintptr_t)in.end;
    }
    if (!any) signal(signo, SIG_DFL); /* some other instruction: raised again, it ends the process as it would have */
}

static void report(void) {
    for (int k = 0; k < AMX_N_KINDS; k++)
        if (counts[k]) fprintf(stderr, "amx emulator: %llu %s\n", (unsigned long long)counts[k], names[k]);
}

void amx_emulate(void) {
    struct sigaction act = {.sa_sigaction = on_illegal, .sa_flags = SA_SIGINFO | SA_NODEFER};
    if (sigaction(SIGILL, &act, NULL)) die("cannot handle SIGILL");
}

__attribute__((constructor)) static void start(void) {
    amx_emulate();
    if (getenv("AMX_REPORT")) atexit(report);
}
