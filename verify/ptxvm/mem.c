/* Device memory: one arena of address space, a table of allocations, and the host's side of it.
 *
 * Every byte of the arena has a shadow byte: 3 once it has been written, 0 before and outside allocations, so that a
 * load is right when its shadow bytes are all 3 and everything else is decided by the table. Address space is handed
 * out in ascending order with red zones between, and reused only when the arena has been used up: a freed address stays
 * wrong for as long as possible. */
#include "verify/ptxvm/machine.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

u8 *vm_arena, *vm_arena_shadow;
u64 vm_arena_bytes;

enum { RED_ZONE = 512, ALIGNMENT = 512 };
#define ARENA_BYTES (64ull << 30)
#define DEVICE_TOTAL (16ull << 30)

struct entry {
    u64 addr, bytes;
    enum vm_mem_kind kind;
    const char *origin;
    u64 id;
    void *owner;
    bool freed, returned; /* returned: the host has its pages back */
};
struct table {
    struct entry *e; /* ascending */
    size_t n, cap;
};
static struct table device, host;
static struct place { u64 addr, bytes; } * places; /* [n_places] */
static size_t n_places;
static u64 next_offset, next_id, used_bytes, n_freed, kept_bytes; /* kept: freed, pages not yet returned */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static bool map_arena(void) {
    if (vm_arena) return true;
    for (u64 bytes = ARENA_BYTES; bytes >= 1ull << 30; bytes /= 2) {
        void *a = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        void *s = a == MAP_FAILED
                      ? MAP_FAILED
                      : mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (s == MAP_FAILED) {
            if (a != MAP_FAILED) munmap(a, bytes);
            continue;
        }
        vm_arena_shadow = s;
        vm_arena_bytes = bytes;
        next_offset = 1 << 20; /* never address 0 of the arena: small offsets from a null pointer stay wrong */
        __atomic_store_n(&vm_arena, a, __ATOMIC_RELEASE);
        return true;
    }
    return false;
}
bool vm_memory_init(void) {
    pthread_mutex_lock(&lock);
    bool ok = map_arena();
    pthread_mutex_unlock(&lock);
    return ok;
}

/* Index of the last entry that starts at or below addr, -1 for none. */
static long at_or_below(const struct table *t, u64 addr) {
    long lo = 0, hi = (long)t->n - 1, found = -1;
    while (lo <= hi) {
        long mid = lo + (hi - lo) / 2;
        if (t->e[mid].addr <= addr)
            found = mid, lo = mid + 1;
        else
            hi = mid - 1;
    }
    return found;
}

static bool insert(struct table *t, struct entry e) {
    if (t->n == t->cap) {
        size_t cap = t->cap ? t->cap * 2 : 256;
        struct entry *a = realloc(t->e, cap * sizeof *a);
        if (!a) return false;
        t->e = a;
        t->cap = cap;
    }
    size_t at = (size_t)(at_or_below(t, e.addr) + 1);
    memmove(t->e + at + 1, t->e + at, (t->n - at) * sizeof *t->e);
    t->e[at] = e;
    t->n++;
    return true;
}

static void forget_freed(struct table *t, size_t keep_newest) {
    size_t k = 0, freed = 0, total = 0;
    for (size_t i = 0; i < t->n; i++) total += t->e[i].freed;
    for (size_t i = 0; i < t->n; i++) {
        if (t->e[i].freed && total - freed > keep_newest) {
            freed++;
            continue;
        }
        t->e[k++] = t->e[i];
    }
    t->n = k;
    n_freed = total - freed;
}

/* The first offset from at on where need bytes touch no place. */
static u64 past_places(u64 at, u64 need) {
    for (bool again = true; again;) {
        again = false;
        for (size_t i = 0; i < n_places; i++) {
            u64 from = places[i].addr - VM_DEV_BASE - RED_ZONE, to = from + places[i].bytes + 2 * RED_ZONE;
            if (at >= to || at + need <= from) continue;
            at = (to + ALIGNMENT - 1) & ~(u64)(ALIGNMENT - 1);
            again = true;
        }
    }
    return at;
}

/* Offset of a hole of the arena, 0: none. */
static u64 find_room(u64 need) {
    if (need > vm_arena_bytes) return 0;
    if (need <= vm_arena_bytes - next_offset) {
        u64 at = next_offset;
        next_offset += need;
        return at;
    }
    forget_freed(&device, 0);
    u64 at = past_places(1 << 20, need);
    for (size_t i = 0; i < device.n; i++) {
        u64 start = device.e[i].addr - VM_DEV_BASE - RED_ZONE;
        if (start >= at && start - at >= need) return at;
        if (start + device.e[i].bytes + RED_ZONE < at) continue;
        u64 end = device.e[i].addr - VM_DEV_BASE + device.e[i].bytes + RED_ZONE;
        at = past_places((end + ALIGNMENT - 1) & ~(u64)(ALIGNMENT - 1), need);
    }
    return at < vm_arena_bytes && vm_arena_bytes - at >= need ? at : 0;
}

static void clear_range(u64 off, u64 bytes) {
    u64 a = (off + 4095) & ~4095ull, b = (off + bytes) & ~4095ull;
    if (b > a && b - a >= 1 << 20) {
        memset(vm_arena_shadow + off, 0, a - off);
        memset(vm_arena_shadow + b, 0, off + bytes - b);
        madvise(vm_arena_shadow + a, b - a, MADV_DONTNEED);
        madvise(vm_arena + a, b - a, MADV_DONTNEED);
    } else {
        memset(vm_arena_shadow + off, 0, bytes);
    }
}

/* Gives the host the whole pages between live allocations. Addresses are not used again for long, so that programs that
 * allocate and free would grow without end. */
static void return_pages(void) {
    u64 from = VM_DEV_BASE + (1 << 20);
    bool any = false;
    for (size_t i = 0; i <= device.n; i++) {
        struct entry *e = i < device.n ? &device.e[i] : NULL;
        if (e && e->freed) {
            any |= !e->returned;
            e->returned = true;
            continue;
        }
        u64 a = (from - VM_DEV_BASE + 4095) & ~4095ull, b = (e ? e->addr - VM_DEV_BASE : next_offset) & ~4095ull;
        if (any && b > a) {
            madvise(vm_arena_shadow + a, b - a, MADV_DONTNEED);
            madvise(vm_arena + a, b - a, MADV_DONTNEED);
        }
        any = false;
        if (e) from = e->addr + e->bytes;
    }
    kept_bytes = 0;
}

int vm_mem_alloc(uint64_t bytes, enum vm_mem_kind kind, const char *origin, uint64_t *addr) {
    *addr = 0;
    if (!bytes) return VM_INVALID_VALUE;
    pthread_mutex_lock(&lock);
    int result = VM_OUT_OF_MEMORY;
    struct entry e = {.bytes = bytes, .kind = kind, .origin = origin, .id = ++next_id};
    if (kind == VM_MEM_PINNED || kind == VM_MEM_MANAGED) {
        void *p = NULL;
        if (bytes <= 1ull << 40 && !posix_memalign(&p, 4096, bytes)) {
            memset(p, 0, bytes);
            e.addr = (u64)(uintptr_t)p;
            if (insert(&host, e))
                result = VM_OK, *addr = e.addr;
            else
                free(p);
        }
    } else if (map_arena() && bytes <= DEVICE_TOTAL - used_bytes) {
        u64 need = (bytes + 2 * RED_ZONE + ALIGNMENT - 1) & ~(u64)(ALIGNMENT - 1);
        u64 at = find_room(need);
        if (at) {
            e.addr = VM_DEV_BASE + at + RED_ZONE;
            if (insert(&device, e)) {
                clear_range(at + RED_ZONE, bytes);
                used_bytes += bytes;
                *addr = e.addr;
                result = VM_OK;
            }
        }
    }
    pthread_mutex_unlock(&lock);
    return result;
}

int vm_mem_free(uint64_t addr) {
    pthread_mutex_lock(&lock);
    int result = VM_INVALID_VALUE;
    struct table *t = addr >= VM_DEV_BASE ? &device : &host;
    long i = at_or_below(t, addr);
    if (i >= 0 && t->e[i].addr == addr && !t->e[i].freed && t->e[i].kind != VM_MEM_REGISTERED) {
        result = VM_OK;
        if (t == &host) {
            free((void *)(uintptr_t)addr);
            memmove(t->e + i, t->e + i + 1, (t->n - (size_t)i - 1) * sizeof *t->e);
            t->n--;
        } else {
            t->e[i].freed = true;
            used_bytes -= t->e[i].bytes;
            clear_range(addr - VM_DEV_BASE, t->e[i].bytes);
            kept_bytes += t->e[i].bytes + 2 * RED_ZONE;
            if (kept_bytes > 4 << 20) return_pages();
            if (++n_freed > 1 << 16) forget_freed(t, 1 << 15);
        }
    }
    pthread_mutex_unlock(&lock);
    return result;
}

int vm_mem_register(void *p, uint64_t bytes) {
    u64 addr = (u64)(uintptr_t)p;
    if (!p || !bytes || addr >= VM_DEV_BASE || bytes > 1ull << 46) return VM_INVALID_VALUE;
    pthread_mutex_lock(&lock);
    long i = at_or_below(&host, addr);
    int result = VM_OK;
    bool overlaps = (i >= 0 && host.e[i].addr + host.e[i].bytes > addr) ||
                    ((size_t)(i + 1) < host.n && host.e[i + 1].addr < addr + bytes);
    if (overlaps)
        result = 712; /* CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED */
    else if (!insert(&host, (struct entry){.addr = addr,
                                           .bytes = bytes,
                                           .kind = VM_MEM_REGISTERED,
                                           .origin = "cuMemHostRegister",
                                           .id = ++next_id}))
        result = VM_OUT_OF_MEMORY;
    pthread_mutex_unlock(&lock);
    return result;
}

int vm_mem_unregister(void *p) {
    pthread_mutex_lock(&lock);
    long i = at_or_below(&host, (u64)(uintptr_t)p);
    int result = 713; /* CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED */
    if (i >= 0 && host.e[i].addr == (u64)(uintptr_t)p && host.e[i].kind == VM_MEM_REGISTERED) {
        memmove(host.e + i, host.e + i + 1, (host.n - (size_t)i - 1) * sizeof *host.e);
        host.n--;
        result = VM_OK;
    }
    pthread_mutex_unlock(&lock);
    return result;
}

static bool find(u64 addr, struct entry *out) {
    struct table *t = addr >= VM_DEV_BASE ? &device : &host;
    long i = at_or_below(t, addr);
    if (i < 0 || t->e[i].freed || addr - t->e[i].addr >= t->e[i].bytes) return false;
    *out = t->e[i];
    return true;
}

/* The same with its neighbours behind it. Only a place has any: everything else stands between red zones. */
static bool find_range(u64 addr, struct entry *out) {
    if (!find(addr, out)) return false;
    if (addr < VM_DEV_BASE) return true;
    for (size_t i = (size_t)at_or_below(&device, addr) + 1;
         i < device.n && !device.e[i].freed && device.e[i].addr == out->addr + out->bytes; i++)
        out->bytes += device.e[i].bytes;
    return true;
}

bool vm_mem_within(uint64_t addr, uint64_t bytes) {
    struct entry e;
    pthread_mutex_lock(&lock);
    bool ok = find_range(addr, &e) && bytes <= e.bytes && addr - e.addr <= e.bytes - bytes;
    pthread_mutex_unlock(&lock);
    return ok;
}

/* ---- places ---- */
int vm_place_new(uint64_t bytes, uint64_t align, uint64_t *addr) {
    u64 need;
    *addr = 0;
    if (!bytes || align < ALIGNMENT || align & (align - 1) || !size_add(bytes, align + 2 * RED_ZONE, &need))
        return VM_INVALID_VALUE;
    pthread_mutex_lock(&lock);
    int result = VM_OUT_OF_MEMORY;
    need = (need + ALIGNMENT - 1) & ~(u64)(ALIGNMENT - 1);
    struct place *grown = map_arena() ? realloc(places, (n_places + 1) * sizeof *places) : NULL;
    if (grown) places = grown;
    u64 at = grown ? find_room(need) : 0;
    if (at) {
        u64 a = (VM_DEV_BASE + at + RED_ZONE + align - 1) & ~(align - 1);
        places[n_places++] = (struct place){a, bytes};
        *addr = a;
        result = VM_OK;
    }
    pthread_mutex_unlock(&lock);
    return result;
}

void vm_place_drop(uint64_t addr) {
    pthread_mutex_lock(&lock);
    for (size_t i = 0; i < n_places; i++)
        if (places[i].addr == addr) {
            places[i] = places[--n_places];
            break;
        }
    pthread_mutex_unlock(&lock);
}

int vm_place_fill(uint64_t addr, uint64_t bytes, const char *origin, void *contents) {
    pthread_mutex_lock(&lock);
    long below = at_or_below(&device, addr);
    size_t from = below < 0 ? 0 : (size_t)below, to;
    if (from < device.n && device.e[from].addr + device.e[from].bytes <= addr) from++;
    for (to = from; to < device.n && device.e[to].addr < addr + bytes;) to++;
    n_freed -= to - from; /* what has been here before is forgotten */
    memmove(device.e + from, device.e + to, (device.n - to) * sizeof *device.e);
    device.n -= to - from;
    int result = bytes <= DEVICE_TOTAL - used_bytes ? VM_OK : VM_OUT_OF_MEMORY;
    struct entry e = {.addr = addr, .bytes = bytes, .kind = VM_MEM_DEVICE, .origin = origin, .id = ++next_id};
    if (result == VM_OK && !insert(&device, e)) result = VM_OUT_OF_MEMORY;
    if (result == VM_OK) {
        used_bytes += bytes;
        if (contents) {
            memcpy(vm_arena + (addr - VM_DEV_BASE), contents, bytes);
            memcpy(vm_arena_shadow + (addr - VM_DEV_BASE), (u8 *)contents + bytes, bytes);
            free(contents);
        } else {
            clear_range(addr - VM_DEV_BASE, bytes);
        }
    }
    pthread_mutex_unlock(&lock);
    return result;
}

void *vm_place_take(uint64_t addr, uint64_t bytes) {
    u8 *contents = malloc(2 * bytes);
    if (!contents) return NULL;
    memcpy(contents, vm_arena + (addr - VM_DEV_BASE), bytes);
    memcpy(contents + bytes, vm_arena_shadow + (addr - VM_DEV_BASE), bytes);
    return contents;
}

bool vm_mem_find(uint64_t addr, struct vm_allocation *out) {
    struct entry e;
    pthread_mutex_lock(&lock);
    bool ok = find(addr, &e);
    pthread_mutex_unlock(&lock);
    if (ok) *out = (struct vm_allocation){e.addr, e.bytes, e.kind, e.origin, e.id, e.owner, e.freed};
    return ok;
}
bool vm_mem_set_owner(uint64_t addr, void *owner) {
    pthread_mutex_lock(&lock);
    struct table *t = addr >= VM_DEV_BASE ? &device : &host;
    long i = at_or_below(t, addr);
    bool ok = i >= 0 && !t->e[i].freed && addr - t->e[i].addr < t->e[i].bytes;
    if (ok) t->e[i].owner = owner;
    pthread_mutex_unlock(&lock);
    return ok;
}
void vm_mem_usage(uint64_t *used, uint64_t *total) {
    pthread_mutex_lock(&lock);
    *used = used_bytes;
    *total = DEVICE_TOTAL;
    pthread_mutex_unlock(&lock);
}
void vm_mem_each(void (*f)(const struct vm_allocation *a, void *arg), void *arg) {
    pthread_mutex_lock(&lock);
    for (int k = 0; k < 2; k++) {
        struct table *t = k ? &host : &device;
        for (size_t i = 0; i < t->n; i++) {
            struct entry *e = &t->e[i];
            if (e->freed || e->kind == VM_MEM_MODULE) continue;
            struct vm_allocation a = {e->addr, e->bytes, e->kind, e->origin, e->id, e->owner, false};
            f(&a, arg);
        }
    }
    pthread_mutex_unlock(&lock);
}

/* ---- copies by the host ---- */
/* Host address of a range on either side; device tells whether it has shadow. NULL: not inside one live allocation. */
static u8 *side(u64 addr, u64 bytes, bool *is_device) {
    *is_device = addr >= VM_DEV_BASE;
    if (!*is_device) return (u8 *)(uintptr_t)addr;
    struct entry e;
    if (!find_range(addr, &e) || bytes > e.bytes - (addr - e.addr)) return NULL;
    return vm_arena + (addr - VM_DEV_BASE);
}

int vm_mem_copy(uint64_t dst, uint64_t src, uint64_t bytes) {
    if (!bytes) return VM_OK;
    if (!dst || !src) return VM_INVALID_VALUE;
    bool dd, sd, checks = vm_settings()->check;
    pthread_mutex_lock(&lock);
    u8 *d = side(dst, bytes, &dd), *s = side(src, bytes, &sd);
    pthread_mutex_unlock(&lock);
    if (!d || !s) return VM_INVALID_VALUE;
    memmove(d, s, bytes);
    if (dd && checks) {
        if (sd)
            memmove(vm_arena_shadow + (dst - VM_DEV_BASE), vm_arena_shadow + (src - VM_DEV_BASE), bytes);
        else
            memset(vm_arena_shadow + (dst - VM_DEV_BASE), SHADOW_OK, bytes);
    }
    return VM_OK;
}

int vm_mem_set(uint64_t dst, uint32_t value, int width, uint64_t n, uint64_t height, uint64_t pitch) {
    u64 row_bytes, span;
    if (!n || !height) return VM_OK;
    if ((width != 1 && width != 2 && width != 4) || dst % (u64)width) return VM_INVALID_VALUE;
    if (!size_mul(n, (u64)width, &row_bytes) || !size_mul(pitch, height - 1, &span) ||
        !size_add(span, row_bytes, &span))
        return VM_INVALID_VALUE;
    if (height > 1 && pitch < row_bytes) return VM_INVALID_VALUE;
    bool is_device, checks = vm_settings()->check;
    struct entry e;
    pthread_mutex_lock(&lock);
    bool known = find_range(dst, &e) && span <= e.bytes - (dst - e.addr);
    u8 *d = known ? side(dst, span, &is_device) : NULL;
    pthread_mutex_unlock(&lock);
    if (!d) return VM_INVALID_VALUE;
    for (u64 y = 0; y < height; y++) {
        u8 *p = d + y * pitch;
        if (width == 1)
            memset(p, (int)value, n);
        else if (width == 2)
            for (u64 i = 0; i < n; i++) ((u16 *)p)[i] = (u16)value;
        else
            for (u64 i = 0; i < n; i++) ((u32 *)p)[i] = value;
        if (is_device && checks) memset(vm_arena_shadow + (dst - VM_DEV_BASE) + y * pitch, SHADOW_OK, row_bytes);
    }
    return VM_OK;
}

void *vm_mem_host(uint64_t addr, uint64_t bytes) {
    struct entry e;
    pthread_mutex_lock(&lock);
    bool ok = find_range(addr, &e) && bytes <= e.bytes - (addr - e.addr);
    pthread_mutex_unlock(&lock);
    if (!ok) return NULL;
    return addr >= VM_DEV_BASE ? (void *)(vm_arena + (addr - VM_DEV_BASE)) : (void *)(uintptr_t)addr;
}

u8 *vm_host_memory(u64 address, u64 bytes) {
    struct entry e;
    if (address >= VM_DEV_BASE) return NULL;
    pthread_mutex_lock(&lock);
    bool ok = find(address, &e) && bytes <= e.bytes - (address - e.addr);
    pthread_mutex_unlock(&lock);
    return ok ? (u8 *)(uintptr_t)address : NULL;
}

/* The range inside the live allocation around address; false: there is none. */
bool vm_memory_range(u64 address, u64 *lo, u64 *hi) {
    struct entry e;
    pthread_mutex_lock(&lock);
    bool ok = find_range(address, &e);
    pthread_mutex_unlock(&lock);
    if (ok) *lo = e.addr, *hi = e.addr + e.bytes;
    return ok;
}

bool vm_memory_freed(u64 address) {
    pthread_mutex_lock(&lock);
    struct table *t = address >= VM_DEV_BASE ? &device : &host;
    long i = at_or_below(t, address);
    bool freed = i >= 0 && t->e[i].freed && address - t->e[i].addr < t->e[i].bytes;
    pthread_mutex_unlock(&lock);
    return freed;
}

void vm_memory_nearest(u64 address, char *out, size_t cap) {
    pthread_mutex_lock(&lock);
    struct table *t = address >= VM_DEV_BASE ? &device : &host;
    long i = at_or_below(t, address);
    const struct entry *below = i >= 0 ? &t->e[i] : NULL, *above = (size_t)(i + 1) < t->n ? &t->e[i + 1] : NULL;
    const struct entry *e = below;
    if (!e || (above && above->addr - address < address - (below->addr + below->bytes) &&
               address >= below->addr + below->bytes))
        e = above;
    if (!e) {
        snprintf(out, cap, "no allocation");
    } else {
        const char *name = e->origin ? e->origin : "?";
        u64 end = e->addr + e->bytes;
        if (address < e->addr)
            snprintf(out, cap, "nearest allocation %s%s #%llu of %llu bytes at 0x%llx, %llu bytes before it",
                     e->freed ? "(freed) " : "", name, (unsigned long long)e->id, (unsigned long long)e->bytes,
                     (unsigned long long)e->addr, (unsigned long long)(e->addr - address));
        else if (address >= end)
            snprintf(out, cap, "nearest allocation %s%s #%llu of %llu bytes at 0x%llx, %llu bytes past its end",
                     e->freed ? "(freed) " : "", name, (unsigned long long)e->id, (unsigned long long)e->bytes,
                     (unsigned long long)e->addr, (unsigned long long)(address - end));
        else
            snprintf(out, cap, "nearest allocation %s%s #%llu of %llu bytes at 0x%llx, at byte %llu",
                     e->freed ? "(freed) " : "", name, (unsigned long long)e->id, (unsigned long long)e->bytes,
                     (unsigned long long)e->addr, (unsigned long long)(address - e->addr));
    }
    pthread_mutex_unlock(&lock);
}
