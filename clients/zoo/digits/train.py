"""Trains the digit classifier and writes the files that the crate embeds.

    python3 -m venv .venv
    .venv/bin/pip install numpy scikit-learn pillow
    .venv/bin/python clients/zoo/digits/train.py

writes digits.onnx, held-out.bin and digit-7.jpg beside this script. The seed is fixed: the same
versions of the three packages on the same kind of processor give the same files. The files that
are committed were made with numpy 2.4.6, scikit-learn 1.9.1 and pillow 13.0.0.

The data are the 1797 handwritten digits that come with scikit-learn, 8 x 8 pixels, bright on dark.
A fifth of them, the same share of every digit, is held out and never trained on.
"""

import warnings
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

SEED = 1
SIDE = 8
HIDDEN = 128
EPOCHS = 60
DEMO_LABEL = 7
DEMO_ENLARGEMENT = 8
OUT = Path(__file__).resolve().parent

# What a triangle filter makes of a pixel when it shrinks an enlarged digit back to 8 x 8: the
# server's resize does that, so the model is trained on sharp and on such softened digits.
SOFTEN = np.array([0.125, 0.75, 0.125])


def soften(pictures):
    """Applies SOFTEN along rows and columns; the border repeats."""
    for axis in (1, 2):
        pad = [(0, 0)] * 3
        pad[axis] = (1, 1)
        padded = np.pad(pictures, pad, mode="edge")
        parts = [np.take(padded, range(i, i + SIDE), axis=axis) for i in range(3)]
        pictures = sum(weight * part for weight, part in zip(SOFTEN, parts))
    return pictures


def shifts(pictures):
    """Each picture, and each moved by one pixel up, down, left and right."""
    moved = [pictures]
    for axis, step in ((1, 1), (1, -1), (2, 1), (2, -1)):
        rolled = np.roll(pictures, step, axis=axis)
        edge = [slice(None)] * 3
        edge[axis] = 0 if step == 1 else -1
        rolled[tuple(edge)] = 0
        moved.append(rolled)
    return np.concatenate(moved)


def varint(value):
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def integer(field, value):
    return varint(field << 3) + varint(value)


def block(field, content):
    content = content.encode() if isinstance(content, str) else content
    return varint(field << 3 | 2) + varint(len(content)) + content


def tensor(name, array):
    """An ONNX TensorProto; float32 is data type 1."""
    dims = b"".join(integer(1, length) for length in array.shape)
    raw = np.ascontiguousarray(array, dtype="<f4").tobytes()
    return dims + integer(2, 1) + block(8, name) + block(9, raw)


def node(op_type, inputs, output, **attributes):
    """An ONNX NodeProto; attributes are integers (type 2)."""
    parts = [block(1, name) for name in inputs]
    parts += [block(2, output), block(3, output), block(4, op_type)]
    for name, value in attributes.items():
        parts.append(block(5, block(1, name) + integer(3, value) + integer(20, 2)))
    return b"".join(parts)


def value_info(name, shape):
    dims = b"".join(block(1, integer(1, length)) for length in shape)
    tensor_type = integer(1, 1) + block(2, dims)
    return block(1, name) + block(2, block(1, tensor_type))


def onnx_file(network):
    """Flatten, linear, ReLU, linear: the trained network as an ONNX ModelProto."""
    (w1, w2), (b1, b2) = network.coefs_, network.intercepts_
    nodes = [
        node("Flatten", ["input"], "flatten", axis=1),
        node("Gemm", ["flatten", "fc1.weight", "fc1.bias"], "fc1", transB=1),
        node("Relu", ["fc1"], "relu"),
        node("Gemm", ["relu", "fc2.weight", "fc2.bias"], "output", transB=1),
    ]
    weights = [("fc1.weight", w1.T), ("fc1.bias", b1), ("fc2.weight", w2.T), ("fc2.bias", b2)]
    graph = b"".join(block(1, each) for each in nodes)
    graph += block(2, "digits")
    graph += b"".join(block(5, tensor(*each)) for each in weights)
    graph += block(11, value_info("input", [1, 1, SIDE, SIDE]))
    graph += block(12, value_info("output", [1, 10]))
    opset = block(8, block(1, "") + integer(2, 17))
    return integer(1, 8) + block(2, "train.py") + block(7, graph) + opset


def logits(network, pictures):
    (w1, w2), (b1, b2) = network.coefs_, network.intercepts_
    hidden = np.maximum(pictures.reshape(len(pictures), -1) @ w1 + b1, 0)
    return hidden @ w2 + b2


def main():
    data = load_digits()
    # 0..16 becomes 0..255, as a picture has it; the model sees that divided by 255.
    pixels = np.rint(data.images * (255 / 16)).astype(np.uint8)
    train_pixels, test_pixels, train_labels, test_labels = train_test_split(
        pixels, data.target, test_size=0.2, random_state=SEED, stratify=data.target
    )

    sharp = shifts(train_pixels / 255.0)
    samples = np.concatenate([sharp, soften(sharp)])
    labels = np.tile(train_labels, len(samples) // len(train_labels))
    network = MLPClassifier((HIDDEN,), alpha=1e-3, max_iter=EPOCHS, random_state=SEED)
    # The number of epochs is chosen, so stopping there is no reason to warn.
    warnings.filterwarnings("ignore", category=ConvergenceWarning)
    network.fit(samples.reshape(len(samples), -1), labels)

    for name, pictures in (("sharp", test_pixels / 255.0), ("soft", soften(test_pixels / 255.0))):
        right = int((logits(network, pictures).argmax(axis=1) == test_labels).sum())
        print(f"held out, {name}: {right} of {len(test_labels)}")

    (OUT / "digits.onnx").write_bytes(onnx_file(network))
    held_out = zip(test_labels, test_pixels)
    records = [bytes([label]) + picture.tobytes() for label, picture in held_out]
    (OUT / "held-out.bin").write_bytes(b"".join(records))

    # Of the held-out sevens, the one that the model is surest of.
    sevens = test_pixels[test_labels == DEMO_LABEL]
    scores = np.sort(logits(network, soften(sevens / 255.0)), axis=1)
    clearest = sevens[(scores[:, -1] - scores[:, -2]).argmax()]
    enlarged = np.kron(clearest, np.ones((DEMO_ENLARGEMENT, DEMO_ENLARGEMENT), dtype=np.uint8))
    picture = Image.fromarray(enlarged).convert("RGB")
    picture.save(OUT / f"digit-{DEMO_LABEL}.jpg", quality=95, subsampling=0, progressive=False)


if __name__ == "__main__":
    main()
