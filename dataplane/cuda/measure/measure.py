#!/usr/bin/env python3
"""Measures models on a GPU, every placement beside the others, and prints tables.

Needs the binaries ferry and ferryd, a libonnxruntime.so with its CUDA provider, and, for the
comparison with PyTorch, torch and torchvision. See docs/MEASURING.md, "On a GPU".
"""

import argparse
import json
import os
import pathlib
import signal
import statistics
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
MODELS = ["resnet50", "mobilenetv3-small", "efficientnet-b0"]
PICTURES = {"resnet50": (546, 500), "deeplabv3-resnet50": (1920, 1080)}
WAYS = ["local/cuda:0", "cuda-ipc", "shm/pageable", "shm/pinned", "shm/mapped", "shm/auto"]


class Server:
    """A ferryd with models of its own."""

    def __init__(self, args, models, gpu, port):
        self.args, self.url = args, f"http://127.0.0.1:{port}"
        folder = args.out / f"models-{port}"
        for model in models:
            if not (folder / f"{model}.onnx").exists():
                run([args.ferry, "zoo", "write", model, "--out", folder])
            toml, plain = folder / f"{model}.toml", folder / f"{model}.toml.plain"
            if not plain.exists():
                plain.write_text(toml.read_text())
            text = plain.read_text()
            top, _, rest = text.partition("[picture]")
            table = "".join(f"{key} = {value}\n" for key, value in gpu.items())
            run_on = 'run = "lane"\n' if gpu.get("completion") == '"wait"' else ""
            device = f'device = "{args.device}"\n'
            toml.write_text(f"{device}{run_on}{top}[picture]{rest}\n[gpu]\n{table}")
        log = open(args.out / f"ferryd-{port}.log", "w")
        command = [args.ferryd, "--listen", f"127.0.0.1:{port}", "--models", folder,
                   "--store", f"sqlite:{args.out}/store-{port}.db", "--onnxruntime",
                   args.onnxruntime, "--quota-in-flight", "4096", "--quota-bytes", str(64 << 30)]
        self.process = subprocess.Popen([str(c) for c in command], stdout=log, stderr=log)
        for _ in range(600):
            if self.process.poll() is not None:
                sys.exit(f"ferryd ended: see {log.name}")
            if subprocess.run([args.ferry, "models", "--server", self.url],
                              capture_output=True).returncode == 0:
                return
            time.sleep(0.1)
        sys.exit("ferryd does not answer")

    def bench(self, model, transports, memory, requests, rounds=1, **options):
        """One line of JSON per way."""
        requests = max(1, round(requests * self.args.scale))
        if self.args.device == "cpu":
            memory = [place for place in memory or [] if place == "pageable"]
            transports = [transport for transport in transports if transport != "cuda-ipc"]
        command = [self.args.ferry, "--json", "bench", "--server", self.url, "--model", model,
                   "--transport", ",".join(transports), "--requests", requests, "--rounds", rounds]
        if memory:
            command += ["--memory", ",".join(memory)]
        for key, value in options.items():
            command += [f"--{key.replace('_', '-')}", value]
        return [json.loads(line) for line in run(command).splitlines() if line.startswith("{")]

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(30)


def run(command):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode not in (0, 5):
        sys.exit(f"{' '.join(map(str, command))}: {done.returncode}\n{done.stderr[-2000:]}")
    if done.returncode == 5:
        print("some requests failed:", done.stderr[-300:], file=sys.stderr)
    return done.stdout


def label(row):
    return row["transport"] + (f"/{row['memory']}" if row.get("memory") else "")


def us(row, stage, quantile="p50"):
    value = (row["stages"].get(stage) or {}).get(quantile)
    return None if value is None else value / 1000


def text(value, digits=0):
    return "–" if value is None else f"{value:.{digits}f}"


def table(head, rows, out):
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    print("\n".join(lines) + "\n", flush=True)
    out.append("\n".join(lines) + "\n")


def picture(args, model):
    width, height = PICTURES[model]
    path = args.out / f"{width}x{height}.ppm"
    if not path.exists():
        body = bytes((x * 7 + x // 251) & 255 for x in range(width * height * 3))
        path.write_bytes(f"P6 {width} {height} 255\n".encode() + body)
    return path


def against_torch(args, out):
    """local over device memory beside a PyTorch CUDA graph, in turn."""
    server = Server(args, MODELS, {"streams": 1, "completion": '"wait"'}, 50061)
    torch = subprocess.Popen([sys.executable, HERE / "reference.py"], stdin=subprocess.PIPE,
                             stdout=subprocess.PIPE, text=True)

    def replay(model, tuned):
        torch.stdin.write(f"{model} 200{' tuned' if tuned else ''}\n")
        torch.stdin.flush()
        return float(torch.stdout.readline())

    rows = []
    for model in MODELS:
        ours, plain, tuned, infer = [], [], [], []
        for _ in range(args.rounds):
            (row,) = server.bench(model, ["local"], ["cuda:0"], 200, warmup=50, wait="spin")
            ours.append(row["total_ns"]["p50"] / 1000)
            infer.append(us(row, "infer"))
            plain.append(replay(model, False))
            tuned.append(replay(model, True))
        ratio = lambda other: statistics.median(a / b for a, b in zip(ours, other))
        rows.append([model, text(statistics.median(ours)), text(statistics.median(infer)),
                     text(statistics.median(plain)), text(statistics.median(tuned)),
                     text(ratio(plain), 2), text(ratio(tuned), 2)])
    torch.stdin.close()
    server.stop()
    table(["model (fp32, batch 1)", "local p50 µs", "infer µs", "PyTorch graph µs", "tuned µs",
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
    for model, requests in (("resnet50", 300), ("deeplabv3-resnet50", 16)):
        server = Server(args, [model], {"streams": args.streams}, 50063)
        image, body = picture(args, model), []
        for clients in (1, 2, 4, 8, 16):
            rows = server.bench(model, ["local", "cuda-ipc", "shm"],
                                ["cuda:0", "pageable", "pinned", "mapped", "auto"], requests,
                                rounds=2, warmup=10, clients=clients, image=image, kind="raw")
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


def gpu_memory(pid):
    """MiB that the process holds on the GPU."""
    if not pathlib.Path("/dev/nvidiactl").exists():
        return "–"
    query = ["nvidia-smi", "--query-compute-apps=pid,used_memory", "--format=csv,noheader,nounits"]
    rows = [line.split(", ") for line in run(query).splitlines() if ", " in line]
    of_pid = [used for number, used in rows if number == str(pid)]
    if of_pid:
        return of_pid[0]
    query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    return run(query).splitlines()[0] + " (device)"


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
             "streams": streams, "priority": priorities}
    out = []
    for name, part in parts.items():
        if not args.parts or name in args.parts:
            start = time.time()
            part(args, out)
            print(f"({name}: {time.time() - start:.0f} s)\n", flush=True)
            (args.out / "tables.md").write_text("\n".join(out))


if __name__ == "__main__":
    main()
