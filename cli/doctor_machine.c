/* doctor_machine: the processor and memory, from hwloc, /proc and /sys. What cannot be read is left out. */
#include "cli/doctor.h"

#include <hwloc.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

/* A whole small file of /proc or /sys, which has no size to go by; NULL when it cannot be read. The caller frees it. */
static char *read_text(const char *path) {
    FILE *f = fopen(path, "re");
    char *text = NULL;
    size_t size = 0;
    if (!f) return NULL;
    if (getdelim(&text, &size, '\0', f) < 0) {
        free(text);
        text = NULL;
    }
    fclose(f);
    return text;
}

/* The rest of the first line that starts with `name`, after its colon; NULL when there is none. The caller frees it. */
static char *field(const char *text, const char *name) {
    for (const char *line = text; line; line = strchr(line, '\n')) {
        line += *line == '\n';
        if (strncmp(line, name, strlen(name)) != 0) continue;
        const char *colon = strchr(line, ':');
        if (!colon) return NULL;
        colon += 1 + strspn(colon + 1, " \t");
        return strndup(colon, strcspn(colon, "\n"));
    }
    return NULL;
}

static bool has_word(const char *words, const char *word) {
    size_t n = strlen(word);
    for (const char *at = words; (at = strstr(at, word)); at += n)
        if ((at == words || at[-1] == ' ') && (at[n] == ' ' || at[n] == 0)) return true;
    return false;
}

/* SIMD that kgen has code for, by the names of /proc/cpuinfo. */
static json_t *simd(const char *flags) {
    static const struct {
        const char *flag, *name;
    } known[] = {{"sse2", "SSE2"},         {"avx2", "AVX2"},
                 {"fma", "FMA"},           {"f16c", "F16C"},
                 {"avx512f", "AVX-512"},   {"avx512_vnni", "AVX-512 VNNI"},
                 {"avx_vnni", "AVX VNNI"}, {"avx512_bf16", "AVX-512 BF16"},
                 {"amx_int8", "AMX int8"}, {"amx_bf16", "AMX bf16"}};
    json_t *list = json_array();
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (has_word(flags, known[i].flag)) json_array_append_new(list, json_string(known[i].name));
    return list;
}

static void add_processor(json_t *m) {
    char *cpuinfo = read_text("/proc/cpuinfo");
    if (!cpuinfo) return;
    char *model = field(cpuinfo, "model name"), *flags = field(cpuinfo, "flags");
    if (model) json_object_set_new(m, "processor", json_text(model, strlen(model)));
    if (flags) json_object_set_new(m, "simd", simd(flags));
    free(model);
    free(flags);
    free(cpuinfo);
}

/* Cores and threads this process may use, of those there are. */
struct cpus {
    int64_t cores, threads, all_threads, nodes;
    uint64_t l2_bytes, l3_bytes;
};

static struct cpus count_cpus(void) {
    struct cpus c = {.cores = 1, .threads = 1, .all_threads = 1, .nodes = 1};
    setenv("HWLOC_HIDE_ERRORS", "2", 0); /* what it cannot find out is not for standard error */
    hwloc_topology_t topology;
    if (hwloc_topology_init(&topology) != 0) return c;
    if (hwloc_topology_load(topology) == 0) {
        hwloc_bitmap_t mine = hwloc_bitmap_alloc();
        if (mine && hwloc_get_cpubind(topology, mine, HWLOC_CPUBIND_PROCESS) != 0)
            hwloc_bitmap_copy(mine, hwloc_topology_get_allowed_cpuset(topology));
        if (mine) {
            /* A core counts when any thread of it is ours. */
            hwloc_obj_t core = NULL;
            c.cores = 0;
            while ((core = hwloc_get_next_obj_by_type(topology, HWLOC_OBJ_CORE, core)))
                c.cores += hwloc_bitmap_intersects(core->cpuset, mine);
            c.threads = hwloc_bitmap_weight(mine);
            if (c.cores < 1) c.cores = c.threads > 0 ? c.threads : 1;
        }
        c.all_threads = hwloc_get_nbobjs_by_type(topology, HWLOC_OBJ_PU);
        c.nodes = hwloc_get_nbobjs_by_type(topology, HWLOC_OBJ_NUMANODE);
        hwloc_obj_t l2 = hwloc_get_obj_by_type(topology, HWLOC_OBJ_L2CACHE, 0);
        hwloc_obj_t l3 = hwloc_get_obj_by_type(topology, HWLOC_OBJ_L3CACHE, 0);
        if (l2) c.l2_bytes = l2->attr->cache.size;
        if (l3) c.l3_bytes = l3->attr->cache.size;
        hwloc_bitmap_free(mine);
    }
    hwloc_topology_destroy(topology);
    return c;
}

int64_t doctor_cores(void) {
    return count_cpus().cores;
}

/* A container may have all cores but only some of their time (cgroup v2: "200000 100000" is two cores' worth). */
static void add_quota(json_t *m, const struct cpus *c, json_t *advice) {
    char *text = read_text("/sys/fs/cgroup/cpu.max");
    double quota, period;
    if (text && sscanf(text, "%lf %lf", &quota, &period) == 2 && period > 0) {
        json_object_set_new(m, "cpu_quota", json_finite(quota / period));
        if (quota / period < (double)c->cores)
            doctor_advise(
                advice, "a cgroup limits this process to less CPU time than it has cores",
                "set --threads (KGEN_THREADS) to the quota: threads that wait for their share hold up the rest");
    }
    free(text);
}

static void add_memory(json_t *m, json_t *advice) {
    static const struct {
        const char *field, *key;
    } rows[] = {{"MemTotal", "memory_bytes"}, {"MemAvailable", "available_bytes"}, {"SwapTotal", "swap_bytes"}};
    char *meminfo = read_text("/proc/meminfo");
    for (size_t i = 0; meminfo && i < sizeof rows / sizeof *rows; i++) {
        char *kib = field(meminfo, rows[i].field);
        if (kib) json_object_set_new(m, rows[i].key, json_integer(atoll(kib) * 1024));
        free(kib);
    }
    free(meminfo);

    /* "always [madvise] never" */
    char *huge = read_text("/sys/kernel/mm/transparent_hugepage/enabled");
    char *from = huge ? strchr(huge, '[') : NULL;
    if (from) {
        size_t n = strcspn(from + 1, "]");
        json_object_set_new(m, "huge_pages", json_text(from + 1, n));
        if (n == 5 && memcmp(from + 1, "never", 5) == 0)
            doctor_advise(advice, "huge pages are switched off, which slows reading weights",
                          "as root: echo madvise > /sys/kernel/mm/transparent_hugepage/enabled");
    }
    free(huge);
}

json_t *doctor_machine(json_t *advice) {
    json_t *m = json_object();
    struct cpus c = count_cpus();
    add_processor(m);
    json_object_set_new(m, "cores", json_integer(c.cores));
    json_object_set_new(m, "threads", json_integer(c.threads));
    json_object_set_new(m, "threads_of_machine", json_integer(c.all_threads));
    json_object_set_new(m, "numa_nodes", json_integer(c.nodes));
    if (c.l2_bytes) json_object_set_new(m, "l2_bytes", json_integer((json_int_t)c.l2_bytes));
    if (c.l3_bytes) json_object_set_new(m, "l3_bytes", json_integer((json_int_t)c.l3_bytes));
    add_quota(m, &c, advice);
    add_memory(m, advice);
    return m;
}
