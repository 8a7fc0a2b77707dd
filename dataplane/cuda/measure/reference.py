"""The reference beside which models are measured: a PyTorch CUDA graph of the same architecture.

Reads one line per order from stdin, "MODEL REPLAYS", and answers each with the median time of one
replay with its synchronisation, in microseconds, on a line. TF32 is off. "MODEL REPLAYS tuned"
lets cuDNN try out its algorithms first (torch.backends.cudnn.benchmark).
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


def capture(name, tuned):
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.benchmark = tuned
    model = getattr(torchvision.models, NAMES[name])(weights=None).eval().cuda()
    picture = torch.randn(1, 3, 224, 224, device="cuda")
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
        key = (name, "tuned" in rest)
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
