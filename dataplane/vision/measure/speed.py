"""Times ferry-vision's JPEG decoder beside libjpeg-turbo (through Pillow), in turns, one thread each.

    cargo build --release -p ferry-vision --example decode
    python speed.py [--rounds 200] [--decode ../../../target/release/examples/decode]

Pillow opens the file out of memory and decodes it, as a server would. Each round decodes the picture once with
either, in an order that changes; what is printed are medians in milliseconds, and the median and the quartiles of
the rounds' ratios. Needs NumPy and Pillow. Run it where nothing else runs.
"""

import argparse
import io
import pathlib
import statistics
import subprocess
import tempfile
import time

import numpy as np
from PIL import Image

from corpus import picture

SIZES = [(60, 70, False), (500, 375, False), (3564, 2880, False), (500, 375, True)]


def turbo(data):
    start = time.perf_counter_ns()
    Image.open(io.BytesIO(data)).load()
    return time.perf_counter_ns() - start


def measure(decode, data, rounds):
    """Pairs of nanoseconds: ferry-vision's and libjpeg-turbo's."""
    with tempfile.NamedTemporaryFile(suffix=".jpg") as file:
        file.write(data)
        file.flush()
        child = subprocess.Popen([decode, file.name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

        def ours():
            child.stdin.write("\n")
            child.stdin.flush()
            return int(child.stdout.readline())

        pairs = []
        for round_ in range(rounds + 3):
            pair = (ours(), turbo(data)) if round_ % 2 else (turbo(data), ours())[::-1]
            pairs.append(pair)
        child.stdin.close()
        child.wait()
        return pairs[3:]


def main():
    here = pathlib.Path(__file__).resolve()
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--rounds", type=int, default=200)
    arguments.add_argument("--decode", default=here.parents[3] / "target/release/examples/decode")
    arguments.add_argument("--seed", type=int, default=1)
    asked = arguments.parse_args()
    rng = np.random.default_rng(asked.seed)
    print("picture                  ours ms   turbo ms   ratio (quartiles)")
    for width, height, progressive in SIZES:
        encoded = io.BytesIO()
        picture(rng, width, height).save(encoded, "JPEG", quality=85, subsampling="4:2:0", progressive=progressive)
        rounds = max(20, min(asked.rounds, 400_000_000 // (width * height)))
        pairs = measure(asked.decode, encoded.getvalue(), rounds)
        ratios = statistics.quantiles([a / b for a, b in pairs], n=4)
        ours, theirs = (statistics.median(side) / 1e6 for side in zip(*pairs))
        name = f"{width} x {height}{', progressive' if progressive else ''}"
        print(f"{name:24} {ours:7.3f}   {theirs:8.3f}   {ratios[1]:.2f} ({ratios[0]:.2f} to {ratios[2]:.2f})")


if __name__ == "__main__":
    main()
