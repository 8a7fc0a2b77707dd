"""Registered shared memory."""

import os
import threading
from contextlib import contextmanager

import grpc
from tritonclient.grpc import service_pb2 as pb

from .base import VALUES, Answer, case, good, shown

MEMORY = "shared memory"
LARGEST = 2**63 - 1


def key(side, name="conformance"):
    return f"/oip-{name}-{side.label}"


@contextmanager
def file(side, data=VALUES, name="conformance"):
    """A file of shared memory; its path."""
    path = f"/dev/shm{key(side, name)}"
    with open(path, "wb") as made:
        made.write(data)
    try:
        yield path
    finally:
        os.path.exists(path) and os.remove(path)


def unregister(side, name=""):
    return side.call("SystemSharedMemoryUnregister", pb.SystemSharedMemoryUnregisterRequest(name=name))


def register(side, name="region", of=None, offset=0, byte_size=len(VALUES)):
    asked = pb.SystemSharedMemoryRegisterRequest(
        name=name, key=key(side) if of is None else of, offset=offset, byte_size=byte_size
    )
    return side.call("SystemSharedMemoryRegister", asked)


@contextmanager
def region(side, data=VALUES, **more):
    with file(side, data) as path:
        register(side, byte_size=len(data), **more)
        try:
            yield path
        finally:
            try:
                unregister(side, "region")
            except grpc.RpcError:
                pass  # the server died of the case, which the table says


def place(tensor, name="region", byte_size=len(VALUES), offset=None):
    parameters = tensor.parameters
    parameters["shared_memory_region"].string_param = name
    if byte_size is not None:
        parameters["shared_memory_byte_size"].int64_param = byte_size
    if offset is not None:
        parameters["shared_memory_offset"].int64_param = offset


def from_memory(side, **more):
    """A request whose input lies in the region."""
    request = good(side)
    del request.raw_input_contents[:]
    place(request.inputs[0], **more)
    return request


def to_memory(side, **more):
    """A request whose output goes to the region."""
    request = good(side)
    place(request.outputs.add(name="OUTPUT0"), **more)
    return request


def registers(what, of=key, **given):
    """A registration beside a file of 16 bytes; `of` makes the key of a side."""

    def run(side):
        with file(side):
            register(side, of=of(side), **given)
            unregister(side, given.get("name", "region"))
        return Answer("OK")

    case(MEMORY, f"registering {what}")(run)


registers("a file of 16 bytes")
registers("a key without a slash", of=lambda s: key(s)[1:])
registers("a key with ..", of=lambda s: "/../dev/shm" + key(s))
registers("a key with a second slash", of=lambda s: "/." + key(s))
registers("a key with a NUL", of=lambda s: key(s) + "\0x")
registers("an empty key", of=lambda s: "")
registers("a key of no file", of=lambda s: "/oip-there-is-none")
registers("without a name", name="")
registers("no bytes", byte_size=0)
registers("a byte more than the file has", byte_size=17)
registers("from an offset behind the end", offset=4096)
registers("an offset and a size whose sum overflows", offset=2**64 - 8, byte_size=16)
registers("2^63 bytes", byte_size=2**63)


@case(MEMORY, "registering a name twice")
def _(side):
    with region(side):
        register(side)
    return Answer("OK")


@case(MEMORY, "registering a link to a file")
def _(side):
    with file(side, name="target") as target:
        path = f"/dev/shm{key(side)}"
        os.symlink(target, path)
        try:
            register(side)
            unregister(side, "region")
        finally:
            os.remove(path)
    return Answer("OK")


@case(MEMORY, "status of a region")
def _(side):
    with region(side):
        told = side.call("SystemSharedMemoryStatus", pb.SystemSharedMemoryStatusRequest(name="region"))
        return Answer("OK", f"{told.regions['region'].byte_size} bytes")


@case(MEMORY, "status of an unknown region")
def _(side):
    asked = pb.SystemSharedMemoryStatusRequest(name="none")
    side.call("SystemSharedMemoryStatus", asked)
    return Answer("OK")


@case(MEMORY, "unregistering an unknown region")
def _(side):
    unregister(side, "none")
    return Answer("OK")


@case(MEMORY, "registering memory of a GPU with a handle that is none")
def _(side):
    asked = pb.CudaSharedMemoryRegisterRequest(name="gpu", raw_handle=b"x" * 64, byte_size=16)
    side.call("CudaSharedMemoryRegister", asked)
    return Answer("OK")


@case(MEMORY, "input and output in a region")
def _(side):
    with region(side, VALUES + bytes(16)) as path:
        request = from_memory(side)
        place(request.outputs.add(name="OUTPUT0"), offset=16)
        response = side.call("ModelInfer", request)
        with open(path, "rb") as made:
            is_same = made.read() == VALUES * 2
        empty = list(response.raw_output_contents) == [b""]
        return Answer("OK", "the same bytes" if is_same and empty else "other bytes")


def uses(name, request, data=VALUES, **more):
    """A request beside a region of 16 bytes."""

    def run(side):
        with region(side, data):
            return shown(side.call("ModelInfer", request(side)))

    case(MEMORY, name, **more)(run)


uses("input from a region that is not registered", lambda s: from_memory(s, name="none"))
uses("output to a region that is not registered", lambda s: to_memory(s, name="none"))
uses("input of one byte too few", lambda s: from_memory(s, byte_size=15))
uses("input of one byte too many", lambda s: from_memory(s, byte_size=17))
uses("input that ends behind its region", lambda s: from_memory(s, offset=4))
uses("input at a negative offset", lambda s: from_memory(s, offset=-4))
uses("input of a negative size", lambda s: from_memory(s, byte_size=-16))
uses("input whose offset and size overflow", lambda s: from_memory(s, offset=LARGEST))
uses("input without a size", lambda s: from_memory(s, byte_size=None))
uses("room of one byte too few for the output", lambda s: to_memory(s, byte_size=15))
uses("output that ends behind its region", lambda s: to_memory(s, offset=4))
uses("output at a negative offset", lambda s: to_memory(s, offset=-4))
uses("output whose offset and size overflow", lambda s: to_memory(s, offset=LARGEST))


def mixed(edit):
    def request(side):
        made = from_memory(side)
        edit(made)
        return made

    return request


uses(
    "input from a region, and bytes beside it",
    mixed(lambda r: r.raw_input_contents.append(VALUES)),
)
uses(
    "input from a region, and numbers beside it",
    mixed(lambda r: r.inputs[0].contents.fp32_contents.extend([0.5] * 4)),
)
uses(
    "the region as a number",
    mixed(lambda r: setattr(r.inputs[0].parameters["shared_memory_region"], "int64_param", 1)),
)
uses(
    "the size as a text",
    mixed(lambda r: setattr(r.inputs[0].parameters["shared_memory_byte_size"], "string_param", "16")),
)


def classes_in_memory(side):
    request = to_memory(side)
    request.outputs[0].parameters["classification"].int64_param = 2
    return request


uses("classes into a region", classes_in_memory)

# The file is larger than a page, so that what is cut off is no longer there at all.
LARGE = bytes(602112)


def large(side):
    request = from_memory(side, byte_size=len(LARGE))
    del request.inputs[0].shape[:]
    request.inputs[0].shape.extend([3, 224, 224])
    return request


@case(MEMORY, "a region that is unregistered while it is used", is_deadly=True)
def _(side):
    wrong, unregistering = set(), set()

    def ask():
        for _ in range(50):
            try:
                if side.call("ModelInfer", large(side)).raw_output_contents[0] != LARGE:
                    wrong.add("other bytes")
            except grpc.RpcError as error:
                # Whether it is there when a request comes is a matter of chance.
                if error.code() != grpc.StatusCode.NOT_FOUND:
                    wrong.add(error.code().name)

    with region(side, LARGE):
        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            try:
                unregister(side, "region")
                register(side, byte_size=len(LARGE))
            except grpc.RpcError as error:
                unregistering.add(error.code().name)
        for thread in threads:
            thread.join()
    refused = f"; unregistering: {', '.join(sorted(unregistering))}" if unregistering else ""
    return Answer(", ".join(sorted(wrong)) or "OK", f"right bytes, or NOT_FOUND{refused}")


@case(MEMORY, "input from a file that was cut short after it was registered", is_deadly=True)
def _(side):
    with region(side, LARGE) as path:
        os.truncate(path, 0)
        return shown(side.call("ModelInfer", large(side)), LARGE)


@case(MEMORY, "output to a file that was cut short after it was registered", is_deadly=True)
def _(side):
    with region(side) as path:
        os.truncate(path, 0)
        return shown(side.call("ModelInfer", to_memory(side)), b"")
