"""Streams of inferences."""

import queue

import grpc

from .base import TIMEOUT_SECONDS, Answer, case, good, plain
from .infer import FINAL

STREAM = "streams"


def exchange(side, requests, ends=False):
    """All that a stream answers, as one text for each answer. The last may be a status."""
    metadata = [("triton_grpc_error", "true")] if ends else None
    answers = []
    try:
        stream = side.stub.ModelStreamInfer(
            iter(requests), timeout=TIMEOUT_SECONDS, metadata=metadata
        )
        for it in stream:
            final = it.infer_response.parameters["triton_final_response"].bool_param
            answers.append(it.error_message or f"{it.infer_response.id}{' final' * final}")
    except grpc.RpcError as error:
        return Answer(error.code().name, plain(f"{answers} {error.details()}", side))
    bad = [it for it in answers if not it.startswith("id-")]
    return Answer("error_message" if bad else "OK", plain(", ".join(bad or answers), side))


def numbered(side, count):
    requests = [good(side) for _ in range(count)]
    for number, request in enumerate(requests):
        request.id = f"id-{number}"
    return requests


@case(STREAM, "three requests")
def _(side):
    return exchange(side, numbered(side, 3))


@case(STREAM, "three requests that ask for an empty last response")
def _(side):
    requests = numbered(side, 3)
    for request in requests:
        request.parameters[FINAL].bool_param = True
    return exchange(side, requests)


@case(STREAM, "no request")
def _(side):
    return exchange(side, [])


@case(STREAM, "a bad request between good ones")
def _(side):
    requests = numbered(side, 3)
    requests[1].inputs[0].datatype = "INT32"
    return exchange(side, requests)


@case(STREAM, "an unknown model")
def _(side):
    requests = numbered(side, 1)
    requests[0].model_name = "there-is-none"
    return exchange(side, requests)


@case(STREAM, "a bad request, with triton_grpc_error")
def _(side):
    requests = numbered(side, 1)
    requests[0].inputs[0].datatype = "INT32"
    return exchange(side, requests, ends=True)


@case(STREAM, "a second message that is none")
def _(side):
    method = "/inference.GRPCInferenceService/ModelStreamInfer"
    call = side.channel.stream_stream(method)
    for _ in call(iter([good(side).SerializeToString(), b"\x0a\xff"]), timeout=5):
        pass
    return Answer("OK")


@case(STREAM, "a client that goes in the middle")
def _(side):
    requests = queue.Queue()
    requests.put(good(side))
    stream = side.stub.ModelStreamInfer(iter(requests.get, None), timeout=TIMEOUT_SECONDS)
    next(stream)
    stream.cancel()
    requests.put(None)
    side.call("ModelInfer", good(side))
    return Answer("OK", "others are served")
