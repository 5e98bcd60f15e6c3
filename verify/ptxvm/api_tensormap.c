/* api_tensormap: descriptors for TMA copies.
 *
 * NVIDIA does not document the 128 bytes of a CUtensorMap, so this machine has its own encoding, struct vm_tensor_map:
 * a descriptor must be made by cuTensorMapEncodeTiled here, as programs do, and not be copied from another machine.
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

CUresult cuTensorMapEncodeTiled(CUtensorMap *tensorMap, CUtensorMapDataType type, cuuint32_t rank, void *address,
                                const cuuint64_t *dim, const cuuint64_t *strides, const cuuint32_t *box,
                                const cuuint32_t *element_strides, CUtensorMapInterleave interleave,
                                CUtensorMapSwizzle swizzle, CUtensorMapL2promotion l2, CUtensorMapFloatOOBfill fill) {
    ENTER;
    if (!tensorMap || (uintptr_t)tensorMap % 64 || !address || rank < 1 || rank > 5 || !dim || !box ||
        !element_strides || (rank > 1 && !strides))
        return CUDA_ERROR_INVALID_VALUE;
    if ((unsigned)interleave > CU_TENSOR_MAP_INTERLEAVE_32B ||
        (unsigned)swizzle > CU_TENSOR_MAP_SWIZZLE_128B_ATOM_64B || (unsigned)l2 > CU_TENSOR_MAP_L2_PROMOTION_L2_256B ||
        (unsigned)fill > CU_TENSOR_MAP_FLOAT_OOB_FILL_NAN_REQUEST_ZERO_FMA)
        return CUDA_ERROR_INVALID_VALUE;
    unsigned bytes = element_bytes(type);
    if (!bytes) {
        static int said;
        if ((unsigned)type > CU_TENSOR_MAP_DATA_TYPE_16U6_ALIGN16B) return CUDA_ERROR_INVALID_VALUE;
        return (CUresult)ptxvm_unsupported("cuTensorMapEncodeTiled of packed 4- and 6-bit types", &said);
    }
    if (interleave != CU_TENSOR_MAP_INTERLEAVE_NONE && rank < 3) return CUDA_ERROR_INVALID_VALUE;
    if (interleave == CU_TENSOR_MAP_INTERLEAVE_32B && swizzle != CU_TENSOR_MAP_SWIZZLE_32B)
        return CUDA_ERROR_INVALID_VALUE;
    if (fill != CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE && !is_float(type)) return CUDA_ERROR_INVALID_VALUE;
    unsigned align = interleave == CU_TENSOR_MAP_INTERLEAVE_32B ? 32 : 16;
    if ((uintptr_t)address % align) return CUDA_ERROR_INVALID_VALUE;
    struct vm_tensor_map m = {.base = (uintptr_t)address,
                              .type = (uint8_t)type,
                              .rank = (uint8_t)rank,
                              .interleave = (uint8_t)interleave,
                              .swizzle = (uint8_t)swizzle,
                              .l2_promotion = (uint8_t)l2,
                              .nan_fill = (uint8_t)fill,
                              .magic = VM_TENSOR_MAP_MAGIC};
    for (unsigned i = 0; i < rank; i++) {
        if (!dim[i] || dim[i] > (uint64_t)1 << 32 || !box[i] || box[i] > 256 || !element_strides[i] ||
            element_strides[i] > 8)
            return CUDA_ERROR_INVALID_VALUE;
        m.dim[i] = dim[i];
        m.box[i] = box[i];
        m.elem_stride[i] = (uint8_t)element_strides[i];
    }
    for (unsigned i = 0; i + 1 < rank; i++) {
        uint64_t least = i ? strides[i - 1] : dim[0] * bytes;
        if (strides[i] % align || strides[i] >= (uint64_t)1 << 40 || strides[i] < least)
            return CUDA_ERROR_INVALID_VALUE;
        m.stride[i] = strides[i];
    }
    unsigned inner = box[0] * bytes, widest = swizzle_bytes(swizzle);
    if (interleave == CU_TENSOR_MAP_INTERLEAVE_NONE && (inner % 16 || (widest && inner > widest)))
        return CUDA_ERROR_INVALID_VALUE;
    memset(tensorMap, 0, sizeof *tensorMap);
    memcpy(tensorMap, &m, sizeof m);
    return CUDA_SUCCESS;
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
