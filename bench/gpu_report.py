"""Tables of what bench/gpu.sh found: measured on a GPU, or predicted from the PTX machine's counters.

  gpu_report.py table RESULTS.json              the table for bench/SPEED.md
  gpu_report.py compare STORED FOUND            likelihoods (kgen perplexity --ids); exit status 1 over 1e-3 nats
  gpu_report.py predict DECODE FILE:TOKENS:N,N…  from KGEN_PTXVM_REPORT files: one token of TinyLlama-1.1B, and TOKENS at a time of its
                                                two-layer form, from which N at a time are predicted

The prediction of a launch is the longest of what limits it, and the gap between dependent launches in a graph:

  memory       bytes / (0.92 * bandwidth): of the sectors that a launch touches, each once
  L2           bytes / 5.5 TB/s: of all sectors that its warps ask for
  in flight    (first * latency + again * latency of the L2) / (warps at a time * 1 KiB): a warp has so many bytes under way; those that
               it asks for again, or that another warp did, come from the L2
  issue        warp instructions / (schedulers in use * min(1, warps on each / 5) * clock): a warp issues one in five cycles
  matrix       products of 16 by 8 by 16 tiles * 6.5 cycles / (schedulers in use * clock): mma.sync reaches 62 % of the tensor cores' peak
  latency      latency * 2, where anything is read: a launch begins and ends with memory
  gap          1.3 us

with the figures of an H200 (data sheet; latencies, gap and the L2's bandwidth as published for Hopper): 132 multiprocessors of four
schedulers, 1.755 GHz, 64 warps each, 4.8 TB/s, 0.8 us, and 0.3 us for the L2. L1 is left out. Warps, instructions and what
is in flight grow with a prompt's tokens, issue and matrix by whole rounds of blocks over the multiprocessors (attention's grow faster, which is left out); memory is no limit there. A kernel launched twice or more in a pass of the
two-layer model is one of its layers, and has 11 times as many in the whole one.
"""

import json
import math
import statistics
import sys

SMS, CLOCK, BANDWIDTH = 132, 1.755e9, 4.8e12
LATENCY, GAP, SHARE, IN_FLIGHT, CYCLES, RESIDENT = 0.8e-6, 1.3e-6, 0.92, 1024, 5, 64
L2_LATENCY, L2_BANDWIDTH = 0.3e-6, 5.5e12
MMA_CYCLES, BLOCK_WARPS = 6.5, 8
PEAK_LOOPS = {"read", "fma", "dp4a", "mma_s8", "mma_bf16"}
LAYERS, TINY_LAYERS = 22, 2


def launches(path):
    """Per kernel: launches a pass, and of one launch warps, instructions, bytes."""
    with open(path, encoding="utf-8") as file:
        report = json.load(file)
    kernels = [k for k in report["kernels"] if k["name"] not in PEAK_LOOPS and k["launches"]]
    passes = min(k["launches"] for k in kernels)
    rows = []
    for k in kernels:
        n, memory = k["launches"], k["memory"]["global"]
        sectors = memory["loads"]["sectors"] + memory["stores"]["sectors"]
        rows.append({"name": k["name"].replace("$_", "."), "n": n / passes, "warps": k["warps"] / n,
                     "instructions": sum(c["warp"] for c in k["instructions"].values()) / n,
                     "matrix": k["instructions"]["matrix"]["warp"] / n, "bytes": 32 * k["unique_sectors"]["either"] / n,
                     "asked": 32 * sectors / n})
    return rows, passes, report["host"]


def limits(row):
    """Seconds that each limit allows one launch, by name."""
    schedulers = min(row["warps"], SMS * 4)
    each = row["warps"] / schedulers
    blocks = row["warps"] / BLOCK_WARPS
    uneven = math.ceil(blocks / SMS) * SMS / blocks if blocks > SMS else 1
    return {"memory": row["bytes"] / (SHARE * BANDWIDTH),
            "L2": row["asked"] / L2_BANDWIDTH,
            "in flight": (row["bytes"] * LATENCY + (row["asked"] - row["bytes"]) * L2_LATENCY)
            / (min(row["warps"], SMS * RESIDENT) * IN_FLIGHT),
            "issue": row["instructions"] / (schedulers * min(1, each / CYCLES) * CLOCK) * uneven,
            "matrix": row["matrix"] * MMA_CYCLES / (schedulers * CLOCK) * uneven,
            "latency": 2 * LATENCY if row["bytes"] else 0}


def predict_decode(path):
    rows, passes, host = launches(path)
    print("Predicted, H200, TinyLlama-1.1B Q4_K_M, one token:\n")
    print("| kernel | launches | warps | KB | us each | limit | us in all |\n|---|---|---|---|---|---|---|")
    total = 0
    for row in sorted(rows, key=lambda r: -r["n"] * max(limits(r).values())):
        name, seconds = max(limits(row).items(), key=lambda item: item[1])
        seconds += GAP
        total += seconds * row["n"]
        print(f"| {row['name']} | {row['n']:.0f} | {row['warps']:.0f} | {row['bytes'] / 1e3:.1f} | {seconds * 1e6:.1f} | {name} "
              f"| {seconds * row['n'] * 1e6:.1f} |")
    n, read = sum(r["n"] for r in rows), sum(r["n"] * r["bytes"] for r in rows)
    floor = read / (SHARE * BANDWIDTH) + n * GAP
    print(f"\n**{1 / total:.0f} tok/s** ({total * 1e6:.0f} us: {n:.0f} launches, {read / 1e6:.0f} MB; those alone would allow "
          f"{1 / floor:.0f} tok/s, the bytes alone {SHARE * BANDWIDTH / read:.0f}).")
    print(f"In {passes} passes: {host['graph_launches']['count']} launches of graphs.")


def predict_many(path, tokens, targets):
    rows, _, _ = launches(path)
    for target in targets:
        total = 0
        for row in rows:
            scale = target / tokens
            layers = LAYERS / TINY_LAYERS if row["n"] >= 2 else 1
            grown = limits({key: row[key] * scale for key in ("warps", "instructions", "matrix", "bytes", "asked")})
            total += layers * row["n"] * (max(seconds for name, seconds in grown.items() if name != "memory") + GAP)
        print(f"| {target} | {total * 1e3:.2f} | {target / total:.0f} | {tokens} |")


def spread(values):
    return f"{statistics.median(values):.1f} ({min(values):.1f} … {max(values):.1f})"


def table(path):
    with open(path, encoding="utf-8") as file:
        results = json.load(file)
    model = results["model"]
    print(f"{results['kgen']}, {results['date']}, checks {'passed' if results['ok'] else 'FAILED'}: "
          f"{results['likelihoods_equal'][0]} of {results['likelihoods_equal'][1]} sets of likelihoods are the PTX machine's, "
          f"{results['api_tests'][0]} of {results['api_tests'][1]} tests of the driver")
    if results["verify"]:
        worst = max(results["verify"]["rows"], key=lambda r: r["max_error_of_tolerance"])
        cases = sum(r["cases"] for r in results["verify"]["rows"])
        print(f"\nkgen verify: {cases} cases, the largest error is {worst['max_error_of_tolerance']:.2f} of its tolerance "
              f"({worst['kernel']} {worst['formats']})")
    if not model:
        return
    peaks = model["peaks"]
    print(f"\n**{model['device']}**: reads {peaks['read_bytes_per_s'] / 1e9:.0f} GB/s; Top/s: bf16 "
          f"{peaks['bf16_ops_per_s'] / 1e12:.1f}, int8 {peaks['int8_ops_per_s'] / 1e12:.1f}, dp4a "
          f"{peaks['dp4a_ops_per_s'] / 1e12:.1f}, f32 {peaks['f32_ops_per_s'] / 1e12:.1f}\n")
    print("| what | tok/s | ms | of the limit |\n|---|---|---|---|")
    read = peaks["read_bytes_per_s"] / model["bytes_per_token"]
    compute = (peaks["bf16_ops_per_s"] or peaks["dp4a_ops_per_s"]) / model["ops_per_token"]
    rows = [("decode", model["tg"], 1, read), (f"prompt {model['prompt']}", model["pp"], model["prompt"], compute)]
    plain = results.get("plain_launches") or {"tg": [], "pp": []}
    rows += [("decode, plain launches", plain["tg"], 1, read),
             (f"prompt {model['prompt']}, plain launches", plain["pp"], model["prompt"], compute)]
    for name, values, n, limit in rows:
        if values:
            speed = statistics.median(values)
            print(f"| {name} | {spread(values)} | {n / speed * 1e3:.3f} | {100 * speed / limit:.0f} % |")
    for row in model.get("prompts", []):
        print(f"| prompt {row['tokens']}, to the first token | {spread(row['tok_s'])} | {row['ms']:.2f} "
              f"| {100 * statistics.median(row['tok_s']) / compute:.0f} % |")
    for row in model.get("batches", []):
        limit = min(read * row["tokens"], compute)
        print(f"| {row['tokens']} at a time | {spread(row['tok_s'])} | {row['ms']:.3f} "
              f"| {100 * statistics.median(row['tok_s']) / limit:.0f} % |")
    print("\n| kernel | us | GB/s | of reads | Top/s | of bf16 |\n|---|---|---|---|---|---|")
    for kernel in filter(None, results["kernels"]):
        for row in kernel["results"]:
            best, most = kernel["peaks"]["read_bytes_per_s"], kernel["peaks"].get("bf16_ops_per_s") or float("inf")
            print(f"| {kernel['kernel']} {row['shape']} | {row['median_ms'] * 1e3:.2f} | {row['bytes_per_s'] / 1e9:.0f} "
                  f"| {100 * row['bytes_per_s'] / best:.0f} % | {row['ops_per_s'] / 1e12:.2f} "
                  f"| {100 * row['ops_per_s'] / most:.0f} % |")


def compare(stored, found):
    lists = []
    for path in (stored, found):
        with open(path, encoding="utf-8") as file:
            lists.append(json.load(file)["next_token_nll"])
    if len(lists[0]) != len(lists[1]):
        sys.exit("another number of tokens")
    worst = max(abs(a - b) for a, b in zip(*lists))
    print(f"{worst:.2g} nats")
    return worst <= 1e-3


def main(arguments):
    if len(arguments) == 2 and arguments[0] == "table":
        table(arguments[1])
    elif len(arguments) == 3 and arguments[0] == "compare":
        sys.exit(0 if compare(arguments[1], arguments[2]) else 1)
    elif len(arguments) > 2 and arguments[0] == "predict":
        predict_decode(arguments[1])
        print("\nPredicted, several tokens at a time (from the counters of some through two layers):\n")
        print("| tokens | ms | tok/s | counted |\n|---|---|---|---|")
        for counted in arguments[2:]:
            path, tokens, targets = counted.rsplit(":", 2)
            predict_many(path, int(tokens), [int(n) for n in targets.split(",")])
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
