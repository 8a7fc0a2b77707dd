"""Python over shm beside the Rust SDK, and beside tritonclient with system shared memory, in turns.

    cargo build --release --workspace
    python clients/python/measure/beside.py --ferryd target/release/ferryd --ferry target/release/ferry
        [--theirs HOST:PORT] [--rounds 15] [--requests 1000] [--in-bytes 602112] [--out-bytes 4000]

In an environment with tensorferry (a wheel built with `--release`) and, for the second table,
`tritonclient[grpc]==2.73.0`. `--theirs` is a Triton with the model `identity` of three dimensions
(control/tests/oip/build-triton); without it tritonclient talks to the same ferryd, which the table says. Each
round measures everybody once, in an order that changes. A request is: take a slot, write the input from an
array of the program, infer, take the array over the output; beside tritonclient an element of it is read too. What is printed are medians of p50, and the median of the rounds'
differences or ratios with the smallest and the largest, beside the goal. Run it where nothing else runs.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import time

import numpy as np

import tensorferry as tf

ROOT = pathlib.Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "control/measure"))

from served import ferryd  # noqa: E402

# Not measured, at the start of each turn.
WARMUP = 100


def p50_us(request, count):
    for _ in range(WARMUP):
        request()
    times = []
    for _ in range(count):
        began = time.perf_counter_ns()
        request()
        times.append(time.perf_counter_ns() - began)
    return statistics.median(times) / 1000


def rust(asked, address):
    """The Rust SDK: from the slot that was handed out to the reply that can be read."""
    command = [asked.ferry, "bench", "--json", "--server", address, "--transport", "shm", "--rounds", "1"]
    command += ["--requests", asked.requests, "--in-bytes", asked.in_bytes, "--out-bytes", asked.out_bytes]
    command += ["--wait", asked.wait, "--warmup", WARMUP]
    told = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    rows = [json.loads(line) for line in told.stdout.splitlines()]
    if told.returncode or not rows:
        raise SystemExit(f"{command}\n{told.stdout}{told.stderr}")
    return (rows[0]["total_ns"]["p50"] + rows[0]["stages"]["fill"]["p50"]) / 1000


def python(asked, client, read=lambda output: output):
    shapes = {"input": (asked.in_bytes,), "output": (asked.out_bytes,)}
    x = np.full(asked.in_bytes, 1, np.uint8)
    with client.session("echo", transport="shm", shapes=shapes, wait=asked.wait) as session:

        def request():
            slot = session.slot()
            slot["input"][:] = x
            return read(session.infer(slot)["output"])

        return p50_us(request, asked.requests)


def triton(asked, address, model, names):
    """tritonclient, whose regions are registered once, as its examples do."""
    import tritonclient.grpc as grpcclient
    import tritonclient.utils.shared_memory as shm

    client = grpcclient.InferenceServerClient(address)
    # Triton's identity has three dimensions of 32-bit floats.
    shape = [1, 1, asked.in_bytes // 4]
    x = np.full(shape, 1, np.float32)
    regions = {}
    for name, size in zip(names, (asked.in_bytes, asked.out_bytes)):
        regions[name] = shm.create_shared_memory_region(f"tf-{name}", f"/tf-measure-{name}", size)
        client.register_system_shared_memory(f"tf-{name}", f"/tf-measure-{name}", size)
    try:
        sent = grpcclient.InferInput(names[0], shape, "FP32")
        sent.set_shared_memory(f"tf-{names[0]}", asked.in_bytes)
        wanted = grpcclient.InferRequestedOutput(names[1])
        wanted.set_shared_memory(f"tf-{names[1]}", asked.out_bytes)

        def request():
            shm.set_shared_memory_region(regions[names[0]], [x])
            client.infer(model, [sent], outputs=[wanted])
            return shm.get_contents_as_numpy(regions[names[1]], np.float32, shape)[0, 0, 0]

        return p50_us(request, asked.requests)
    finally:
        client.unregister_system_shared_memory()
        for region in regions.values():
            shm.destroy_shared_memory_region(region)


def rounds(asked, measure):
    """What each of `measure` gives in each round but the first, which warms up."""
    told = []
    for number in range(asked.rounds + 1):
        order = list(measure) if number % 2 else list(measure)[::-1]
        now = {name: measure[name]() for name in order}
        told.append([now[name] for name in measure])
    return told[1:]


def line(name, both, between, unit, goal):
    own, other = (statistics.median(of) for of in zip(*both))
    all_ = sorted(between(*pair) for pair in both)
    middle = statistics.median(all_)
    verdict = "met" if middle <= goal else "missed"
    print(
        f"| {name} | {own:,.1f} µs | {other:,.1f} µs | {middle:.2f} ({all_[0]:.2f}–{all_[-1]:.2f}) {unit} "
        f"| ≤ {goal} {unit}: {verdict} |",
        flush=True,
    )


def options():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ferryd", default=ROOT / "target/release/ferryd")
    parser.add_argument("--ferry", default=ROOT / "target/release/ferry")
    parser.add_argument("--theirs")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--in-bytes", type=int, default=602_112)
    parser.add_argument("--out-bytes", type=int, default=4_000)
    parser.add_argument("--wait", default="adaptive")
    return parser.parse_args()


def main():
    asked = options()
    name = f"{asked.in_bytes:,} B → {asked.out_bytes:,} B, {asked.wait}"
    with ferryd(asked.ferryd) as (_, told), tf.Client(told["listening"]) as client:
        ours = lambda: python(asked, client)  # noqa: E731
        print("| | Python | Rust SDK | Python − Rust (rounds) | goal |\n|---|---|---|---|---|")
        both = rounds(asked, {"python": ours, "rust": lambda: rust(asked, told["listening"])})
        line(f"shm, {name}", both, lambda own, other: own - other, "µs", 5)
        try:
            import tritonclient.grpc  # noqa: F401
        except ImportError:
            print("\ntritonclient is not installed: nothing beside it")
            return
        # What a model of Triton's gives back is as long as what it got: the same bytes both ways.
        asked.out_bytes = asked.in_bytes
        address, model = (asked.theirs, "identity") if asked.theirs else (told["listening"], "echo")
        whose = "Triton" if asked.theirs else "ferryd by the protocol"
        theirs = lambda: triton(asked, address, model, ("INPUT0", "OUTPUT0"))  # noqa: E731
        reads = lambda: python(asked, client, lambda output: output[0])  # noqa: E731
        print(f"\n| | Python | tritonclient, {whose} | Python / tritonclient (rounds) | goal |\n|---|---|---|---|---|")
        both = rounds(asked, {"python": reads, "triton": theirs})
        line(f"shared memory, {asked.in_bytes:,} B both ways", both, lambda own, other: own / other, "×", 0.25)


if __name__ == "__main__":
    main()
