/* The emulator of AMX of the tests (verify/amx/emulator.c): linked into a program, or loaded with LD_PRELOAD, it runs
 * the instructions on machines without them. */
#ifndef KGEN_AMX_EMULATOR_H
#define KGEN_AMX_EMULATOR_H

#include <stdint.h>

enum amx_kind {
    AMX_LDTILECFG,
    AMX_STTILECFG,
    AMX_TILERELEASE,
    AMX_TILEZERO,
    AMX_TILELOAD,
    AMX_TILESTORE,
    AMX_TDPBSSD,
    AMX_TDPBSUD,
    AMX_TDPBUSD,
    AMX_TDPBUUD,
    AMX_N_KINDS
};

/* Handles SIGILL again, where something else has come to handle it since the program started. */
void amx_emulate(void);

/* How many of them were emulated so far, in all threads: none where the processor has AMX itself. */
uint64_t amx_emulated(enum amx_kind kind);

#endif
