"""The reference beside which models are measured: a PyTorch CUDA graph of the same architecture.

Reads one line per order from stdin, "MODEL REPLAYS", and answers each with the median time of one
replay with its synchronisation, in microseconds, on a line. TF32 is off, unless "tf32" follows.
"MODEL REPLAYS tuned" lets cuDNN try out its algorithms first (torch.backends.cudnn.benchmark);
with TF32 it also keeps channels innermost.
"""

import statistics
import sys
import time

import torch
import torchvision

NAMES = {
    "resnet50": "resnet50",
    "mobilenetv3-small": "mobilenet_v3_small",
    "efficientnet-b0": "efficientnet_b0",
}


def capture(name, tuned, tf32):
    torch.backends.cudnn.allow_tf32 = tf32
    torch.backends.cuda.matmul.allow_tf32 = tf32
    torch.backends.cudnn.benchmark = tuned
    layout = torch.channels_last if tuned and tf32 else torch.contiguous_format
    model = getattr(torchvision.models, NAMES[name])(weights=None).eval().cuda()
    model = model.to(memory_format=layout)
    picture = torch.randn(1, 3, 224, 224, device="cuda").to(memory_format=layout)
    side = torch.cuda.Stream()
    with torch.no_grad(), torch.cuda.stream(side):
        for _ in range(5):
            model(picture)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.no_grad(), torch.cuda.graph(graph):
        output = model(picture)
    return graph, (model, picture, output)


def main():
    graphs = {}
    for line in sys.stdin:
        name, replays, *rest = line.split()
        key = (name, "tuned" in rest, "tf32" in rest)
        if key not in graphs:
            graphs[key] = capture(*key)
            for _ in range(50):
                graphs[key][0].replay()
            torch.cuda.synchronize()
        times = []
        for _ in range(int(replays)):
            start = time.perf_counter()
            graphs[key][0].replay()
            torch.cuda.synchronize()
            times.append((time.perf_counter() - start) * 1e6)
        print(statistics.median(times), flush=True)


if __name__ == "__main__":
    main()
