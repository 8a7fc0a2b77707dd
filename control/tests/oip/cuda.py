"""CUDA shared memory of a server of the Open Inference Protocol, on a machine with a GPU.

    python control/tests/oip/cuda.py 127.0.0.1:PORT [MODEL]

MODEL has one FP32 input and one FP32 output of fixed shapes, and runs on GPU 0; without it only
`echo` is asked. Needs tritonclient.grpc, NumPy and CUDA's runtime library (libcudart, found by its
name, or by the environment variable CUDART). Prints a line for each check, then how long a request
takes with its tensors here and there, and ends with 1 if a check failed.
"""

import base64
import ctypes
import glob
import multiprocessing
import os
import signal
import sys
import time

import numpy as np
import tritonclient.grpc as grpc
import tritonclient.utils.shared_memory as shm
from tritonclient.utils import InferenceServerException

from check import run

CHECKS = []
TO_DEVICE, TO_HOST = 1, 2


def check(function):
    CHECKS.append(function)
    return function


def runtime():
    named = os.environ.get("CUDART")
    found = [named] if named else glob.glob("/usr/local/cuda*/lib64/libcudart.so.*") + ["libcudart.so"]
    return ctypes.CDLL(found[0])


class Device:
    """Memory of GPU 0, which goes with the process."""

    def __init__(self, size):
        self.lib = runtime()
        self.size = size
        self.at = ctypes.c_void_p()
        self.call("cudaMalloc", ctypes.byref(self.at), ctypes.c_size_t(size))

    def call(self, name, *args):
        code = getattr(self.lib, name)(*args)
        assert code == 0, f"{name} ended with {code}"

    def handle(self):
        raw = (ctypes.c_ubyte * 64)()
        self.lib.cudaIpcGetMemHandle.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
        self.call("cudaIpcGetMemHandle", ctypes.byref(raw), self.at)
        return base64.b64encode(bytes(raw))

    def copy(self, to, source, size, kind):
        self.call("cudaMemcpy", ctypes.c_void_p(to), ctypes.c_void_p(source), ctypes.c_size_t(size), kind)
        self.call("cudaDeviceSynchronize")

    def write(self, data, offset=0):
        self.copy(self.at.value + offset, data.ctypes.data, data.nbytes, TO_DEVICE)

    def read(self, count, offset=0):
        data = np.empty(count, np.float32)
        self.copy(data.ctypes.data, self.at.value + offset, data.nbytes, TO_HOST)
        return data

    def free(self):
        self.call("cudaFree", self.at)


class Model:
    """What one model takes and gives, and a request whose answer is known."""

    def __init__(self, client, name, shape=None):
        told = client.get_model_metadata(name)
        (self.input,), (self.output,) = told.inputs, told.outputs
        self.name = name
        self.shape = shape or [max(1, size) for size in self.input.shape]
        self.data = np.random.default_rng(7).random(self.shape, np.float32)
        self.right = self.ask(client, in_message(self)).as_numpy(self.output.name).ravel()

    def ask(self, client, given, wanted=None):
        return client.infer(self.name, [given], outputs=[wanted] if wanted else None)


def in_message(model):
    given = grpc.InferInput(model.input.name, model.shape, "FP32")
    given.set_data_from_numpy(model.data)
    return given


def in_region(model, region, offset=0):
    given = grpc.InferInput(model.input.name, model.shape, "FP32")
    given.set_shared_memory(region, model.data.nbytes, offset)
    return given


def to_region(model, region, offset=0):
    wanted = grpc.InferRequestedOutput(model.output.name)
    wanted.set_shared_memory(region, model.right.nbytes, offset)
    return wanted


def close(model, got):
    np.testing.assert_allclose(got, model.right, rtol=2e-3, atol=1e-5)


def refused(call, *words):
    try:
        call()
    except InferenceServerException as error:
        for word in words:
            assert word in error.message(), error.message()
        return
    raise AssertionError("not refused")


@check
def regions_are_told_and_forgotten(client, models):
    memory = Device(4096)
    client.register_cuda_shared_memory("a", memory.handle(), 0, 4096)
    (told,) = client.get_cuda_shared_memory_status().regions.values()
    assert (told.name, told.device_id, told.byte_size) == ("a", 0, 4096)
    assert not client.get_system_shared_memory_status().regions
    client.unregister_system_shared_memory("a")
    refused(lambda: client.register_cuda_shared_memory("a", memory.handle(), 0, 4096), "unregister")
    refused(lambda: client.register_cuda_shared_memory("b", memory.handle(), 0, 4096), "already")
    client.unregister_cuda_shared_memory("a")
    assert not client.get_cuda_shared_memory_status().regions
    client.register_cuda_shared_memory("a", memory.handle(), 0, 4096)
    client.unregister_cuda_shared_memory()
    memory.free()


@check
def what_is_no_memory_is_refused(client, models):
    memory = Device(4096)
    junk, short = (base64.b64encode(b"x" * size) for size in (64, 63))
    refused(lambda: client.register_cuda_shared_memory("j", junk, 0, 4096), "raw_handle")
    refused(lambda: client.register_cuda_shared_memory("j", short, 0, 4096), "raw_handle", "63")
    handle = memory.handle()
    refused(lambda: client.register_cuda_shared_memory("j", handle, 99, 4096), "device_id", "99")
    refused(lambda: client.register_cuda_shared_memory("j", handle, -1, 4096), "device_id")
    refused(lambda: client.register_cuda_shared_memory("j", handle, 0, 0), "byte_size")
    refused(lambda: client.register_cuda_shared_memory("j", handle, 0, 1 << 32), "byte_size")
    memory.free()


@check
def answers_are_those_of_the_message(client, models):
    for model in models:
        size = model.data.nbytes + model.right.nbytes + 8192
        memory = Device(size)
        client.register_cuda_shared_memory("r", memory.handle(), 0, size)
        behind = (model.data.nbytes + 4095) // 4096 * 4096
        # In place, and where kernels could not read it in place.
        for at, to in [(0, behind), (4, behind + 4), (0, behind + 12), (256, behind + 512)]:
            memory.write(model.data, at)
            memory.write(np.zeros(model.right.size, np.float32), to)
            model.ask(client, in_region(model, "r", at), to_region(model, "r", to))
            close(model, memory.read(model.right.size, to))
            answer = model.ask(client, in_region(model, "r", at))
            close(model, answer.as_numpy(model.output.name).ravel())
            memory.write(np.zeros(model.right.size, np.float32), to)
            model.ask(client, in_message(model), to_region(model, "r", to))
            close(model, memory.read(model.right.size, to))
        client.unregister_cuda_shared_memory()
        memory.free()


@check
def what_does_not_lie_inside_is_refused(client, models):
    for model in models:
        memory = Device(model.data.nbytes)
        client.register_cuda_shared_memory("r", memory.handle(), 0, model.data.nbytes)
        refused(lambda: model.ask(client, in_region(model, "r", 4)), "shared_memory_byte_size")
        small = grpc.InferRequestedOutput(model.output.name)
        small.set_shared_memory("r", model.right.nbytes - 4)
        refused(lambda: model.ask(client, in_message(model), small), "room")
        client.unregister_cuda_shared_memory()
        refused(lambda: model.ask(client, in_region(model, "r")), "r")
        memory.free()


def owner(size, pipe):
    memory = Device(size)
    pipe.send(memory.handle())
    pipe.recv()


@check
def an_owner_that_is_killed_hurts_nobody(client, models):
    """Its requests go on, of whatever its memory holds, and so do those of others."""
    for model in models:
        size = model.data.nbytes + model.right.nbytes + 8192
        here, there = multiprocessing.Pipe()
        process = multiprocessing.get_context("spawn").Process(target=owner, args=(size, there))
        process.start()
        client.register_cuda_shared_memory("r", here.recv(), 0, size)
        behind = (model.data.nbytes + 4095) // 4096 * 4096
        for turn in range(40):
            if turn == 20:
                os.kill(process.pid, signal.SIGKILL)
                process.join()
            model.ask(client, in_region(model, "r"), to_region(model, "r", behind))
            close(model, model.ask(client, in_message(model)).as_numpy(model.output.name).ravel())
        client.unregister_cuda_shared_memory()
        close(model, model.ask(client, in_message(model)).as_numpy(model.output.name).ravel())


def median_us(call, count=400):
    took = []
    for _ in range(count):
        start = time.perf_counter()
        call()
        took.append(time.perf_counter() - start)
    return float(np.median(took)) * 1e6


def times(client, model):
    size = model.data.nbytes + model.right.nbytes + 8192
    behind = (model.data.nbytes + 4095) // 4096 * 4096
    memory = Device(size)
    memory.write(model.data)
    client.register_cuda_shared_memory("cuda", memory.handle(), 0, size)
    file = shm.create_shared_memory_region("system", "/ferry-cuda-check", size)
    shm.set_shared_memory_region(file, [model.data])
    client.register_system_shared_memory("system", "/ferry-cuda-check", size)
    try:
        ways = {
            "in the message": (in_message(model), None),
            "system shared memory": (in_region(model, "system"), to_region(model, "system", behind)),
            "CUDA shared memory": (in_region(model, "cuda"), to_region(model, "cuda", behind)),
        }
        for turn in range(2):
            for name, way in ways.items():
                print(f"{model.name}: {name}: p50 {median_us(lambda: model.ask(client, *way)):.0f} us")
    finally:
        client.unregister_cuda_shared_memory()
        client.unregister_system_shared_memory()
        shm.destroy_shared_memory_region(file)


def main():
    client = grpc.InferenceServerClient(sys.argv[1])
    models = [Model(client, "echo", [3, 224, 224])] + [Model(client, name) for name in sys.argv[2:]]
    failed = run(CHECKS, client, models, tidy=client.unregister_cuda_shared_memory)
    for model in models:
        times(client, model)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
