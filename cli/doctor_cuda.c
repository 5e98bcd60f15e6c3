/* doctor_cuda: asks the CUDA driver, if there is one, what it offers. The driver is loaded with dlopen, so that kgen
 * neither needs CUDA to be built nor to be started. Names and numbers: the CUDA driver API reference.
 */
#include "cli/doctor.h"
#include "codegen/assemble.h"
#include "runtime/dev_cuda.h"

#include <dlfcn.h>
#include <string.h>

/* The part of the driver API that is needed here. */
enum { CUDA_DONE = 0, ATTRIBUTE_MAJOR = 75, ATTRIBUTE_MINOR = 76 };
struct driver {
    int (*init)(unsigned flags);
    int (*version)(int *version);
    int (*count)(int *n);
    int (*get)(int *device, int ordinal);
    int (*name)(char *name, int bytes, int device);
    int (*memory)(size_t *bytes, int device);
    int (*attribute)(int *value, int attribute, int device);
    bool launch_ex; /* has cuLaunchKernelEx */
};

static bool driver_load(void *library, struct driver *d) {
    const struct {
        const char *name;
        void *function;
    } functions[] = {{"cuInit", &d->init},
                     {"cuDriverGetVersion", &d->version},
                     {"cuDeviceGetCount", &d->count},
                     {"cuDeviceGet", &d->get},
                     {"cuDeviceGetName", &d->name},
                     {"cuDeviceTotalMem_v2", &d->memory},
                     {"cuDeviceGetAttribute", &d->attribute}};
    for (size_t i = 0; i < sizeof functions / sizeof *functions; i++) {
        void *symbol = dlsym(library, functions[i].name);
        if (!symbol) return false;
        /* POSIX lets a data pointer from dlsym stand for a function; copied, since C has no such cast. */
        memcpy(functions[i].function, &symbol, sizeof symbol);
    }
    d->launch_ex = dlsym(library, "cuLaunchKernelEx") != NULL;
    return true;
}

static json_t *device(const struct driver *d, int version, int ordinal) {
    int handle, major, minor;
    size_t bytes;
    char name[256] = "", architecture[32];
    if (d->get(&handle, ordinal) != CUDA_DONE || d->name(name, sizeof name, handle) != CUDA_DONE ||
        d->memory(&bytes, handle) != CUDA_DONE || d->attribute(&major, ATTRIBUTE_MAJOR, handle) != CUDA_DONE ||
        d->attribute(&minor, ATTRIBUTE_MINOR, handle) != CUDA_DONE)
        return json_null();
    snprintf(architecture, sizeof architecture, "sm_%d%d", major, minor);
    json_t *o = json_object();
    json_object_set_new(o, "name", json_text(name, strnlen(name, sizeof name)));
    json_object_set_new(o, "architecture", json_string(architecture));
    json_object_set_new(o, "memory_bytes", json_integer((json_int_t)bytes));
    /* Kernels start before those before them end; else one after the other (docs/ptx.md). */
    bool dependent = cuda_can_start_early((unsigned)(major * 10 + minor), version, d->launch_ex);
    json_object_set_new(o, "launches", json_string(dependent ? "dependent launches" : "plain launches"));
    return o;
}

json_t *doctor_cuda(json_t *advice) {
    json_t *o = json_object();
    struct driver d;
    int version = 0, n = 0;
    void *library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    json_object_set_new(o, "driver", json_null());
    if (!library) {
        doctor_advise(advice, "no CUDA driver (libcuda.so.1): --device cuda is not available",
                      "with an NVIDIA GPU, install its driver; without one nothing is amiss");
        return o;
    }
    /* The library stays loaded: a driver that was initialized cannot be unloaded safely. */
    if (!driver_load(library, &d)) {
        doctor_advise(advice, "libcuda.so.1 lacks functions that kgen needs", "install a driver for CUDA 11 or later");
        return o;
    }
    if (d.init(0) != CUDA_DONE || d.version(&version) != CUDA_DONE || d.count(&n) != CUDA_DONE) {
        doctor_advise(advice, "the CUDA driver is there but does not start",
                      "nvidia-smi says why: often a kernel module of another version; reboot after an update");
        return o;
    }
    char text[32];
    snprintf(text, sizeof text, "CUDA %d.%d", version / 1000, version % 1000 / 10);
    json_object_set_new(o, "driver", json_string(text));
    json_t *devices = json_array();
    for (int i = 0; i < n; i++) json_array_append_new(devices, device(&d, version, i));
    json_object_set_new(o, "devices", devices);
    struct assembler a;
    json_object_set_new(o, "machine_code", json_string(assembler_find(&a) ? a.ptxas : "the driver's compiler"));
    if (n == 0) doctor_advise(advice, "the CUDA driver sees no device", "is CUDA_VISIBLE_DEVICES empty?");
    return o;
}
