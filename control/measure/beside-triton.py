"""ferryd beside a Triton, in turns, with Triton's own load generator on both sides.

    cargo build --release -p ferry-control -p ferry-cli
    python control/measure/beside-triton.py --ferryd target/release/ferryd --ferry target/release/ferry
        --theirs HOST:PORT [--http-theirs HOST:PORT] [--rounds 15] [--requests 1000]

The Triton runs already, with the model `identity` of three dimensions (control/tests/oip/build-triton);
ferryd is started here. Each round measures either side once, in an order that changes. What is
printed are medians, and the median of the rounds' ratios with the smallest and the largest, beside
the goal. Run it where nothing else runs.
"""

import argparse
import dataclasses
import json
import re
import statistics
import subprocess

from served import ROOT, ferryd, has_option

PERF = ROOT / "control/tests/oip/perf_analyzer"
LARGE, SMALL = ("3,224,224", 602112), ("10,10,10", 4000)


@dataclasses.dataclass
class Row:
    name: str
    tensor: tuple
    way: str  # memory, message or http
    goal: float | None  # of ours / Triton's; a throughput has to be above
    concurrency: int = 1


ROWS = [
    Row("602,112 B, system shared memory", LARGE, "memory", 0.5),
    Row("4,000 B, system shared memory", SMALL, "memory", 0.5),
    Row("602,112 B, in the message", LARGE, "message", 0.65),
    Row("4,000 B, in the message", SMALL, "message", None),
    Row("602,112 B, HTTP binary", LARGE, "http", 0.65),
    Row("4,000 B, HTTP binary", SMALL, "http", None),
    Row("602,112 B, system shared memory, 16 at once", LARGE, "memory", 2, 16),
    Row("602,112 B, in the message, 16 at once", LARGE, "message", 1.5, 16),
    Row("602,112 B, HTTP binary, 16 at once", LARGE, "http", None, 16),
    Row("4,000 B, system shared memory, 16 at once", SMALL, "memory", None, 16),
]


@dataclasses.dataclass
class Side:
    model: str
    grpc: str
    http: str | None


def measured(side, row, asked):
    """µs at the median of one at a time, or requests/s."""
    shape, size = row.tensor
    command = [PERF, "-m", side.model, "--shape", f"INPUT0:{shape}"]
    command += ["-i", "http", "-u", side.http] if row.way == "http" else ["-i", "grpc", "-u", side.grpc]
    command += ["--concurrency-range", str(row.concurrency)]
    if row.way == "memory":
        command += ["--shared-memory", "system", "--output-shared-memory-size", str(size)]
    if row.concurrency == 1:
        command += ["--request-count", str(asked.requests), "--percentile", "50"]
    else:
        # Three windows, whatever the spread between them: the rounds show it.
        command += ["-p", str(asked.window_ms), "-r", "3", "-s", "999"]
    told = subprocess.run(command, capture_output=True, text=True)
    what = r"p50 latency: (\d+)" if row.concurrency == 1 else r"Throughput: ([\d.]+)"
    found = re.search(what, told.stdout)
    if told.returncode or not found:
        raise SystemExit(f"{' '.join(map(str, command))}\n{told.stdout}{told.stderr}")
    return float(found[1])


def pairs(sides, row, asked):
    """Ours and Triton's, of each round but the first, which warms up."""
    all_ = []
    for number in range(asked.rounds + 1):
        order = sides if number % 2 else sides[::-1]
        told = {side.model: measured(side, row, asked) for side in order}
        all_.append([told[side.model] for side in sides])
    return all_[1:]


def show(name, all_, unit, goal, is_throughput):
    ours, theirs = (statistics.median(of) for of in zip(*all_))
    ratios = sorted(own / other for own, other in all_)
    ratio = statistics.median(ratios)
    verdict = "stated"
    if goal is not None:
        is_met = ratio >= goal if is_throughput else ratio <= goal
        verdict = f"{'≥' if is_throughput else '≤'} {goal} ×: {'met' if is_met else 'missed'}"
    spread = f"{ratio:.2f} ({ratios[0]:.2f}–{ratios[-1]:.2f})"
    print(f"| {name} | {ours:,.0f} {unit} | {theirs:,.0f} {unit} | {spread} | {verdict} |", flush=True)


def sdk_p50_us(asked, address):
    """The SDK over shm, the same bytes both ways."""
    size = str(LARGE[1])
    command = [asked.ferry, "bench", "--json", "--server", address, "--transport", "shm", "--rounds", "1"]
    command += ["--requests", str(asked.requests), "--in-bytes", size, "--out-bytes", size]
    told = subprocess.run(command, capture_output=True, text=True)
    rows = [json.loads(line) for line in told.stdout.splitlines()]
    if told.returncode or not rows:
        raise SystemExit(f"{' '.join(command)}\n{told.stdout}{told.stderr}")
    return rows[0]["total_ns"]["p50"] / 1000


def beside_sdk(own, asked):
    row = ROWS[0]
    both = lambda: [sdk_p50_us(asked, own.grpc), measured(own, row, asked)]
    all_ = [both() for _ in range(asked.rounds + 1)][1:]
    print("\n| | SDK over shm | ours, by the protocol | SDK / protocol, p50 | goal |\n|---|---|---|---|---|")
    show(row.name, all_, "µs", 0.3, False)


def options():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ferryd", default=ROOT / "target/release/ferryd")
    parser.add_argument("--ferry", help="measures the SDK beside the protocol too")
    parser.add_argument("--theirs", required=True)
    parser.add_argument("--http-theirs")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--window-ms", type=int, default=700)
    return parser.parse_args()


def main():
    asked = options()
    has_http = asked.http_theirs and has_option(asked.ferryd, "--http")
    with ferryd(asked.ferryd, *(["--http", "127.0.0.1:0"] if has_http else [])) as (_, told):
        own = Side("echo", told["listening"], told.get("http"))
        sides = [own, Side("identity", asked.theirs, asked.http_theirs)]
        print("| | ferryd | Triton | ferryd / Triton (rounds) | goal |\n|---|---|---|---|---|")
        for row in ROWS:
            if row.way != "http" or has_http:
                unit = "µs" if row.concurrency == 1 else "/s"
                show(row.name, pairs(sides, row, asked), unit, row.goal, row.concurrency > 1)
        if asked.ferry:
            beside_sdk(own, asked)


if __name__ == "__main__":
    main()
