/* fatbin: finds PTX in a fatbinary.
 *
 *   header, 16 bytes          | u32 magic BA55ED50 | u16 version | u16 header bytes | u64 bytes of all entries |
 *   then entries, each        | u16 kind (1 PTX, 2 ELF) | u16 version | u32 header bytes | u64 payload bytes, padded |
 *     at offset 16            | u32 bytes when compressed | u32 | u16 minor | u16 major | u32 architecture (90) |
 *     at offset 40            | u64 flags (0x2000 LZ4, 0x8000 zstd) | u64 | u64 bytes after decompression |
 *
 * The layout is read off files that nvcc 13.0 writes with and without --no-compress. zstd payloads are unpacked when
 * the system has libzstd.so.1; without it, and for LZ4, the error says how to compile instead.
 */
#include "verify/ptxvm/fatbin.h"
#include <dlfcn.h>
#include <string.h>

enum { MAGIC = 0xBA55ED50, WRAPPER_MAGIC = 0x466243b1, HEADER = 16, ENTRY_MIN = 64, KIND_PTX = 1 };
enum { FLAG_LZ4 = 0x2000, FLAG_ZSTD = 0x8000 };
#define MAX_PTX ((uint64_t)1 << 30)

static uint64_t get(const unsigned char *p, int bytes) {
    uint64_t v = 0;
    memcpy(&v, p, (size_t)bytes);
    return v;
}

enum image_kind image_kind(const void *image) {
    const unsigned char *p = image;
    /* byte by byte: a text may end before the fourth */
    if (p[0] == 0x50 && p[1] == 0xed && p[2] == 0x55 && p[3] == 0xba) return IMAGE_FATBIN;
    if (p[0] == 0xb1 && p[1] == 0x43 && p[2] == 0x62 && p[3] == 0x46) return IMAGE_WRAPPER;
    if (p[0] == 0x7f && p[1] == 'E' && p[2] == 'L' && p[3] == 'F') return IMAGE_ELF;
    return IMAGE_TEXT;
}

struct entry {
    const unsigned char *payload;
    uint64_t bytes, compressed, unpacked, flags;
    int arch;
};

static bool unpack(const struct entry *x, struct buf *out, struct err *e) {
    if (!(x->flags & (FLAG_LZ4 | FLAG_ZSTD))) {
        size_t n = strnlen((const char *)x->payload, x->bytes);
        buf_add(out, x->payload, n);
        return true;
    }
    const char *advice = "compile with nvcc --no-compress, or load the PTX text";
    if (x->flags & FLAG_LZ4)
        return err_set(e, ERR_UNSUPPORTED, "fatbinary: the PTX for sm_%d is compressed with LZ4; %s", x->arch, advice);
    static size_t (*decompress)(void *, size_t, const void *, size_t);
    static void *lib;
    if (!lib) lib = dlopen("libzstd.so.1", RTLD_NOW | RTLD_LOCAL);
    if (lib && !decompress) decompress = (size_t(*)(void *, size_t, const void *, size_t))dlsym(lib, "ZSTD_decompress");
    if (!decompress)
        return err_set(e, ERR_UNSUPPORTED,
                       "fatbinary: the PTX for sm_%d is compressed and there is no libzstd.so.1; %s", x->arch, advice);
    char *text = x->unpacked <= MAX_PTX && x->unpacked / 1000 <= x->compressed ? mem_try(x->unpacked + 1, 1) : NULL;
    size_t n = text ? decompress(text, x->unpacked, x->payload, x->compressed) : 0;
    bool ok = text && n == x->unpacked;
    if (ok) buf_add(out, text, strnlen(text, n));
    mem_free(text);
    return ok || err_set(e, ERR_INPUT,
                         "fatbinary: the compressed PTX for sm_%d is damaged (%llu bytes should unpack to %llu)",
                         x->arch, (unsigned long long)x->compressed, (unsigned long long)x->unpacked);
}

/* The letter behind ".target sm_NN", 0 when there is none. */
static char target_letter(const char *ptx) {
    const char *p = strstr(ptx, ".target sm_");
    if (!p) return 0;
    p += strlen(".target sm_");
    while (*p >= '0' && *p <= '9') p++;
    return *p == 'a' || *p == 'f' ? *p : 0;
}

bool fatbin_ptx(const void *image, size_t bytes, int arch, struct buf *out, struct err *e) {
    const unsigned char *p = image;
    if (image_kind(image) == IMAGE_WRAPPER) {
        memcpy(&p, p + 8, sizeof p);
        bytes = 0;
        if (!p || image_kind(p) != IMAGE_FATBIN)
            return err_set(e, ERR_INPUT, "fatbinary: the wrapper points at no fatbinary");
    }
    if (bytes && bytes < HEADER) return err_set(e, ERR_INPUT, "fatbinary: %zu bytes are less than its header", bytes);
    uint64_t header = get(p + 6, 2), size = get(p + 8, 8), end;
    if (header < HEADER || !size_add(header, size, &end) || (bytes && end > bytes))
        return err_set(e, ERR_INPUT, "fatbinary: the header claims %llu bytes of entries, the file has %zu",
                       (unsigned long long)size, bytes);
    struct buf best = {0}, found = {0};
    int best_arch = -1;
    bool ok = true;
    for (uint64_t at = header; ok && at < end;) {
        const unsigned char *q = p + at;
        uint64_t left = end - at, entry_header = left >= ENTRY_MIN ? get(q + 4, 4) : 0,
                 payload = left >= 16 ? get(q + 8, 8) : 0;
        if (entry_header < ENTRY_MIN || entry_header > left || payload > left - entry_header) {
            ok = err_set(e, ERR_INPUT, "fatbinary: the entry at byte %llu is larger than the file",
                         (unsigned long long)at);
            break;
        }
        struct entry x = {.payload = q + entry_header,
                          .bytes = payload,
                          .compressed = get(q + 16, 4),
                          .arch = (int)get(q + 28, 4),
                          .flags = get(q + 40, 8),
                          .unpacked = get(q + 56, 8)};
        at += entry_header + payload;
        bool is_ptx = get(q, 2) == KIND_PTX;
        if (found.len < 200)
            buf_printf(&found, "%s%s sm_%d", found.len ? ", " : "", is_ptx ? "PTX" : "machine code", x.arch);
        if (!is_ptx || x.arch < best_arch || (arch && x.arch > arch)) continue;
        if (x.compressed > x.bytes) {
            ok = err_set(e, ERR_INPUT, "fatbinary: the entry for sm_%d is shorter than its compressed text", x.arch);
            break;
        }
        struct buf text = {0};
        ok = unpack(&x, &text, e);
        if (ok && !(arch && target_letter(text.data ? text.data : "") && x.arch != arch)) {
            buf_free(&best);
            best = text;
            best_arch = x.arch;
        } else {
            buf_free(&text);
        }
    }
    if (ok && best_arch < 0)
        ok = err_set(
            e, ERR_UNSUPPORTED,
            "fatbinary: no PTX for sm_%d inside (found: %s); compile with -gencode arch=compute_%d,code=compute_%d",
            arch ? arch : 90, found.len ? found.data : "nothing", arch ? arch : 90, arch ? arch : 90);
    if (ok) buf_add(out, best.data ? best.data : "", best.len);
    buf_free(&best);
    buf_free(&found);
    return ok;
}
