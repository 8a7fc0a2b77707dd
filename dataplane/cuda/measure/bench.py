"""A server of its own, what `ferry bench` says of it, and tables of that."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

PICTURES = {"resnet50": (546, 500), "deeplabv3-resnet50": (1920, 1080)}


class Server:
    """A ferryd with models of its own."""

    def __init__(self, args, models, gpu, port, instances=1):
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
            top = top.replace("instances = 1\n", f"instances = {instances}\n")
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


def jpeg_picture(args):
    """The picture as a JPEG file, if there is something to write one."""
    try:
        from PIL import Image
    except ImportError:
        print("(no Pillow: JPEG left out)", file=sys.stderr)
        return None
    path = picture(args, "resnet50").with_suffix(".jpg")
    Image.open(picture(args, "resnet50")).save(path, quality=90)
    return path


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
