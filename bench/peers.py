"""kgen beside llama.cpp: decode and prefill of real and synthetic models, measured alternately.

A row is a model: in every round kgen measures once, then llama.cpp, and the medians over the rounds are compared.
llama.cpp is measured with and without its repacked weights in the first round; each figure is then taken from the
variant that was faster at it. Both sides have the same threads, the same batch and an F16 KV cache, and run with
real-time priority where this user may set it, so that other programs on the machine disturb neither.

pp is one batch of -p tokens, tg is -n tokens one by one, both from a cache of -d tokens. Fractions: tg by the bytes of
weights a token reads, against the read bandwidth; pp by the multiplications of the layers, against the int8 peak. kgen
measures either peak in the same process just before and behind what is held against it, and three times a second
within a generation (whose clock stands meanwhile).
"""
import argparse
import datetime
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SCRATCH = os.path.join(ROOT, "build", "peers")
KGEN = os.path.join(SCRATCH, "kgen")  # a copy: a build in the meantime does not change what is measured
REAL = {
    "smollm2": "build/models/smollm2-135m-instruct-q4_1.gguf",
    "gemma3": "build/models/gemma-3-270m-q4_k_m.gguf",
}
SHAPES = ["tinyllama-1.1b", "qwen2-0.5b", "phi-2-like", "llama-7b"]
TYPES = ["q4_0", "q4_k_m", "q5_k_m", "q6_k", "q8_0"]
# What must be reached: decode and prefill as a multiple of llama.cpp's, and as a part of the limit where one is set.
BARS = {
    "smollm2": dict(tg=2.2, pp=5.0, read=0.75),
    "gemma3": dict(tg=1.7, pp=3.5, read=0.80),
    "tinyllama-1.1b:q4_k_m": dict(tg=1.15, pp=1.7, read=0.90, int8=0.60),
}
BAR = dict(tg=1.15, pp=1.5)


# ---- llama.cpp: a process that measures on command ----


def rival(model, threads, repack, longest, depth):
    """Reads "pp N" or "tg N" lines, answers each with tokens per second."""
    import ctypes
    import random

    import llama_cpp as L

    L.llama_backend_init()
    quiet = L.llama_log_callback(lambda level, text, data: None)
    L.llama_log_set(quiet, ctypes.c_void_p(0))
    mp = L.llama_model_default_params()
    mp.n_gpu_layers = 0
    mp.use_extra_bufts = repack
    m = L.llama_model_load_from_file(model.encode(), mp)
    if not m:
        sys.exit("llama.cpp cannot load " + model)
    cp = L.llama_context_default_params()
    cp.n_ctx = depth + longest + 8
    cp.n_batch = cp.n_ubatch = max(longest, depth, 512)
    cp.n_threads = cp.n_threads_batch = threads
    c = L.llama_init_from_model(m, cp)
    n_vocab = L.llama_vocab_n_tokens(L.llama_model_get_vocab(m))
    rng = random.Random(1)

    def decode(n):
        tokens = (L.llama_token * n)(*[rng.randrange(n_vocab) for _ in range(n)])
        if L.llama_decode(c, L.llama_batch_get_one(tokens, n)):
            sys.exit("llama_decode failed")
        L.llama_synchronize(c)

    def measure(what, n):
        L.llama_memory_clear(L.llama_get_memory(c), True)
        if depth:
            decode(depth)
        start = time.perf_counter()
        if what == "pp":
            decode(n)
        else:
            for _ in range(n):
                decode(1)
        return n / (time.perf_counter() - start)

    warm = set()
    for line in sys.stdin:
        what, n = line.split()
        if what not in warm:
            measure(what, int(n) if what == "pp" else 1)
            warm.add(what)
        print(measure(what, int(n)), flush=True)


class Rival:
    def __init__(self, o, model, repack):
        self.name = "repacked" if repack else "plain"
        spec = json.dumps([model, o.threads, repack, max(o.prompt, o.generate), o.depth])
        self.process = subprocess.Popen(
            o.run_first + [sys.executable, os.path.abspath(__file__), "--rival", spec],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def measure(self, what, n):
        self.process.stdin.write(f"{what} {n}\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            sys.exit("llama.cpp's process ended")
        return float(answer)

    def close(self):
        self.process.stdin.close()
        self.process.wait()


# ---- kgen ----


def kgen(o, model, rounds=1):
    out = subprocess.run(
        o.run_first + [KGEN, "bench", "-m", model, "-t", str(o.threads), "-p", str(o.prompt), "-n", str(o.generate),
                       "-d", str(o.depth), "-r", str(rounds), "--json"],
        check=True, stdout=subprocess.PIPE, text=True).stdout
    r = json.loads(out)
    return dict(pp=r["pp"][0] if o.prompt else None, tg=r["tg"][0] if o.generate else None,
                read=r["tg"][0] * r["bytes_per_token"] / r["tg_peak"][0] if o.generate else None,
                int8=r["pp"][0] * r["ops_per_token"] / r["pp_peak"][0] if o.prompt else None,
                peak_read=r["tg_peak"][0] if o.generate else None, peak_int8=r["pp_peak"][0] if o.prompt else None)


# ---- rows ----


def measure_row(o, model):
    """Medians and all samples of one model file."""
    lengths = {k: n for k, n in (("pp", o.prompt), ("tg", o.generate)) if n}
    rivals = [Rival(o, model, True), Rival(o, model, False)]
    mine, theirs, choice, first = [], {k: [] for k in lengths}, {}, {}
    for i in range(o.rounds):
        mine.append(kgen(o, model))
        if i == 0:
            for k, n in lengths.items():
                speeds = [r.measure(k, n) for r in rivals]
                first[k] = dict(zip([r.name for r in rivals], speeds))
                choice[k] = rivals[speeds.index(max(speeds))]
                theirs[k].append(max(speeds))
            for r in rivals:
                if r not in choice.values():
                    r.close()
        else:
            for k, n in lengths.items():
                theirs[k].append(choice[k].measure(k, n))
    for r in set(choice.values()):
        r.close()
    middle = lambda key: statistics.median(x[key] for x in mine)
    row = {k: dict(kgen=middle(k), llama=statistics.median(theirs[k]), rival=choice[k].name, first_round=first[k],
                   samples=dict(kgen=[x[k] for x in mine], llama=theirs[k])) for k in lengths}
    for k in lengths:
        row[k]["ratio"] = row[k]["kgen"] / row[k]["llama"]
        row[k]["of_limit"] = middle("read" if k == "tg" else "int8")
    for k, peak in (("tg", "peak_read"), ("pp", "peak_int8")):
        if k in lengths:
            row[peak] = middle(peak)
    return row


def synthesize(name):
    path = os.path.join(SCRATCH, name.replace(":", "-") + ".gguf")
    subprocess.run([KGEN, "bench", "--synthetic", name, "--save", path, "-p", "0", "-n", "0"], check=True)
    return path


HEAD = (f"{'model':28} {'':9}{'kgen':>8} {'llama':>8}            {'ratio':>6} {'bar':>5}   {'of limit':>8} {'bar':>5}"
        f"   (tok/s; * below the bar)")


def print_row(o, name, row):
    bars = BARS.get(name, BAR)
    for k, limit in (("tg", "read"), ("pp", "int8")):
        if k not in row:
            continue
        r = row[k]
        n = o.generate if k == "tg" else o.prompt
        low = r["ratio"] < bars[k]
        low_limit = limit in bars and r["of_limit"] < bars[limit]
        bar = f"{bars[limit]:5.0%}" if limit in bars else "     "
        print(f"{name if k == 'tg' or 'tg' not in row else '':28} {k} {n:<5} {r['kgen']:8.1f} {r['llama']:8.1f} "
              f"{r['rival']:9} {r['ratio']:6.2f}{'*' if low else ' '}{bars[k]:5.2f}   {r['of_limit']:8.0%}"
              f"{'*' if low_limit else ' '}{bar}", flush=True)


# ---- the whole ----


def cpu_model():
    with open("/proc/cpuinfo") as f:
        found = re.search(r"model name\s*: (.*)\n", f.read())
    return found.group(1) if found else "unknown CPU"


def real_time():
    """What to put in front of a command for real-time priority; nothing where it is not to be had. What the command then
    runs under is asked, not assumed: a `chrt` that succeeds may still have been told to change nothing."""
    first = ["chrt", "-f", "10"]
    if not shutil.which("chrt"):
        return []
    ask = [sys.executable, "-c", "import os; print(os.sched_getscheduler(0))"]
    answer = subprocess.run(first + ask, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout.strip()
    return first if answer == str(os.SCHED_FIFO) else []


def record(path, about, row):
    """One file a machine and day: a row measured again replaces the old one."""
    data = dict(about, rows=[])
    if os.path.exists(path):
        with open(path) as f:
            data["rows"] = json.load(f)["rows"]
    same = ("model", "prompt", "generate", "depth", "threads")
    data["rows"] = [r for r in data["rows"] if any(r[k] != row[k] for k in same)] + [row]
    with open(path, "w") as f:
        json.dump(data, f, indent=1)
        f.write("\n")


def shorten(x):
    """Numbers as they are worth keeping: four digits."""
    if isinstance(x, dict):
        return {k: shorten(v) for k, v in x.items()}
    if isinstance(x, list):
        return [shorten(v) for v in x]
    return float(f"{x:.4g}") if isinstance(x, float) else x


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
                                prog="bench/peers.sh")
    p.add_argument("rows", nargs="*", metavar="ROW",
                   help=f"what to measure: {', '.join(REAL)}, NAME:TYPE of kgen bench --synthetic, a shape alone (all "
                        f"types), a file; without any: {', '.join(list(REAL) + SHAPES)} × {', '.join(TYPES)}")
    p.add_argument("-t", "--threads", type=int, default=len(os.sched_getaffinity(0)))
    p.add_argument("-p", "--prompt", type=int, default=512)
    p.add_argument("-n", "--generate", type=int, default=128)
    p.add_argument("-d", "--depth", type=int, default=0)
    p.add_argument("-r", "--rounds", type=int, default=5)
    p.add_argument("--quick", action="store_true", help="three rounds of 128 and 32 tokens: a first impression")
    p.add_argument("--normal", action="store_true",
                   help="without real-time priority, whose 5 %% for other programs an idle machine need not spend")
    p.add_argument("--record", action="store_true", help="also write to bench/results/")
    p.add_argument("--rival", help=argparse.SUPPRESS)
    o = p.parse_args()
    if o.rival:
        return rival(*json.loads(o.rival))
    if o.quick:
        o.rounds, o.prompt, o.generate = 3, 128, 32
    o.run_first = [] if o.normal else real_time()
    rows = []
    for r in o.rows or list(REAL) + SHAPES:
        rows += [f"{r}:{t}" for t in TYPES] if r in SHAPES else [r]

    from importlib.metadata import version

    about = dict(cpu=cpu_model(), date=datetime.date.today().isoformat(),
                 rival="llama-cpp-python " + version("llama-cpp-python"))
    scheduling = " ".join(o.run_first) or "normal"
    slug = re.sub(r"[^a-z0-9]+", "-", f"{about['cpu']} {os.cpu_count()} cpus".lower()).strip("-")
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, stdout=subprocess.PIPE,
                            stderr=subprocess.DEVNULL, text=True).stdout.strip()
    print(f"{about['cpu']}, {o.threads} threads, {about['rival']}, kgen {commit or 'unknown'}, {about['date']}; "
          f"medians of {o.rounds}; scheduling of both sides: {scheduling}\n\n{HEAD}", flush=True)
    os.makedirs(os.path.join(SCRATCH, "results"), exist_ok=True)
    shutil.copy2(os.path.join(ROOT, "build", "kgen"), KGEN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))  # so that `finally` removes the model
    missing = 0
    for name in rows:
        path = REAL.get(name, name)
        synthetic = not path.endswith(".gguf")
        path = synthesize(name) if synthetic else os.path.join(ROOT, path)
        if not os.path.exists(path):
            print(f"{name:28} left out: there is no {os.path.relpath(path, ROOT)} (./setup.sh demo makes it)")
            missing += 1
            continue
        start = time.monotonic()
        try:
            row = shorten(measure_row(o, path))
        finally:
            if synthetic:
                os.unlink(path)
        row = dict(model=name, prompt=o.prompt, generate=o.generate, depth=o.depth, threads=o.threads,
                   rounds=o.rounds, commit=commit, scheduling=scheduling,
                   seconds=round(time.monotonic() - start), **row)
        print_row(o, name, row)
        folders = [os.path.join(SCRATCH, "results")]
        if o.record:
            folders.append(os.path.join(ROOT, "bench", "results"))
        for folder in folders:
            os.makedirs(folder, exist_ok=True)
            record(os.path.join(folder, f"{about['date']}-{slug}.json"), about, row)
    if missing:
        print(f"{missing} of {len(rows)} rows left out")


try:
    main()
except subprocess.CalledProcessError as failed:  # it has said why on standard error
    sys.exit(f"`{' '.join(failed.cmd)}` failed")
