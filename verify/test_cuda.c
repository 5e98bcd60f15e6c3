/* test_cuda: kernels and the CUDA device on the PTX machine (verify/ptxvm), or on a GPU where there is a driver.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "codegen/f16.h"
#include "codegen/interp.h"
#include "runtime/dev_cuda.h"
#include "verify/codegen_help.h"
#include "verify/cuda_help.h"
#include "verify/ir_random.h"
#include "verify/parity.h"

/* A kernel of one function over `times` tasks with two arguments, from flat IR. */
static void make_kernel(struct kernel *k, const char *name, const char *text, size_t len, int64_t times) {
    struct target t = find(cuda_target(gpu));
    struct err e;
    json_t *meta = json_pack("{s:s, s:s%, s:i, s:[[{s:s, s:I, s:i, s:s}]], s:[s, s], s:[s, s]}", "name", name, "ir",
                             text, len, "ws", 0, "phases", "fn", name, "times", (json_int_t)times, "per", 0, "dim", "",
                             "args", "a", "b", "dims", "tok", "pos");
    *k = (struct kernel){0};
    if (!meta || !compile_lowered(meta, &t, k, &e)) fail_msg("%s", meta ? e.msg : "no valid data");
    json_decref(meta);
}

/* ---- what the flat IR computes ---- */

enum { MOST_OUT = 64 * 1024 };

/* A function of the flat IR, compiled for the device, with one memory that it reads and one that it writes. */
struct program {
    const struct buf *text;
    struct ir_module *ir;
    struct kernel kernel;
    struct cuda_kernel *loaded;
    uint64_t in_bytes, out_bytes;
    int64_t tasks;
    cuda_addr args[2], dims;
};

static void program_new(struct program *p, const char *name, const struct buf *text, int64_t tasks, bool team,
                        uint64_t in_bytes, uint64_t out_bytes) {
    *p = (struct program){.text = text, .in_bytes = in_bytes, .out_bytes = out_bytes, .tasks = tasks};
    OK(ir_parse(text->data, text->len, &p->ir, e) && ir_verify(p->ir, e));
    make_kernel(&p->kernel, name, text->data, text->len, tasks);
    p->kernel.phases[0].parts[0].team = team;
    OK(cuda_kernel_new(gpu, &p->kernel, &p->loaded, e) && cuda_alloc(gpu, in_bytes, &p->args[0], e));
    OK(cuda_alloc(gpu, out_bytes, &p->args[1], e) && cuda_alloc(gpu, 16, &p->dims, e));
}

static void program_free(struct program *p) {
    cuda_free(gpu, p->args[0]);
    cuda_free(gpu, p->args[1]);
    cuda_free(gpu, p->dims);
    cuda_kernel_free(gpu, p->loaded);
    kernel_free(&p->kernel);
    ir_free(p->ir);
}

/* The device leaves the bytes that the interpreter leaves. before: what is there first (NULL: something); range: the
 * tasks of one warp (NULL: all, cut as they are). `what` and `number` tell the failure from others. */
static void match(const struct program *p, const void *in, const void *before, const int64_t *range, const char *what,
                  uint64_t number) {
    static _Alignas(64) uint8_t want[MOST_OUT], got[MOST_OUT];
    int64_t sizes[N_RUN_DIMS] = {0}, begin = range ? range[0] : 0, end = range ? range[1] : p->tasks;
    struct cuda_launch l = {.args = p->args, .sizes = sizes, .dims = p->dims, .range = range, .whole = range != NULL};
    assert_true(p->out_bytes <= MOST_OUT);
    if (before)
        memcpy(want, before, p->out_bytes);
    else
        memset(want, 0x11, p->out_bytes);
    OK(cuda_upload(gpu, p->args[0], in, p->in_bytes, e) && cuda_upload(gpu, p->args[1], want, p->out_bytes, e));
    OK(ir_run(p->ir->first, (void *[]){(void *)in, want}, NULL, begin, end, NULL, true, e));
    OK(cuda_launch(gpu, p->loaded, &l, e) && cuda_download(gpu, got, p->args[1], p->out_bytes, e));
    if (memcmp(want, got, p->out_bytes) != 0) fail_msg("%s %d\n%s", what, (int)number, p->text->data);
}

/* Programs with nested loops, carries, branches, scalar and vector accesses to one memory: every order of two accesses
 * by different threads is at stake. One warp does all tasks, since these programs are not made to be cut. */
static void random_programs_match_the_interpreter(void **state) {
    (void)state;
    NEED_GPU();
    static _Alignas(64) uint8_t in[IR_RANDOM_BYTES];
    for (size_t i = 0; i < sizeof in; i += 4) {
        uint32_t x = 0x3f000000 | (uint32_t)(next_random() & 0x7fffff);
        memcpy(in + i, &x, 4);
    }
    for (uint64_t number = 9001; number <= 9040; number++) {
        struct buf text = {0};
        struct program p;
        ir_random(number, &text);
        program_new(&p, "random", &text, 40, false, sizeof in, sizeof in);
        match(&p, in, in, (int64_t[]){3, 40}, "program", number);
        program_free(&p);
        buf_free(&text);
    }
}

/* Loops split among the parts of a block, with states of every width and a merge that does not commute, after a
 * parallel loop that fills the memory a block shares. */
static void split_loops_match_the_interpreter(void **state) {
    (void)state;
    NEED_GPU();
    enum { N = 1000, TASKS = 5 };
    static _Alignas(64) int32_t in[N * 32];
    for (size_t i = 0; i < sizeof in / sizeof *in; i++) in[i] = (int32_t)next_random();
    for (int parts = PTX_WARPS; parts <= PTX_THREADS; parts *= 2) {
        int lanes = PTX_THREADS / parts;
        char t[16] = "i32";
        if (lanes > 1) snprintf(t, sizeof t, "i32x%d", lanes);
        struct buf text = {0};
        struct program p;
        buf_printf(&text,
                   "kgen-ir 1\nfunc @split\n%%1:ptr = arg 0\n%%2:ptr = arg 1\n%%3:i64 = begin\n%%4:i64 = end\n"
                   "%%5:i64 = const 0\n%%6:i64 = const %d\n%%7:i64 = const %d\n%%8:i64 = const 128\n%%9:%s = const 3\n"
                   "%%10:%s = const 5\n%%11:%s = const 0\n%%12:ptr = shared %d align 64\n"
                   "for %%13 = %%5 to %%6 step 1 split 8\n%%14:i64 = mul %%13, %%8\n%%15:i32x32 = load %%1, %%14, 0 "
                   "align 4 inv\n"
                   "%%16:i32 = hsum %%15\n%%17:i64 = const 4\n%%18:i64 = mul %%13, %%17\nstore %%16, %%12, %%18, 0 "
                   "align 4\nend\n"
                   "%%63:i32 = const 0\n%%69:ptr = stack 16 align 16\n"
                   /* No trips: the barrier of its merge orders nothing. */
                   "for %%60 = %%4 to %%3 step 1\n"
                   "for %%61 = %%5 to %%6 step 1 split 8 carry %%62:i32 = %%63\n%%64:i32 = trunc %%61\nyield %%64\n"
                   "merge %%65, %%66\n%%67:i32 = add %%65, %%66\nyield %%67\nend -> %%68\n"
                   "store %%68, %%69, %%5, 0 align 4\nend\n"
                   "for %%20 = %%3 to %%4 step 1\n",
                   N, 4 * lanes, t, t, t, 4 * N);
        const char *spread = lanes > 1 ? "%%30:%s = splat %%29\n" : "%%30:%s = add %%29, %%11\n";
        buf_puts(&text, "for %21 = %20 to %6 step 3 ");
        buf_printf(&text,
                   "split %d carry %%22:%s = %%11\n%%23:i64 = mul %%21, %%7\n%%24:%s = load %%1, %%23, 0 align 4 inv\n",
                   parts, t, t);
        buf_printf(&text, "%%27:i64 = const 4\n%%28:i64 = mul %%21, %%27\n%%29:i32 = load %%12, %%28, 0 align 4\n");
        buf_printf(&text, spread, t);
        buf_printf(&text,
                   "%%31:%s = mul %%22, %%10\n%%32:%s = add %%31, %%24\n%%33:%s = add %%32, %%30\nyield %%33\n"
                   "merge %%40, %%41\n%%42:%s = mul %%40, %%9\n%%43:%s = add %%42, %%41\nyield %%43\nend -> %%50\n"
                   "%%51:i64 = mul %%20, %%8\nstore %%50, %%2, %%51, 0 align 4\nend\nend\n",
                   t, t, t, t, t);
        program_new(&p, "split", &text, TASKS, true, sizeof in, TASKS * 128);
        match(&p, in, NULL, NULL, "parts", (uint64_t)parts);
        program_free(&p);
        buf_free(&text);
    }
}

/* A block's warps copy 64 rows of 128 bytes a trip, two trips ahead, of which the last have fewer rows, and read them
 * by ldmatrix, each from a place of its own. */
static void staged_copies_match_the_interpreter(void **state) {
    (void)state;
    NEED_GPU();
    enum { TRIPS = 5, ROWS = 64, STRIDE = 256, IN = TRIPS * ROWS * STRIDE, OUT = 8 * TRIPS * 6 * 128 };
    static _Alignas(64) uint8_t in[IN];
    for (size_t i = 0; i < IN; i++) in[i] = (uint8_t)next_random();
    struct program p;
    struct buf text = {0};
    buf_puts(
        &text,
        "kgen-ir 1\nfunc @staged\n%1:ptr = arg 0\n%2:ptr = arg 1\n%3:ptr = shared 24576 align 16\n%4:i64 = const 0\n"
        "%5:i64 = const 8\n%6:i64 = const 5\n%7:i64 = const 16384\n%8:i64 = const 8192\n%9:i64 = const 3\n"
        "%10:i64 = const 13\n%11:i64 = const 64\n%12:i64 = const 2\n%13:i64 = const 768\n%14:i64 = const 3840\n"
        "%15:i32x32 = iota\n%16:i32x32 = const 128\n%17:i32x32 = mul %15, %16\n%18:i64 = const 16\n"
        "for %20 = %4 to %5 step 1 split 8\n"
        "copy %3, %4, %1, %4, %11, 64 rows 128 stride 256\ncopy %3, %8, %1, %7, %11, 64 rows 128 stride 256\n"
        "%21:i64 = mul %20, %18\n%22:i64 = mul %20, %14\n"
        "for %30 = %4 to %6 step 1\nwait 1\n"
        "%31:i64 = add %30, %12\n%32:i64 = smin %31, %6\n%33:i64 = urem %31, %9\n%34:i64 = mul %33, %8\n"
        "%35:i64 = mul %32, %7\n%36:i64 = mul %31, %10\n%37:i1 = ilt %31, %6\n%38:i64 = select %37, %36, %4\n"
        "copy %3, %34, %1, %35, %38, 64 rows 128 stride 256\n"
        "%40:i64 = urem %30, %9\n%41:i64 = mul %40, %8\n%42:i64 = add %41, %21\n%43:i64 = mul %30, %13\n"
        "%44:i64 = add %22, %43\n"
        "%45:i32x128 = ldmatrix %3, %42, %17, 0 align 16\n%46:i32x64 = ldmatrix_t %3, %42, %17, 4096 align 16\n"
        "%47:i32x32 = slice %45, 0\n%48:i32x32 = slice %45, 32\n%49:i32x32 = slice %45, 64\n%50:i32x32 = slice %45, "
        "96\n"
        "%51:i32x32 = slice %46, 0\n%52:i32x32 = slice %46, 32\n"
        "store %47, %2, %44, 0 align 4\nstore %48, %2, %44, 128 align 4\nstore %49, %2, %44, 256 align 4\n"
        "store %50, %2, %44, 384 align 4\nstore %51, %2, %44, 512 align 4\nstore %52, %2, %44, 640 align 4\nend\n"
        "wait 0\nend\nend\n");
    program_new(&p, "staged", &text, 1, true, IN, OUT);
    match(&p, in, NULL, NULL, "copies", 0);
    program_free(&p);
    buf_free(&text);
}

/* mma.sync as the machine (or the GPU) lays out its fragments, against the interpreter's lanes. */
static void matrix_tiles_match_the_interpreter(void **state) {
    (void)state;
    NEED_GPU();
    static _Alignas(64) uint8_t in[1280];
    for (int shape = 0; shape < IR_N_MMA; shape++) {
        struct buf text = {0};
        struct program p;
        ir_mma_program(shape, &text);
        program_new(&p, "mma", &text, 1, false, sizeof in, 512);
        for (uint64_t round = 1; round <= 10; round++) {
            ir_mma_operands(shape, round, in);
            match(&p, in, NULL, NULL, ir_mma_shapes[shape].name, round);
        }
        program_free(&p);
        buf_free(&text);
    }
}

/* Every kernel in its formats against the references, the interpreter's bits, and itself cut in pieces. */
static void kernels_match_their_references(void **state) {
    (void)state;
    NEED_GPU();
    struct parity_options o = {.target = cuda_target(gpu), .seed = 1, .quick = true};
    struct parity_report r;
    OK(parity_run(&o, NULL, NULL, &r, e));
    for (size_t i = 0; i < r.n_failures; i++) print_message("%s\n", r.failures[i]);
    size_t cases = 0;
    for (size_t i = 0; i < r.n_rows; i++) cases += r.rows[i].cases;
    assert_int_equal(r.n_failures, 0);
    assert_true(cases > 1000);
    parity_free(&r);
}

/* dp4a's declared meaning and the operation's own. */
static void dp4a_means_dot4(void **state) {
    (void)state;
    const struct dot4_impl *row;
    for (size_t i = 0; (row = target_gpu_dot4_row(i)); i++)
        for (int round = 0; round < 1000; round++) {
            int32_t acc[32], out[32];
            uint32_t u[32], s[32];
            for (int l = 0; l < 32; l++) {
                acc[l] = (int32_t)next_random();
                u[l] = (uint32_t)next_random();
                s[l] = (uint32_t)next_random();
            }
            row->meaning(out, acc, u, s, 32);
            for (int l = 0; l < 32; l++) {
                int64_t sum = acc[l];
                for (int b = 0; b < 4; b++) sum += (int64_t)(u[l] >> 8 * b & 255) * (int8_t)(s[l] >> 8 * b & 255);
                assert_int_equal(out[l], (int32_t)(uint32_t)sum);
            }
        }
}

/* ---- the device ---- */

/* b[t] = a[t] * pos, a task an element. */
static const char scale[] = "kgen-ir 1\nfunc @scale.1\n%1:ptr = arg 0\n%2:ptr = arg 1\n%3:i64 = begin\n%4:i64 = end\n"
                            "%5:i64 = dim 1\n%6:i32 = trunc %5\n%7:i64 = const 4\nfor %8 = %3 to %4 step 1\n"
                            "%9:i64 = mul %8, %7\n%10:i32 = load %1, %9, 0 align 4\n%11:i32 = mul %10, %6\n"
                            "store %11, %2, %9, 0 align 4\nend\nend\n";
enum { N = 1000 };

static void captured_launches_see_new_sizes(void **state) {
    (void)state;
    NEED_GPU();
    struct kernel k;
    struct cuda_kernel *loaded;
    struct cuda_graph *graph;
    struct cuda_event *before, *after;
    int32_t a[N], b[N];
    int64_t sizes[N_RUN_DIMS] = {[RUN_POS] = 3}, dims[N_RUN_DIMS];
    cuda_addr args[2], at;
    float ms = -1;
    for (int i = 0; i < N; i++) a[i] = i - 400;
    make_kernel(&k, "scale.1", scale, sizeof scale - 1, N);
    OK(cuda_alloc(gpu, sizeof a, &args[0], e) && cuda_alloc(gpu, sizeof b, &args[1], e) &&
       cuda_alloc(gpu, sizeof dims, &at, e));
    struct cuda_launch l = {.args = args, .sizes = sizes, .dims = at};
    OK(cuda_upload(gpu, args[0], a, sizeof a, e) && cuda_kernel_new(gpu, &k, &loaded, e));
    OK(cuda_event_new(gpu, &before, e) && cuda_event_new(gpu, &after, e));
    OK(cuda_capture_begin(gpu, e) && cuda_launch(gpu, loaded, &l, e) && cuda_capture_end(gpu, &graph, e));
    for (int64_t pos = 3; pos < 6; pos++) {
        sizes[RUN_POS] = pos;
        cuda_dims(&k, sizes, dims);
        OK(cuda_fill(gpu, args[1], 0xff, sizeof b, e) && cuda_upload(gpu, at, dims, sizeof dims, e));
        OK(cuda_event_record(gpu, before, e) && cuda_graph_launch(gpu, graph, e) && cuda_event_record(gpu, after, e));
        OK(cuda_download(gpu, b, args[1], sizeof b, e));
        for (int i = 0; i < N; i++) assert_int_equal(b[i], a[i] * pos);
    }
    OK(cuda_event_ms(gpu, before, after, &ms, e));
    assert_true(ms >= 0);
    cuda_event_free(gpu, before);
    cuda_event_free(gpu, after);
    cuda_graph_free(gpu, graph);
    cuda_kernel_free(gpu, loaded);
    kernel_free(&k);
    for (int i = 0; i < 2; i++) cuda_free(gpu, args[i]);
    cuda_free(gpu, at);
}

static void memory_that_is_not_there_is_foreseen(void **state) {
    (void)state;
    NEED_GPU();
    struct err e;
    uint64_t free, total;
    cuda_addr a = 1;
    OK(cuda_memory(gpu, &free, &total, e));
    assert_true(free > 0 && free <= total);
    assert_false(cuda_alloc(gpu, total * 2, &a, &e));
    assert_int_equal(a, 0);
    assert_int_equal(e.code, ERR_MEMORY);
    assert_non_null(strstr(e.msg, "MiB do not fit"));
    assert_non_null(strstr(e.msg, "smaller context"));
}

static void devices_that_are_not_there_are_errors(void **state) {
    (void)state;
    NEED_GPU();
    struct err e;
    struct cuda *none;
    for (int i = -1; i < 1000; i += 1000) {
        assert_false(cuda_open(i, &none, &e));
        assert_null(none);
        assert_int_equal(e.code, ERR_UNSUPPORTED);
        assert_non_null(strstr(e.msg, "no CUDA device"));
    }
}

static void broken_code_names_its_kernel(void **state) {
    (void)state;
    NEED_GPU();
    struct err e;
    struct kernel k;
    struct cuda_kernel *loaded;
    make_kernel(&k, "scale.1", scale, sizeof scale - 1, N);
    *strstr(k.ptx, "mad.lo") = 'Q';
    assert_false(cuda_kernel_new(gpu, &k, &loaded, &e));
    assert_null(loaded);
    assert_non_null(strstr(e.msg, "kernel 'scale.1'"));
    assert_non_null(strstr(e.msg, "CUDA_ERROR_INVALID_PTX"));
    mem_free(k.phases[0].parts[0].name);
    k.phases[0].parts[0].name = memcpy(mem_new(6), "other", 6);
    *strstr(k.ptx, "Qad.lo") = 'm';
    assert_false(cuda_kernel_new(gpu, &k, &loaded, &e));
    assert_non_null(strstr(e.msg, "function 'other'"));
    assert_non_null(strstr(e.msg, "CUDA_ERROR_NOT_FOUND"));
    kernel_free(&k);
}

/* Last: a fault ends the device. The finding on standard error is the machine's. */
static void faults_are_reported_by_who_waits(void **state) {
    (void)state;
    NEED_GPU();
    struct err e;
    struct kernel k;
    struct cuda_kernel *loaded;
    cuda_addr args[2], dims;
    int64_t sizes[N_RUN_DIMS] = {0};
    make_kernel(&k, "scale.1", scale, sizeof scale - 1, N);
    OK(cuda_alloc(gpu, 4 * N, &args[0], e) && cuda_alloc(gpu, 64, &dims, e) && cuda_fill(gpu, args[0], 0, 4 * N, e));
    OK(cuda_fill(gpu, dims, 0, 64, e) && cuda_kernel_new(gpu, &k, &loaded, e));
    args[1] = 256; /* nobody's memory */
    struct cuda_launch l = {.args = args, .sizes = sizes, .dims = dims};
    OK(cuda_launch(gpu, loaded, &l, e));
    assert_false(cuda_sync(gpu, &e));
    assert_non_null(strstr(e.msg, "CUDA_ERROR_ILLEGAL_ADDRESS"));
    cuda_kernel_free(gpu, loaded);
    kernel_free(&k);
}

int main(int argc, char **argv) {
    (void)argc;
    use_the_machine(argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(dp4a_means_dot4),
        cmocka_unit_test(random_programs_match_the_interpreter),
        cmocka_unit_test(split_loops_match_the_interpreter),
        cmocka_unit_test(captured_launches_see_new_sizes),
        cmocka_unit_test(memory_that_is_not_there_is_foreseen),
        cmocka_unit_test(devices_that_are_not_there_are_errors),
        cmocka_unit_test(broken_code_names_its_kernel),
        cmocka_unit_test(staged_copies_match_the_interpreter),
        cmocka_unit_test(matrix_tiles_match_the_interpreter),
        cmocka_unit_test(kernels_match_their_references),
        cmocka_unit_test(faults_are_reported_by_who_waits),
    };
    return cmocka_run_group_tests(tests, open_gpu, close_gpu);
}
