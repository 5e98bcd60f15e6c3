/* driver: the process-wide state, the handle table, cuInit and what happens at exit. */
#include "verify/ptxvm/driver.h"
#include <ctype.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

struct driver driver;

/* ---- lock ---- */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;

void driver_lock(void) {
    pthread_mutex_lock(&lock);
}
void driver_unlock(void) {
    pthread_mutex_unlock(&lock);
}
void driver_wait(void) {
    pthread_cond_wait(&changed, &lock);
}
void driver_wait_briefly(void) {
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += 1000000;
    if (until.tv_nsec >= 1000000000) until.tv_nsec -= 1000000000, until.tv_sec++;
    pthread_cond_timedwait(&changed, &lock, &until);
}
void driver_notify(void) {
    pthread_cond_broadcast(&changed);
}

/* ---- handles ----
 *
 *   63    56 55   48 47              28 27                 4 3  0
 *  |   0    | kind  | generation       | slot + 1           | 0  |
 *
 * A slot's generation goes up when its object is dropped, so an old handle stays invalid after the slot is reused;
 * slots are reused oldest first, which makes a repeated generation (after 2^20 reuses of one slot) practically
 * unreachable. */

enum { GENERATIONS = 1 << 20, MAX_SLOTS = (1 << 24) - 2 };

struct slot {
    void *obj;
    enum kind kind;
    uint32_t generation;
    uint32_t next_free; /* slot + 1, 0 at the end */
};

static struct slot *slots;
static uint32_t n_slots, cap_slots, first_free, last_free;

void *handle_new(enum kind kind, void *obj) {
    uint32_t i;
    if (first_free) {
        i = first_free - 1;
        first_free = slots[i].next_free;
        if (!first_free) last_free = 0;
    } else {
        if (n_slots == MAX_SLOTS) return NULL;
        if (n_slots == cap_slots) {
            uint32_t cap = cap_slots ? cap_slots * 2 : 256;
            struct slot *grown = realloc(slots, cap * sizeof *slots);
            if (!grown) return NULL;
            slots = grown;
            cap_slots = cap;
        }
        i = n_slots++;
        slots[i].generation = 0;
    }
    slots[i].obj = obj;
    slots[i].kind = kind;
    slots[i].next_free = 0;
    return (void *)((uintptr_t)kind << 48 | (uintptr_t)slots[i].generation << 28 | (uintptr_t)(i + 1) << 4);
}

static struct slot *slot_of(const void *handle) {
    uintptr_t h = (uintptr_t)handle;
    uint32_t i = (uint32_t)(h >> 4 & 0xffffff) - 1;
    if (h & 15 || h >> 56 || i >= n_slots) return NULL;
    struct slot *s = &slots[i];
    return s->kind == (h >> 48 & 0xff) && s->kind != KIND_FREE && s->generation == (h >> 28 & 0xfffff) ? s : NULL;
}

void *handle_get(enum kind kind, const void *handle) {
    struct slot *s = slot_of(handle);
    return s && s->kind == kind ? s->obj : NULL;
}

void handle_drop(const void *handle) {
    struct slot *s = slot_of(handle);
    if (!s) return;
    s->kind = KIND_FREE;
    s->obj = NULL;
    s->generation = (s->generation + 1) % GENERATIONS;
    uint32_t id = (uint32_t)(s - slots) + 1;
    s->next_free = 0;
    if (last_free)
        slots[last_free - 1].next_free = id;
    else
        first_free = id;
    last_free = id;
}

void handle_each(enum kind kind, void (*visit)(void *obj, void *arg), void *arg) {
    for (uint32_t i = 0; i < n_slots; i++)
        if (slots[i].kind == kind) visit(slots[i].obj, arg);
}

/* ---- start ---- */

bool device_arch_known(int arch);
size_t device_memory_default(void);

/* "512M" and the like; 0 when it is not a size. */
static size_t parse_size(const char *s) {
    char *end;
    errno = 0;
    unsigned long long n = strtoull(s, &end, 10);
    if (end == s || errno || *s == '-') return 0;
    int shift = 0;
    switch (toupper((unsigned char)*end)) {
    case 'K':
        shift = 10;
        break;
    case 'M':
        shift = 20;
        break;
    case 'G':
        shift = 30;
        break;
    }
    if (shift) end++;
    if (*end || n >> (62 - shift)) return 0;
    return (size_t)n << shift;
}

static bool driver_start(void) {
    const char *arch = getenv("KGEN_PTXVM_ARCH");
    driver.arch = arch ? atoi(arch) : 90;
    driver.arch_chosen = arch != NULL;
    if (!device_arch_known(driver.arch)) {
        vm_say("configuration: KGEN_PTXVM_ARCH=%s is not a known architecture; use one of 70 75 80 86 87 89 90 100 103 "
               "110 120 121",
               arch);
        return false;
    }
    const char *memory = getenv("KGEN_PTXVM_MEMORY");
    driver.memory = memory ? parse_size(memory) : device_memory_default();
    if (!driver.memory) {
        vm_say("configuration: KGEN_PTXVM_MEMORY=%s is not a size; use bytes or a number with K, M or G", memory);
        return false;
    }
    const char *mode = getenv("KGEN_PTXVM"), *blocking = getenv("CUDA_LAUNCH_BLOCKING");
    driver.leaks = mode && strstr(mode, "leaks");
    driver.blocking = blocking && atoi(blocking) != 0;
    vm_settings()->sm = driver.arch;
    return true;
}

CUresult cuInit(unsigned int Flags) {
    LOCKED;
    if (Flags != 0) return CUDA_ERROR_INVALID_VALUE;
    const char *visible = getenv("CUDA_VISIBLE_DEVICES");
    if (visible && (!*visible || *visible == '-')) return CUDA_ERROR_NO_DEVICE;
    if (!driver.initialized) driver.initialized = driver_start();
    return driver.initialized ? CUDA_SUCCESS : CUDA_ERROR_UNKNOWN;
}

CUresult cuDriverGetVersion(int *driverVersion) {
    if (!driverVersion) return CUDA_ERROR_INVALID_VALUE;
    *driverVersion = CUDA_VERSION;
    return CUDA_SUCCESS;
}

/* ---- exit ---- */

static void say_module(void *obj, void *arg) {
    (void)arg;
    const struct module *m = obj;
    vm_say("leak: module %s was never unloaded", vm_module_file(m->vm));
}

__attribute__((destructor)) static void driver_end(void) {
    if (!driver.initialized) return;
    if (driver.leaks) handle_each(KIND_MODULE, say_module, NULL);
    vm_at_exit();
}

int ptxvm_unsupported(const char *name, int *said) {
    if (!__atomic_exchange_n(said, 1, __ATOMIC_RELAXED)) vm_say("unsupported call: %s", name);
    return CUDA_ERROR_NOT_SUPPORTED;
}

/* ---- profiler control: nothing to switch, the counters are always on ---- */

CUresult cuProfilerInitialize(const char *configFile, const char *outputFile, CUoutput_mode outputMode) {
    (void)configFile, (void)outputFile, (void)outputMode;
    ENTER;
    return CUDA_SUCCESS;
}

CUresult cuProfilerStart(void) {
    ENTER_CTX;
    return CUDA_SUCCESS;
}

CUresult cuProfilerStop(void) {
    ENTER_CTX;
    return CUDA_SUCCESS;
}
