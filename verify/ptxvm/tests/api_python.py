"""The driver API through cuda-bindings: a program that is not ours drives the machine from Python.

Runs in a virtual environment below the build directory, made and filled on first use; without pip or its index the
tests are skipped and say so.
"""
import os
import subprocess
import sys
import tempfile

BUILD = os.path.join(os.environ.get("B", "build"), "ptxvm")
VENV = os.path.join(BUILD, "venv")
PYTHON = os.path.join(VENV, "bin", "python")
PACKAGE = "cuda-bindings==13.0.*"

SOURCE = r"""
extern "C" __global__ void saxpy(float a, const float *x, float *y, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = a * x[i] + y[i];
}
extern "C" __global__ void store_at(int *p, long long i) { p[i] = 1; }
"""


def skip(why):
    print("skip api_python:", why)
    sys.exit(0)


def enter_venv():
    if os.environ.get("PTXVM_IN_VENV"):
        return
    if not os.path.exists(os.path.join(VENV, "ready")):
        try:
            subprocess.run([sys.executable, "-m", "venv", VENV], check=True, capture_output=True)
            subprocess.run([PYTHON, "-m", "pip", "install", "-q", "--timeout", "15", "--retries", "1", PACKAGE],
                           check=True, capture_output=True, timeout=300)
        except (OSError, subprocess.SubprocessError) as e:
            detail = getattr(e, "stderr", None) or b""
            last = detail.decode(errors="replace").strip().splitlines()[-1:] or [str(e)]
            skip(f"cannot install {PACKAGE}: {last[0]}")
        open(os.path.join(VENV, "ready"), "w").close()
    os.environ["PTXVM_IN_VENV"] = "1"
    os.execv(PYTHON, [PYTHON, *sys.argv])


enter_venv()

import array  # noqa: E402
import ctypes  # noqa: E402

from cuda.bindings import driver as cu  # noqa: E402

OK = cu.CUresult.CUDA_SUCCESS


def call(answer):
    """The results of a call that must succeed."""
    code, *rest = answer
    if code != OK:
        raise AssertionError(f"{code!r}")
    return rest[0] if len(rest) == 1 else rest


def code_of(answer):
    return answer[0]


def nvcc_ptx(arch):
    with tempfile.TemporaryDirectory() as d:
        source, ptx = os.path.join(d, "k.cu"), os.path.join(d, "k.ptx")
        with open(source, "w") as f:
            f.write(SOURCE)
        try:
            subprocess.run(["nvcc", "-O3", "-ptx", f"-arch={arch}", source, "-o", ptx], check=True, capture_output=True)
        except FileNotFoundError:
            skip("no nvcc in PATH")
        with open(ptx, "rb") as f:
            return f.read() + b"\0"


N = 1000


def device_floats(values):
    data = array.array("f", values)
    p = call(cu.cuMemAlloc(len(data) * 4))
    call(cu.cuMemcpyHtoD(p, data.buffer_info()[0], len(data) * 4))
    return p


def host_floats(p, n):
    data = array.array("f", [0.0] * n)
    call(cu.cuMemcpyDtoH(data.buffer_info()[0], p, n * 4))
    return data


def saxpy_args(a, x, y):
    return ((a, x, y, N), (ctypes.c_float, None, None, ctypes.c_int))


def check_saxpy(y, a, times=1):
    got = host_floats(y, N)
    assert all(got[i] == i + times * a * 2 * i for i in range(N)), list(got[:8])


def run_saxpy(arch):
    module = call(cu.cuModuleLoadData(nvcc_ptx(arch)))
    f = call(cu.cuModuleGetFunction(module, b"saxpy"))
    x, y = device_floats(2.0 * i for i in range(N)), device_floats(float(i) for i in range(N))
    call(cu.cuLaunchKernel(f, 8, 1, 1, 128, 1, 1, 0, 0, saxpy_args(3.0, x, y), 0))
    call(cu.cuCtxSynchronize())
    check_saxpy(y, 3.0)
    call(cu.cuMemFree(x))
    call(cu.cuMemFree(y))
    call(cu.cuModuleUnload(module))


def python_saxpy_sm_80():
    run_saxpy("sm_80")


def python_saxpy_sm_90a():
    run_saxpy("sm_90a")


def python_saxpy_sm_120():
    run_saxpy("sm_120")


def python_streams_events_graph():
    module = call(cu.cuModuleLoadData(nvcc_ptx("sm_80")))
    f = call(cu.cuModuleGetFunction(module, b"saxpy"))
    x, y = device_floats(2.0 * i for i in range(N)), device_floats(float(i) for i in range(N))
    stream = call(cu.cuStreamCreate(cu.CUstream_flags.CU_STREAM_NON_BLOCKING))
    start, end = call(cu.cuEventCreate(0)), call(cu.cuEventCreate(0))
    call(cu.cuStreamBeginCapture(stream, cu.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_GLOBAL))
    call(cu.cuLaunchKernel(f, 8, 1, 1, 128, 1, 1, 0, stream, saxpy_args(1.0, x, y), 0))
    graph = call(cu.cuStreamEndCapture(stream))
    executable = call(cu.cuGraphInstantiate(graph, 0))
    call(cu.cuEventRecord(start, stream))
    for _ in range(3):
        call(cu.cuGraphLaunch(executable, stream))
    call(cu.cuEventRecord(end, stream))
    call(cu.cuEventSynchronize(end))
    assert call(cu.cuEventElapsedTime(start, end)) > 0
    check_saxpy(y, 1.0, times=3)


def nvcc_fatbin(*options):
    with tempfile.TemporaryDirectory() as d:
        source, fatbin = os.path.join(d, "k.cu"), os.path.join(d, "k.fatbin")
        with open(source, "w") as f:
            f.write(SOURCE)
        subprocess.run(["nvcc", "-fatbin", *options, source, "-o", fatbin], check=True, capture_output=True)
        with open(fatbin, "rb") as f:
            return f.read()


BOTH = ("-gencode", "arch=compute_80,code=compute_80", "-gencode", "arch=compute_90,code=[compute_90,sm_90]")


def python_fatbin_uncompressed():
    module = call(cu.cuModuleLoadFatBinary(nvcc_fatbin("--no-compress", *BOTH)))
    f = call(cu.cuModuleGetFunction(module, b"saxpy"))
    version = cu.CUfunction_attribute.CU_FUNC_ATTRIBUTE_PTX_VERSION
    assert call(cu.cuFuncGetAttribute(version, f)) == 90  # the newest of the two


def python_fatbin_compressed():
    answer = cu.cuModuleLoadData(nvcc_fatbin(*BOTH))
    try:
        ctypes.CDLL("libzstd.so.1")
    except OSError:
        assert code_of(answer) == cu.CUresult.CUDA_ERROR_NO_BINARY_FOR_GPU
        return
    call(cu.cuModuleGetFunction(call(answer), b"saxpy"))


def python_fatbin_without_ptx():
    code = code_of(cu.cuModuleLoadData(nvcc_fatbin("-gencode", "arch=compute_90,code=sm_90")))
    assert code == cu.CUresult.CUDA_ERROR_NO_BINARY_FOR_GPU


def python_library_and_attributes():
    library = call(cu.cuLibraryLoadData(nvcc_ptx("sm_80"), None, None, 0, None, None, 0))
    kernel = call(cu.cuLibraryGetKernel(library, b"saxpy"))
    f = call(cu.cuKernelGetFunction(kernel))
    attribute = cu.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK
    assert call(cu.cuFuncGetAttribute(attribute, f)) == 1024
    blocks = call(cu.cuOccupancyMaxActiveBlocksPerMultiprocessor(f, 256, 0))
    assert blocks == 8, blocks
    call(cu.cuLibraryUnload(library))


def python_device_properties():
    device = call(cu.cuDeviceGet(0))
    name = call(cu.cuDeviceGetName(100, device))
    assert name.rstrip(b"\0")
    warp = cu.CUdevice_attribute.CU_DEVICE_ATTRIBUTE_WARP_SIZE
    assert call(cu.cuDeviceGetAttribute(warp, device)) == 32
    assert call(cu.cuDriverGetVersion()) >= 13000


def python_fault_is_700():
    module = call(cu.cuModuleLoadData(nvcc_ptx("sm_80")))
    f = call(cu.cuModuleGetFunction(module, b"store_at"))
    p = call(cu.cuMemAlloc(16))
    args = ((p, 4), (None, ctypes.c_longlong))
    call(cu.cuLaunchKernel(f, 1, 1, 1, 1, 1, 1, 0, 0, args, 0))
    bad = cu.CUresult.CUDA_ERROR_ILLEGAL_ADDRESS
    assert code_of(cu.cuCtxSynchronize()) == bad
    assert code_of(cu.cuMemAlloc(16)) == bad


TESTS = [python_device_properties, python_saxpy_sm_80, python_saxpy_sm_90a, python_saxpy_sm_120,
         python_streams_events_graph, python_fatbin_uncompressed, python_fatbin_compressed, python_fatbin_without_ptx,
         python_library_and_attributes, python_fault_is_700]


def main():
    call(cu.cuInit(0))
    failures = 0
    for test in TESTS:
        device = call(cu.cuDeviceGet(0))
        call(cu.cuCtxSetCurrent(call(cu.cuDevicePrimaryCtxRetain(device))))
        try:
            test()
            print("ok", test.__name__)
        except Exception as e:  # any failure of a test is a line of the report
            failures += 1
            print(f"FAIL {test.__name__}: {type(e).__name__}: {e}")
        sys.stdout.flush()
        cu.cuDevicePrimaryCtxReset(device)
        cu.cuDevicePrimaryCtxRelease(device)
    sys.exit(failures)


main()
