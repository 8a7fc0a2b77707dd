"""Makes JPEG files and says what libjpeg-turbo (through Pillow) decodes each to.

    python corpus.py --files 15000 --seed 1 --out corpus.bin
    FERRY_JPEG_CORPUS=$PWD/corpus.bin cargo nextest run -p ferry-vision --run-ignored only differential

`testdata/differential.bin` is of `--files 150 --seed 5 --side 40 --sums`.

Needs NumPy, Pillow, and `cjpeg` and `jpegtran` of libjpeg-turbo. A third of the files are as an encoder
left them: every subsampling, progressive, in several scans, with restart markers, grey, RGB, without tables.
The others are those with damage: bytes changed, cut out, doubled, cut off, in the headers and in the scans.

The result is a byte, 0 or 1 with `--sums`, and a row of records, numbers little-endian: u32 length, the JPEG
file; u8 channels (0: libjpeg-turbo gave an error; 1 or 3), u8 damaged, u32 width, u32 height, and the pixels, or
their FNV-1a of 64 bits.
"""

import argparse
import io
import os
import random
import struct
import subprocess
import tempfile

import numpy as np
from PIL import Image

SCANS = ["0;1;2;", "0;1 2;", "0 1;2;", "2;1;0;", "0 2;1;", "1 2;0;"]
PROGRESSIVE = [
    "0 1 2: 0-0,0,1; 0: 1-5,0,2; 2: 1-63,0,1; 1: 1-63,0,1; 0: 6-63,0,2; 0: 1-63,2,1; 0 1 2: 0-0,1,0;"
    " 2: 1-63,1,0; 1: 1-63,1,0; 0: 1-63,1,0;",
    "0: 0-0,0,0; 1: 0-0,0,0; 2: 0-0,0,0; 0: 1-63,0,0; 1: 1-63,0,0; 2: 1-63,0,0;",
    "0 1 2: 0-0,0,2; 0 1 2: 0-0,2,1; 0 1 2: 0-0,1,0; 0: 1-8,0,0; 0: 9-63,0,0; 1: 1-63,0,3; 1: 1-63,3,2;"
    " 1: 1-63,2,1; 1: 1-63,1,0; 2: 1-63,0,0;",
]
SAMPLINGS = [
    "1x1", "2x1", "1x2", "2x2", "4x1", "1x4", "4x2", "2x4", "2x2,2x1,2x1", "2x2,1x2,1x2", "1x1,2x2,2x2",
    "1x1,2x1,1x1", "2x1,1x1,2x1", "3x1", "1x3", "2x2,1x1,2x2", "1x1,1x2,1x2", "2x1,2x1,1x1", "2x2,1x2,2x1",
]


def picture(rng, width, height):
    """Gradients, edges and noise, in amounts that differ."""
    y, x = np.mgrid[0:height, 0:width].astype(float)
    out = np.zeros((height, width, 3))
    for channel in range(3):
        a, b, c = rng.uniform(-0.2, 0.2, 3)
        out[..., channel] = 127 + rng.uniform(20, 120) * np.sin(a * x + b * y + 9 * c)
    for _ in range(rng.integers(0, 6)):
        x0, y0 = rng.integers(0, width), rng.integers(0, height)
        out[y0 : y0 + rng.integers(1, height + 1), x0 : x0 + rng.integers(1, width + 1)] = rng.integers(0, 256, 3)
    out += rng.normal(0, rng.choice([0, 2, 10, 60]), out.shape)
    return Image.fromarray(np.clip(out, 0, 255).astype(np.uint8), "RGB")


def run(arguments, stdin):
    done = subprocess.run(arguments, input=stdin, capture_output=True, check=False)
    return done.stdout if done.returncode == 0 and done.stdout else None


def encode(rng, scratch, side):
    """One file as an encoder would leave it."""
    width, height = (int(side) for side in rng.integers(1, side, 2))
    image = picture(rng, width, height)
    ppm = io.BytesIO()
    grey = rng.random() < 0.1
    (image.convert("L") if grey else image).save(ppm, "PPM")
    quality = str(int(rng.choice([1, 5, 20, 40, 60, 75, 85, 90, 95, 100])))
    arguments = ["cjpeg", "-quality", quality]
    if quality in ("1", "5") and rng.random() < 0.7:
        arguments += ["-baseline"]
    if not grey:
        arguments += ["-sample", str(rng.choice(SAMPLINGS))] if rng.random() < 0.8 else ["-rgb"]
    if rng.random() < 0.3:
        arguments += ["-restart", str(rng.choice(["1", "2", "1B", "3B", "7B"]))]
    kind = rng.random()
    scans = None
    if kind < 0.2:
        arguments += ["-progressive"]
    elif kind < 0.3 and not grey:
        scans = str(rng.choice(PROGRESSIVE))
    elif kind < 0.55 and not grey:
        scans = str(rng.choice(SCANS))
    elif kind < 0.65:
        arguments += ["-optimize"]
    if scans:
        path = os.path.join(scratch, "scans")
        with open(path, "w", encoding="ascii") as file:
            file.write(scans)
        arguments += ["-scans", path]
    jpeg = run(arguments, ppm.getvalue())
    if jpeg and kind > 0.9:
        jpeg = without_tables(jpeg)
    return jpeg


def without_tables(jpeg):
    """The file without its DHT segments, as Motion JPEG has it: right where the tables are those of annex K."""
    out, at = bytearray(jpeg[:2]), 2
    while jpeg[at + 1] != 0xDA:
        length = 2 + struct.unpack(">H", jpeg[at + 2 : at + 4])[0]
        if jpeg[at + 1] != 0xC4:
            out += jpeg[at : at + length]
        at += length
    return bytes(out + jpeg[at:])


def damage(rng, jpeg):
    """The file with something of it changed."""
    data = bytearray(jpeg)
    scan = data.find(b"\xff\xda")
    for _ in range(int(rng.choice([1, 1, 1, 2, 4, 10]))):
        low, high = (0, scan) if rng.random() < 0.3 and scan > 2 else (max(scan, 2), len(data))
        at = int(rng.integers(low, max(low + 1, high)))
        what = rng.integers(0, 9)
        if what < 3 and at < len(data):
            data[at] ^= 1 << int(rng.integers(0, 8))
        elif what < 5 and at < len(data):
            data[at] = int(rng.integers(0, 256))
        elif what == 5:
            del data[at : at + int(rng.integers(1, 20))]
        elif what == 6:
            piece = data[at : at + int(rng.integers(1, 20))]
            data[at:at] = piece
        elif what == 7:
            data[at:at] = bytes([0xFF, int(rng.choice([0, 0xD0, 0xD1, 0xD3, 0xD9, 0xFF, 0xC4]))])
        else:
            data[at:] = b"\xff\xd9" if rng.random() < 0.7 else b""
    return bytes(data)


def reference(jpeg):
    """What libjpeg-turbo makes of it, and None where it gives an error."""
    try:
        image = Image.open(io.BytesIO(jpeg), formats=["JPEG"])
        if image.size[0] * image.size[1] > 1 << 20:
            return None
        image.load()
    except Exception:  # noqa: BLE001: Pillow raises many kinds for broken files
        return None
    return np.asarray(image) if image.mode in ("L", "RGB") else None


def sum_of(data):
    value = 0xCBF29CE484222325
    for byte in data:
        value = (value ^ byte) * 0x100000001B3 % 2**64
    return value


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--files", type=int, default=12000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--side", type=int, default=150)
    parser.add_argument("--sums", action="store_true")
    parser.add_argument("--out", required=True)
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    random.seed(options.seed)
    written = 0
    with tempfile.TemporaryDirectory() as scratch, open(options.out, "wb") as out:
        out.write(bytes([options.sums]))
        while written < options.files:
            whole = encode(rng, scratch, options.side)
            if whole is None:
                continue
            for damaged, jpeg in ((0, whole), (1, damage(rng, whole)), (1, damage(rng, whole))):
                pixels = reference(jpeg)
                channels = 0 if pixels is None else (1 if pixels.ndim == 2 else 3)
                height, width = (0, 0) if pixels is None else pixels.shape[:2]
                out.write(struct.pack("<I", len(jpeg)) + jpeg)
                out.write(struct.pack("<BBII", channels, damaged, width, height))
                pixels = b"" if pixels is None else pixels.tobytes()
                out.write(struct.pack("<Q", sum_of(pixels)) if options.sums else pixels)
                written += 1


if __name__ == "__main__":
    main()
