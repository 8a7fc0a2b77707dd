"""Cases of the protocol, and what a server answers to each.

A case is a function that gets a `Side` and returns its answer as text: a status, and what came with
it. It may also raise what the client's library raises for a status.
"""

import dataclasses
import http.client
import re
import socket

import grpc
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub

TIMEOUT_SECONDS = 20
UNLIMITED = [(f"grpc.max_{way}_message_length", -1) for way in ("send", "receive")]

CASES = []


@dataclasses.dataclass
class Answer:
    """`code` is compared between servers; `text` is for people."""

    code: str
    text: str = ""


@dataclasses.dataclass
class Case:
    group: str
    name: str
    run: object
    protocol: str = "grpc"
    # May end the server. Such cases come last.
    is_deadly: bool = False

    @property
    def key(self):
        return self.group, self.name


class Side:
    """One server under test. `label` tells the shared memory of the two sides apart."""

    def __init__(self, label, address, http, model):
        self.label, self.address, self.http, self.model = label, address, http, model
        self.channel = self.stub = None
        self.connect()

    def connect(self):
        if self.channel:
            self.channel.close()
        # A channel of its own for each side and case: none inherits another one's trouble.
        options = [*UNLIMITED, ("grpc.use_local_subchannel_pool", 1)]
        self.channel = grpc.insecure_channel(self.address, options=options)
        self.stub = GRPCInferenceServiceStub(self.channel)

    def is_up(self):
        host, _, port = self.address.rpartition(":")
        try:
            socket.create_connection((host, int(port)), timeout=5).close()
            return self.stub.ServerLive(pb.ServerLiveRequest(), timeout=5).live
        except (OSError, grpc.RpcError):
            return False

    def call(self, method, message):
        return getattr(self.stub, method)(message, timeout=TIMEOUT_SECONDS)

    def call_bytes(self, method, message):
        """Sends bytes that need be no message."""
        call = self.channel.unary_unary(f"/inference.GRPCInferenceService/{method}")
        return call(message, timeout=TIMEOUT_SECONDS)


def case(group, name, **more):
    def add(function):
        CASES.append(Case(group, name, function, **more))
        return function

    return add


def answer(side, one):
    """What the server answers."""
    try:
        return one.run(side)
    except grpc.RpcError as error:
        return Answer(error.code().name, plain(error.details() or "", side))
    except (http.client.HTTPException, OSError) as error:
        return Answer("(no answer)", plain(str(error), side))


def plain(text, side):
    """A text in one line, without what differs from run to run."""
    text = re.sub(r"\s+", " ", text).strip()
    text = text.replace(side.model, "MODEL").replace(f"-{side.label}", "")
    return re.sub(r"127\.0\.0\.1:\d+", "HOST:PORT", text)


VALUES = bytes(range(16))


def good(side):
    """FP32 of 1×2×2, as bytes."""
    request = pb.ModelInferRequest(model_name=side.model, id="seven")
    tensor = request.inputs.add(name="INPUT0", datatype="FP32")
    tensor.shape.extend([1, 2, 2])
    request.raw_input_contents.append(VALUES)
    return request


def shown(response, expected=VALUES):
    """Whether an inference gave back what it took."""
    if list(response.raw_output_contents) == [expected]:
        return Answer("OK", "the same bytes")
    if [len(it.contents.fp32_contents) for it in response.outputs] == [len(expected) // 4]:
        return Answer("OK", "the same numbers, in a list")
    sizes = [len(it) for it in response.raw_output_contents]
    shapes = [f"{it.datatype}{list(it.shape)}" for it in response.outputs]
    return Answer("OK", f"{', '.join(shapes) or 'no output'}; bytes {sizes}")
