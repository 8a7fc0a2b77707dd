#!/usr/bin/env python3
"""Measures models on a GPU, every placement beside the others, and prints tables.

Needs the binaries ferry and ferryd, a libonnxruntime.so with its CUDA provider, and, for the
comparison with PyTorch, torch and torchvision. See docs/MEASURING.md, "On a GPU".
"""

import argparse
import itertools
import os
import pathlib
import statistics
import subprocess
import sys
import time

from bench import (PICTURES, Server, gpu_memory, jpeg_picture, label, picture, table, text, us)

HERE = pathlib.Path(__file__).resolve().parent
MODELS = ["resnet50", "mobilenetv3-small", "efficientnet-b0"]
WAYS = ["local/cuda:0", "cuda-ipc", "shm/pageable", "shm/pinned", "shm/mapped", "shm/auto"]


def against_torch(args, out):
    """local over device memory beside a PyTorch CUDA graph, in turn."""
    alone = {"streams": 1, "completion": '"wait"'}
    servers = {"fp32": Server(args, MODELS, alone, 50061),
               "tf32": Server(args, MODELS, {**alone, "precision": '"tf32"',
                                             "channels_last": "true"}, 50066)}
    torch = subprocess.Popen([sys.executable, HERE / "reference.py"], stdin=subprocess.PIPE,
                             stdout=subprocess.PIPE, text=True)

    def replay(model, precision, tuned):
        torch.stdin.write(f"{model} 200 {precision}{' tuned' if tuned else ''}\n")
        torch.stdin.flush()
        return float(torch.stdout.readline())

    rows = []
    for precision, model in itertools.product(servers, MODELS):
        server = servers[precision]
        ours, plain, tuned, infer = [], [], [], []
        for _ in range(args.rounds):
            (row,) = server.bench(model, ["local"], ["cuda:0"], 200, warmup=50, wait="spin")
            ours.append(row["total_ns"]["p50"] / 1000)
            infer.append(us(row, "infer"))
            plain.append(replay(model, precision, False))
            tuned.append(replay(model, precision, True))
        ratio = lambda other: statistics.median(a / b for a, b in zip(ours, other))
        rows.append([model, precision, text(statistics.median(ours)), text(statistics.median(infer)),
                     text(statistics.median(plain)), text(statistics.median(tuned)),
                     text(ratio(plain), 2), text(ratio(tuned), 2)])
    torch.stdin.close()
    for server in servers.values():
        server.stop()
    table(["model, batch 1", "precision", "local p50 µs", "infer µs", "PyTorch graph µs", "tuned µs",
           "ratio", "ratio to tuned"], rows, out)


def one_client(args, out):
    """What each way adds to local, one client, raw pictures; the lane runs the model."""
    server = Server(args, ["resnet50"], {"streams": 1, "completion": '"wait"'}, 50062)
    image = picture(args, "resnet50")
    rows = server.bench("resnet50", ["local", "cuda-ipc", "shm"],
                        ["cuda:0", "pageable", "pinned", "mapped", "auto"], 400,
                        rounds=8, warmup=50, image=image, kind="raw", wait="spin")
    rows = [row for row in rows if label(row) in WAYS[:6]] or rows
    base = rows[0]["total_ns"]["p50"] / 1000
    stages = ["fill", "copy_in", "preprocess", "infer", "postprocess", "copy_out", "network"]
    body = [[label(row), text(row["total_ns"]["p50"] / 1000, 1),
             text(row["total_ns"]["p50"] / 1000 - base, 1),
             *[text(us(row, stage), 1) for stage in stages], row["errors"]] for row in rows]
    table(["ResNet50, raw, 1 client", "p50 µs", "over local", *stages, "errors"], body, out)
    server.stop()


def placements(args, out):
    """Every placement at 1 to 16 clients, two models."""
    only = [model for model in PICTURES if model in args.parts]
    for model, requests in (("resnet50", 300), ("deeplabv3-resnet50", 8)):
        if only and model not in only:
            continue
        server = Server(args, [model], {"streams": args.streams}, 50063)
        image, body = picture(args, model), []
        for clients in (1, 2, 4, 8, 16):
            rows = server.bench(model, ["local", "cuda-ipc", "shm"],
                                ["cuda:0", "pageable", "pinned", "mapped", "auto"], requests,
                                rounds=2, warmup=max(2, requests // 10), clients=clients, image=image, kind="raw")
            for row in (row for row in rows if label(row) in WAYS[:6]):
                total = row["total_ns"]
                body.append([clients, label(row), text(total["p50"] / 1000),
                             text(total["p99"] / 1000), text(us(row, "copy_in"), 1),
                             text(us(row, "preprocess"), 1), text(us(row, "queue")),
                             text(us(row, "infer")), text(us(row, "copy_out"), 1),
                             text((row["stages"].get("infer") or {}).get("cov"), 2),
                             text(total["cov"], 2), text(row["throughput_rps"]), row["errors"]])
        table([f"{model}: clients", "way", "p50 µs", "p99 µs", "copy_in", "preprocess", "queue",
               "infer", "copy_out", "CoV infer", "CoV total", "req/s", "errors"], body, out)
        server.stop()


def streams(args, out):
    """What more streams buy: 16 clients of ResNet50 over shm/pinned."""
    body = []
    for count in (1, 2, 4, 8, 16):
        server = Server(args, ["resnet50"], {"streams": count}, 50064)
        used = gpu_memory(server.process.pid)
        (row,) = server.bench("resnet50", ["shm"], ["pinned"], 300, warmup=20, clients=16,
                              image=picture(args, "resnet50"), kind="raw")
        alone, among = urgent(args, server, "pinned")
        body.append([count, text(row["total_ns"]["p50"] / 1000), text(row["throughput_rps"]),
                     text(us(row, "infer")), used, gpu_memory(server.process.pid), text(alone),
                     text(among), text(among / alone, 2)])
        server.stop()
    table(["streams", "p50 µs, 16 clients", "req/s", "infer µs", "GPU MiB loaded",
           "GPU MiB after 16 sessions", "urgent alone µs", "urgent among 15", "ratio"], body, out)


def urgent(args, server, memory, transport="shm"):
    """p50 of one urgent client alone, and beside 15 others that never pause."""
    options = dict(image=picture(args, "resnet50"), kind="raw", priority=1, warmup=20)
    way = ([transport], [memory] if transport != "cuda-ipc" else None)
    (alone,) = server.bench("resnet50", *way, 200, **options)
    load = [args.ferry, "--json", "bench", "--server", server.url, "--model", "resnet50",
            "--transport", transport, "--requests", 100000, "--clients", 15, "--rounds", 1,
            "--image", options["image"], "--kind", "raw", "--no-record"]
    if way[1]:
        load += ["--memory", memory]
    others = subprocess.Popen([str(part) for part in load], stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL)
    time.sleep(2)
    (among,) = server.bench("resnet50", *way, 300, **options)
    others.kill()
    others.wait()
    time.sleep(0.5)
    return alone["total_ns"]["p50"] / 1000, among["total_ns"]["p50"] / 1000


def priorities(args, out):
    server = Server(args, ["resnet50"], {"streams": args.streams}, 50065)
    body = []
    for transport, memory in [("shm", "pageable"), ("shm", "pinned"), ("shm", "mapped"),
                              ("cuda-ipc", None)]:
        alone, among = urgent(args, server, memory, transport)
        way = transport + (f"/{memory}" if memory else "")
        body.append([way, text(alone), text(among), text(among / alone, 2)])
    server.stop()
    table(["one urgent client", "alone p50 µs", "among 15", "ratio"], body, out)


def unregistered(args, out):
    """Payloads that lie in memory that is not registered (grpc), or are made here (JPEG)."""
    jpeg, body = jpeg_picture(args), []
    raw = {"image": picture(args, "resnet50"), "kind": "raw"}
    ways = [("shm/pinned, tensor", 1, ["shm"], ["pinned"], {}),
            ("grpc, tensor", 1, ["grpc"], None, {}),
            ("shm/pinned, raw", 1, ["shm"], ["pinned"], raw)]
    if jpeg:
        as_jpeg = {"image": jpeg, "kind": "jpeg"}
        ways.append(("shm/auto, jpeg", 1, ["shm"], ["auto"], as_jpeg))
        ways.append(("shm/auto, jpeg, 8 instances", 8, ["shm"], ["auto"], as_jpeg))
    stages = ("decode", "preprocess", "queue", "copy_in", "infer", "copy_out")
    for instances in (1, 8):
        gpu = {"streams": max(2, args.streams // instances)}
        server = Server(args, ["resnet50"], gpu, 50067 + instances, instances)
        for clients, (name, _, transports, memory, options) in itertools.product(
                (1, 16), [way for way in ways if way[1] == instances]):
            (row,) = server.bench("resnet50", transports, memory, 200, warmup=20,
                                  clients=clients, **options)
            body.append([clients, name, text(row["total_ns"]["p50"] / 1000),
                         *[text(us(row, stage)) for stage in stages],
                         text(row["throughput_rps"]), row["errors"]])
        server.stop()
    table(["clients", "way", "p50 µs", *stages, "req/s", "errors"], body, out)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ferry", type=pathlib.Path, default="target/release/ferry")
    parser.add_argument("--ferryd", type=pathlib.Path, default="target/release/ferryd")
    parser.add_argument("--onnxruntime", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--device", default="cuda:0", help="cpu rehearses without a GPU")
    parser.add_argument("--scale", type=float, default=1, help="of the numbers of requests")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("parts", nargs="*", default=[])
    args = parser.parse_args()
    args.out, args.ferry, args.ferryd = (
        path.resolve() for path in (args.out, args.ferry, args.ferryd))
    args.out.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("RUST_LOG", "info")
    parts = {"torch": against_torch, "one": one_client, "placements": placements,
             "streams": streams, "priority": priorities, "unregistered": unregistered}
    out = []
    for name, part in parts.items():
        if not args.parts or name in args.parts:
            start = time.time()
            part(args, out)
            print(f"({name}: {time.time() - start:.0f} s)\n", flush=True)
            (args.out / "tables.md").write_text("\n".join(out))


if __name__ == "__main__":
    main()
