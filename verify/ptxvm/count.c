/* The counters: coalescing and bank conflicts of one request, sums over the process, the report. */
#include "verify/ptxvm/machine.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

static enum vm_space counter_space(u8 space) {
    switch (space) {
    case SP_GLOBAL:
        return VM_S_GLOBAL;
    case SP_SHARED:
        return VM_S_SHARED;
    case SP_LOCAL:
        return VM_S_LOCAL;
    case SP_CONST:
        return VM_S_CONST;
    case SP_PARAM:
        return VM_S_PARAM;
    default:
        return VM_S_GENERIC;
    }
}

/* ---- unique sectors: two bits for each of the arena, 32 sectors a word; pages of it come as they are touched ---- */
static size_t touched_bytes(void) {
    return (size_t)(vm_arena_bytes / 32 / 32 + 1) * sizeof(u64);
}
bool vm_count_begin(struct launch *l) {
    void *p = mmap(NULL, touched_bytes(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    l->touched = p == MAP_FAILED ? NULL : p;
    return l->touched != NULL;
}
void vm_count_end(struct launch *l) {
    if (l->touched) munmap(l->touched, touched_bytes());
}

void vm_count_touched(struct warp *w, u64 address, u32 bytes, int store) {
    struct worker *k = w->block->worker;
    u64 off = address - VM_DEV_BASE;
    if (off >= vm_arena_bytes || bytes > vm_arena_bytes - off) return;
    for (u64 s = off / 32; s <= (off + bytes - 1) / 32; s++) {
        u64 bit = (u64)(store ? 2 : 1) << s % 32 * 2;
        atomic_ullong *word = &k->launch->touched[s / 32];
        if (atomic_load_explicit(word, memory_order_relaxed) & bit) continue;
        u64 old = atomic_fetch_or_explicit(word, bit, memory_order_relaxed) >> s % 32 * 2 & 3;
        k->counters.unique_sectors[store] += !(old & (store ? 2 : 1));
        k->counters.unique_sectors[2] += !old;
    }
}

/* One request of a warp: sectors of 32 bytes; for shared memory the extra passes its banks need (32 banks of 4 bytes; a
 * request of 8 or 16 bytes a lane goes in halves or quarters of the warp). */
void vm_count_access(struct warp *w, u8 space, const u64 *addr, u32 mask, u32 bytes, int store) {
    struct vm_counters *c = &w->block->worker->counters;
    enum vm_space sp = counter_space(space);
    u32 n = lanes(mask);
    if (!n) return;
    c->requests[sp][store]++;
    c->bytes[sp][store] += (u64)n * bytes;
    c->ideal_sectors[sp][store] += ((u64)n * bytes + 31) / 32;
    if (space == SP_SHARED) {
        u32 group = bytes >= 16 ? 8 : bytes == 8 ? 16 : 32, passes = 0, parts = 0;
        for (u32 g = 0; g < 32; g += group) {
            u32 words[32][32], count[32] = {0}, most = 0, any = 0;
            for (u32 i = g; i < g + group; i++) {
                if (!(mask >> i & 1)) continue;
                any = 1;
                for (u32 k = 0; k < (bytes + 3) / 4; k++) {
                    u32 word = (u32)(addr[i] / 4 + k), bank = word & 31, j = 0;
                    while (j < count[bank] && words[bank][j] != word) j++;
                    if (j == count[bank] && j < 32) words[bank][count[bank]++] = word;
                    if (count[bank] > most) most = count[bank];
                }
            }
            passes += most;
            parts += any;
        }
        c->bank_conflicts += passes > parts ? passes - parts : 0;
        c->sectors[sp][store] += ((u64)n * bytes + 31) / 32;
        return;
    }
    EACH_LANE(i, mask)
    if (space == SP_GLOBAL || (space == SP_GENERIC && vm_space_of(addr[i]) == SP_GLOBAL))
        vm_count_touched(w, addr[i], bytes, store);
    u64 seen[128];
    u32 k = 0;
    EACH_LANE(i, mask)
    for (u64 s = addr[i] / 32; s <= (addr[i] + bytes - 1) / 32; s++) {
        u32 j = k;
        while (j && seen[j - 1] != s) j--;
        if (!j && k < 128) seen[k++] = s;
    }
    c->sectors[sp][store] += k;
}

void vm_counters_add(struct vm_counters *to, const struct vm_counters *from) {
    u64 *a = (u64 *)to;
    const u64 *b = (const u64 *)from;
    for (size_t i = 0; i < sizeof *to / sizeof *a; i++) a[i] += b[i];
}

/* ---- the process ---- */
struct kernel {
    char name[200];
    u64 launches;
    struct vm_counters c;
};
static struct kernel *kernels;
static size_t n_kernels, cap_kernels;
static u64 host_events[VM_H_COUNT], host_bytes[VM_H_COUNT];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static const char *const class_names[VM_C_COUNT] = {"int",     "float", "half",    "double", "convert", "special",
                                                    "compare", "move",  "load",    "store",  "atomic",  "async",
                                                    "control", "warp",  "barrier", "matrix"};
static const char *const space_names[VM_S_COUNT] = {"generic", "global", "shared", "local", "const", "param"};
static const char *const event_names[VM_H_COUNT] = {
    "synchronizations", "copies_to_device", "copies_to_host", "copies_on_device", "fills",
    "allocations",      "graph_launches",   "host_functions"};

#define NUMBER(x) ((unsigned long long)(x))

static void json_text(FILE *f, const char *s) {
    fputc('"', f);
    for (; *s; s++) {
        if (*s == '"' || *s == '\\') fputc('\\', f);
        if ((unsigned char)*s >= 0x20) fputc(*s, f);
    }
    fputc('"', f);
}

/* A line of the file for launches, which is whole whenever the program ends. */
static void write_launch(const char *path, const char *name, const struct vm_counters *c) {
    static FILE *f;
    if (!f && !(f = fopen(path, "w"))) return;
    fprintf(f, "{\"name\": ");
    json_text(f, name);
    fprintf(f, ", \"blocks\": %llu", NUMBER(c->blocks));
    for (int d = 0; d < 2; d++)
        fprintf(f, ", \"%s\": {\"unique_sectors\": %llu, \"sectors\": %llu, \"ideal_sectors\": %llu, \"bytes\": %llu}",
                d ? "stores" : "loads", NUMBER(c->unique_sectors[d]), NUMBER(c->sectors[VM_S_GLOBAL][d]),
                NUMBER(c->ideal_sectors[VM_S_GLOBAL][d]), NUMBER(c->bytes[VM_S_GLOBAL][d]));
    fprintf(f, ", \"either\": %llu, \"bank_conflicts\": %llu}\n", NUMBER(c->unique_sectors[2]),
            NUMBER(c->bank_conflicts));
    fflush(f);
}

void vm_report_launch(const char *name, const struct vm_counters *c) {
    pthread_mutex_lock(&lock);
    if (vm_settings()->launches) write_launch(vm_settings()->launches, name, c);
    size_t i = 0;
    while (i < n_kernels && strncmp(kernels[i].name, name, sizeof kernels[i].name - 1)) i++;
    if (i == n_kernels) {
        if (n_kernels == cap_kernels) {
            cap_kernels = cap_kernels ? cap_kernels * 2 : 16;
            kernels = mem_grow(kernels, cap_kernels * sizeof *kernels);
        }
        kernels[n_kernels] = (struct kernel){0};
        snprintf(kernels[n_kernels].name, sizeof kernels[n_kernels].name, "%s", name);
        n_kernels++;
    }
    kernels[i].launches++;
    vm_counters_add(&kernels[i].c, c);
    pthread_mutex_unlock(&lock);
}
void vm_report_host(enum vm_host_event e, uint64_t bytes) {
    pthread_mutex_lock(&lock);
    host_events[e]++;
    host_bytes[e] += bytes;
    pthread_mutex_unlock(&lock);
}

static void text_kernel(FILE *f, const struct kernel *k) {
    const struct vm_counters *c = &k->c;
    fprintf(f, "kernel %s: %llu launches, %llu blocks, %llu warps\n", k->name, NUMBER(k->launches), NUMBER(c->blocks),
            NUMBER(c->warps));
    for (int i = 0; i < VM_C_COUNT; i++)
        if (c->warp_instructions[i])
            fprintf(f, "  %-8s %14llu warp instructions, %5.1f lanes each\n", class_names[i],
                    NUMBER(c->warp_instructions[i]), (double)c->lane_instructions[i] / (double)c->warp_instructions[i]);
    for (int s = 0; s < VM_S_COUNT; s++)
        for (int d = 0; d < 2; d++)
            if (c->requests[s][d])
                fprintf(f, "  %-8s %s %llu requests, %llu sectors (%llu if contiguous), %llu bytes\n", space_names[s],
                        d ? "stores" : "loads ", NUMBER(c->requests[s][d]), NUMBER(c->sectors[s][d]),
                        NUMBER(c->ideal_sectors[s][d]), NUMBER(c->bytes[s][d]));
    if (c->unique_sectors[2])
        fprintf(f, "  global   %llu unique sectors, each once a launch: %llu read, %llu written\n",
                NUMBER(c->unique_sectors[2]), NUMBER(c->unique_sectors[0]), NUMBER(c->unique_sectors[1]));
    fprintf(f,
            "  branches %llu, divergent %llu; barriers %llu; bank conflicts %llu; matrix %llu operations, %llu flops\n",
            NUMBER(c->branches), NUMBER(c->divergent_branches), NUMBER(c->barriers), NUMBER(c->bank_conflicts),
            NUMBER(c->matrix_ops), NUMBER(c->matrix_flops));
}

static void json_kernel(FILE *f, const struct kernel *k) {
    const struct vm_counters *c = &k->c;
    fprintf(f, "    {\"name\": ");
    json_text(f, k->name);
    fprintf(f, ", \"launches\": %llu, \"blocks\": %llu, \"warps\": %llu,\n     \"instructions\": {",
            NUMBER(k->launches), NUMBER(c->blocks), NUMBER(c->warps));
    for (int i = 0; i < VM_C_COUNT; i++)
        fprintf(f, "%s\"%s\": {\"warp\": %llu, \"lane\": %llu}", i ? ", " : "", class_names[i],
                NUMBER(c->warp_instructions[i]), NUMBER(c->lane_instructions[i]));
    fprintf(f, "},\n     \"memory\": {");
    for (int s = 0; s < VM_S_COUNT; s++) {
        fprintf(f, "%s\"%s\": {", s ? ", " : "", space_names[s]);
        for (int d = 0; d < 2; d++)
            fprintf(f, "%s\"%s\": {\"requests\": %llu, \"sectors\": %llu, \"ideal_sectors\": %llu, \"bytes\": %llu}",
                    d ? ", " : "", d ? "stores" : "loads", NUMBER(c->requests[s][d]), NUMBER(c->sectors[s][d]),
                    NUMBER(c->ideal_sectors[s][d]), NUMBER(c->bytes[s][d]));
        fprintf(f, "}");
    }
    fprintf(f,
            "},\n     \"unique_sectors\": {\"loads\": %llu, \"stores\": %llu, \"either\": %llu},\n"
            "     \"branches\": %llu, \"divergent_branches\": %llu, \"barriers\": %llu, \"bank_conflicts\": %llu, "
            "\"matrix_ops\": %llu, \"matrix_flops\": %llu}",
            NUMBER(c->unique_sectors[0]), NUMBER(c->unique_sectors[1]), NUMBER(c->unique_sectors[2]),
            NUMBER(c->branches), NUMBER(c->divergent_branches), NUMBER(c->barriers), NUMBER(c->bank_conflicts),
            NUMBER(c->matrix_ops), NUMBER(c->matrix_flops));
}

static void write_report(const char *path, bool json) {
    FILE *f = fopen(path, "w");
    if (!f) {
        vm_say("cannot write the report to %s", path);
        return;
    }
    if (json) {
        fprintf(f, "{\"kernels\": [\n");
        for (size_t i = 0; i < n_kernels; i++) {
            json_kernel(f, &kernels[i]);
            fprintf(f, "%s\n", i + 1 < n_kernels ? "," : "");
        }
        fprintf(f, "  ],\n \"host\": {");
        for (int i = 0; i < VM_H_COUNT; i++)
            fprintf(f, "%s\"%s\": {\"count\": %llu, \"bytes\": %llu}", i ? ", " : "", event_names[i],
                    NUMBER(host_events[i]), NUMBER(host_bytes[i]));
        fprintf(f, "}}\n");
    } else {
        for (size_t i = 0; i < n_kernels; i++) text_kernel(f, &kernels[i]);
        for (int i = 0; i < VM_H_COUNT; i++)
            fprintf(f, "host %s: %llu, %llu bytes\n", event_names[i], NUMBER(host_events[i]), NUMBER(host_bytes[i]));
    }
    fclose(f);
}

static void leak(const struct vm_allocation *a, void *arg) {
    static const char *const kinds[] = {"device", "pinned", "managed", "registered", "module"};
    (void)arg;
    vm_say("leak: %s memory, allocation %s #%llu of %llu bytes at 0x%llx was never freed", kinds[a->kind],
           a->origin ? a->origin : "?", NUMBER(a->id), NUMBER(a->bytes), NUMBER(a->addr));
}

void vm_at_exit(void) {
    static bool done;
    pthread_mutex_lock(&lock);
    bool again = done;
    done = true;
    pthread_mutex_unlock(&lock);
    if (again) return;
    const struct vm_settings *s = vm_settings();
    if (s->report) {
        size_t n = strlen(s->report);
        bool json = n > 5 && !strcmp(s->report + n - 5, ".json");
        write_report(s->report, json);
        if (!json) {
            char path[4096];
            snprintf(path, sizeof path, "%s.json", s->report);
            write_report(path, true);
        }
    }
    if (s->leaks) vm_mem_each(leak, NULL);
}
