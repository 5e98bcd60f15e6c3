/* api_tensormap: descriptors for TMA copies.
 *
 * NVIDIA does not document the 128 bytes of a CUtensorMap, so this machine has its own encoding, struct vm_tensor_map:
 * a descriptor must be made by cuTensorMapEncode… here, as programs do, and not be copied from another machine.
 */
#include "verify/ptxvm/driver.h"
#include <string.h>

_Static_assert(sizeof(struct vm_tensor_map) <= sizeof(CUtensorMap), "a descriptor fits its 128 bytes");

/* Bytes of an element in memory; 0 for the packed 4- and 6-bit types' own rules, which are checked apart. */
static unsigned element_bytes(CUtensorMapDataType t) {
    switch (t) {
    case CU_TENSOR_MAP_DATA_TYPE_UINT8:
        return 1;
    case CU_TENSOR_MAP_DATA_TYPE_UINT16:
    case CU_TENSOR_MAP_DATA_TYPE_FLOAT16:
    case CU_TENSOR_MAP_DATA_TYPE_BFLOAT16:
        return 2;
    case CU_TENSOR_MAP_DATA_TYPE_UINT32:
    case CU_TENSOR_MAP_DATA_TYPE_INT32:
    case CU_TENSOR_MAP_DATA_TYPE_FLOAT32:
    case CU_TENSOR_MAP_DATA_TYPE_FLOAT32_FTZ:
    case CU_TENSOR_MAP_DATA_TYPE_TFLOAT32:
    case CU_TENSOR_MAP_DATA_TYPE_TFLOAT32_FTZ:
        return 4;
    case CU_TENSOR_MAP_DATA_TYPE_UINT64:
    case CU_TENSOR_MAP_DATA_TYPE_INT64:
    case CU_TENSOR_MAP_DATA_TYPE_FLOAT64:
        return 8;
    default:
        return 0;
    }
}

static bool is_float(CUtensorMapDataType t) {
    return t >= CU_TENSOR_MAP_DATA_TYPE_FLOAT16 && t <= CU_TENSOR_MAP_DATA_TYPE_TFLOAT32_FTZ;
}

/* Widest inner box in bytes that a swizzle allows, 0: no such limit. */
static unsigned swizzle_bytes(CUtensorMapSwizzle s) {
    switch (s) {
    case CU_TENSOR_MAP_SWIZZLE_32B:
        return 32;
    case CU_TENSOR_MAP_SWIZZLE_64B:
        return 64;
    case CU_TENSOR_MAP_SWIZZLE_128B:
    case CU_TENSOR_MAP_SWIZZLE_128B_ATOM_32B:
    case CU_TENSOR_MAP_SWIZZLE_128B_ATOM_32B_FLIP_8B:
    case CU_TENSOR_MAP_SWIZZLE_128B_ATOM_64B:
        return 128;
    default:
        return 0;
    }
}

/* What tiles and im2col have in common: everything but the box. */
struct shape {
    CUtensorMapDataType type;
    cuuint32_t rank, least_rank;
    void *address;
    const cuuint64_t *dim, *strides;
    const cuuint32_t *element_strides;
    CUtensorMapInterleave interleave;
    CUtensorMapSwizzle swizzle;
    CUtensorMapL2promotion l2;
    CUtensorMapFloatOOBfill fill;
};

static CUresult encode_shape(struct vm_tensor_map *m, const struct shape *s) {
    if (!s->address || s->rank < s->least_rank || s->rank > 5 || !s->dim || !s->element_strides ||
        (s->rank > 1 && !s->strides))
        return CUDA_ERROR_INVALID_VALUE;
    if ((unsigned)s->interleave > CU_TENSOR_MAP_INTERLEAVE_32B ||
        (unsigned)s->swizzle > CU_TENSOR_MAP_SWIZZLE_128B_ATOM_64B ||
        (unsigned)s->l2 > CU_TENSOR_MAP_L2_PROMOTION_L2_256B ||
        (unsigned)s->fill > CU_TENSOR_MAP_FLOAT_OOB_FILL_NAN_REQUEST_ZERO_FMA)
        return CUDA_ERROR_INVALID_VALUE;
    unsigned bytes = element_bytes(s->type);
    if (!bytes) {
        static int said;
        if ((unsigned)s->type > CU_TENSOR_MAP_DATA_TYPE_16U6_ALIGN16B) return CUDA_ERROR_INVALID_VALUE;
        return (CUresult)ptxvm_unsupported("tensor maps of packed 4- and 6-bit types", &said);
    }
    if (s->interleave != CU_TENSOR_MAP_INTERLEAVE_NONE && s->rank < 3) return CUDA_ERROR_INVALID_VALUE;
    if (s->interleave == CU_TENSOR_MAP_INTERLEAVE_32B && s->swizzle != CU_TENSOR_MAP_SWIZZLE_32B)
        return CUDA_ERROR_INVALID_VALUE;
    if (s->fill != CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE && !is_float(s->type)) return CUDA_ERROR_INVALID_VALUE;
    unsigned align = s->interleave == CU_TENSOR_MAP_INTERLEAVE_32B ? 32 : 16;
    if ((uintptr_t)s->address % align) return CUDA_ERROR_INVALID_VALUE;
    *m = (struct vm_tensor_map){.base = (uintptr_t)s->address,
                                .type = (uint8_t)s->type,
                                .rank = (uint8_t)s->rank,
                                .interleave = (uint8_t)s->interleave,
                                .swizzle = (uint8_t)s->swizzle,
                                .l2_promotion = (uint8_t)s->l2,
                                .nan_fill = (uint8_t)s->fill,
                                .magic = VM_TENSOR_MAP_MAGIC};
    for (unsigned i = 0; i < s->rank; i++) {
        if (!s->dim[i] || s->dim[i] > (uint64_t)1 << 32 || !s->element_strides[i] || s->element_strides[i] > 8)
            return CUDA_ERROR_INVALID_VALUE;
        m->dim[i] = s->dim[i];
        m->elem_stride[i] = (uint8_t)s->element_strides[i];
    }
    for (unsigned i = 0; i + 1 < s->rank; i++) {
        uint64_t least = i ? s->strides[i - 1] : s->dim[0] * bytes;
        if (s->strides[i] % align || s->strides[i] >= (uint64_t)1 << 40 || s->strides[i] < least)
            return CUDA_ERROR_INVALID_VALUE;
        m->stride[i] = s->strides[i];
    }
    return CUDA_SUCCESS;
}

/* The box's innermost bytes are whole units, and no wider than the swizzle. */
static bool inner_fits(const struct shape *s, unsigned elements) {
    unsigned inner = elements * element_bytes(s->type), widest = swizzle_bytes(s->swizzle);
    return s->interleave != CU_TENSOR_MAP_INTERLEAVE_NONE || (inner % 16 == 0 && (!widest || inner <= widest));
}

static CUresult put(CUtensorMap *to, const struct vm_tensor_map *m) {
    memset(to, 0, sizeof *to);
    memcpy(to, m, sizeof *m);
    return CUDA_SUCCESS;
}

CUresult cuTensorMapEncodeTiled(CUtensorMap *tensorMap, CUtensorMapDataType type, cuuint32_t rank, void *address,
                                const cuuint64_t *dim, const cuuint64_t *strides, const cuuint32_t *box,
                                const cuuint32_t *element_strides, CUtensorMapInterleave interleave,
                                CUtensorMapSwizzle swizzle, CUtensorMapL2promotion l2, CUtensorMapFloatOOBfill fill) {
    ENTER;
    struct shape s = {type, rank, 1, address, dim, strides, element_strides, interleave, swizzle, l2, fill};
    struct vm_tensor_map m;
    if (!tensorMap || (uintptr_t)tensorMap % 64 || !box) return CUDA_ERROR_INVALID_VALUE;
    CUresult r = encode_shape(&m, &s);
    if (r != CUDA_SUCCESS) return r;
    for (unsigned i = 0; i < rank; i++) {
        if (!box[i] || box[i] > 256) return CUDA_ERROR_INVALID_VALUE;
        m.box[i] = box[i];
    }
    return inner_fits(&s, box[0]) ? put(tensorMap, &m) : CUDA_ERROR_INVALID_VALUE;
}

CUresult cuTensorMapEncodeIm2col(CUtensorMap *tensorMap, CUtensorMapDataType type, cuuint32_t rank, void *address,
                                 const cuuint64_t *dim, const cuuint64_t *strides, const int *lower, const int *upper,
                                 cuuint32_t channels, cuuint32_t pixels, const cuuint32_t *element_strides,
                                 CUtensorMapInterleave interleave, CUtensorMapSwizzle swizzle,
                                 CUtensorMapL2promotion l2, CUtensorMapFloatOOBfill fill) {
    ENTER;
    struct shape s = {type, rank, 3, address, dim, strides, element_strides, interleave, swizzle, l2, fill};
    struct vm_tensor_map m;
    if (!tensorMap || (uintptr_t)tensorMap % 64 || !lower || !upper || !channels || channels > 256 || !pixels ||
        pixels > 1024)
        return CUDA_ERROR_INVALID_VALUE;
    CUresult r = encode_shape(&m, &s);
    if (r != CUDA_SUCCESS) return r;
    int bound = rank == 3 ? 1 << 15 : rank == 4 ? 1 << 7 : 1 << 4; /* corners have 16 bits to share */
    for (unsigned i = 0; i + 2 < rank; i++) {
        if (lower[i] < -bound || lower[i] >= bound || upper[i] < -bound || upper[i] >= bound)
            return CUDA_ERROR_INVALID_VALUE;
        m.lower[i] = (int16_t)lower[i], m.upper[i] = (int16_t)upper[i];
    }
    m.im2col = 1;
    m.box[0] = channels, m.box[1] = pixels;
    return inner_fits(&s, channels) ? put(tensorMap, &m) : CUDA_ERROR_INVALID_VALUE;
}

CUresult cuTensorMapReplaceAddress(CUtensorMap *tensorMap, void *address) {
    ENTER;
    struct vm_tensor_map m;
    if (!tensorMap || (uintptr_t)tensorMap % 64 || !address) return CUDA_ERROR_INVALID_VALUE;
    memcpy(&m, tensorMap, sizeof m);
    if (m.magic != VM_TENSOR_MAP_MAGIC || (uintptr_t)address % (m.interleave == CU_TENSOR_MAP_INTERLEAVE_32B ? 32 : 16))
        return CUDA_ERROR_INVALID_VALUE;
    m.base = (uintptr_t)address;
    memcpy(tensorMap, &m, sizeof m);
    return CUDA_SUCCESS;
}
