"""The protocol over HTTP: JSON, and tensors as bytes behind it."""

import gzip
import http.client
import json
import struct

from .base import TIMEOUT_SECONDS, Answer, case, plain

HTTP = "HTTP"
LENGTH = "Inference-Header-Content-Length"
VALUES = [0.0, 1.5, -2.0, 3.0]
BYTES = struct.pack("<4f", *VALUES)


def send(side, method, path, body=None, headers=None):
    connection = http.client.HTTPConnection(side.http, timeout=TIMEOUT_SECONDS)
    try:
        connection.request(method, path.replace("MODEL", side.model), body, headers or {})
        response = connection.getresponse()
        return response, response.read()
    finally:
        connection.close()


def told(side, response, body, expected=VALUES):
    """The status, and whether the tensor came back or what the error says."""
    if response.status != 200:
        try:
            text = json.loads(body)["error"]
        except (ValueError, KeyError, TypeError):
            text = body.decode(errors="replace")
        return Answer(str(response.status), plain(text, side))
    if not body:
        return Answer("200")
    length = response.getheader(LENGTH)
    head = json.loads(body[: int(length)] if length else body)
    if "outputs" not in head:
        return Answer("200", plain(json.dumps(head), side)[:80])
    if length:
        is_same = body[int(length) :] == struct.pack(f"<{len(expected)}f", *expected)
        return Answer("200", "the same bytes" if is_same else "other bytes")
    data = head["outputs"][0].get("data")
    return Answer("200", "the same numbers" if data == expected else plain(str(data), side)[:80])


def asks(name, method, path, **more):
    """A request without a tensor."""

    def run(side):
        return told(side, *send(side, method, path, **more))

    case(HTTP, name, protocol="http")(run)


def tensor(**more):
    return {"name": "INPUT0", "datatype": "FP32", "shape": [1, 2, 2], **more}


def infers(name, head, body=b"", length=None, headers=None, expected=VALUES, is_deadly=False):
    """An inference: `head` is JSON or its text; with a body or a length, it is binary."""

    def run(side):
        text = head if isinstance(head, bytes) else json.dumps(head).encode()
        sent = dict(headers or {})
        if body or length is not None:
            sent[LENGTH] = str(len(text) if length is None else length)
        whole = text + body
        if sent.get("Content-Encoding") == "gzip":
            whole = gzip.compress(whole)
        return told(side, *send(side, "POST", "/v2/models/MODEL/infer", whole, sent), expected)

    case(HTTP, name, protocol="http", is_deadly=is_deadly)(run)


def json_of(**more):
    return {"inputs": [tensor(data=VALUES, **more)]}


def binary(size=16, **more):
    return {"inputs": [tensor(parameters={"binary_data_size": size}, **more)]}


asks("live", "GET", "/v2/health/live")
asks("ready", "GET", "/v2/health/ready")
asks("a model is ready", "GET", "/v2/models/MODEL/ready")
asks("an unknown model is ready", "GET", "/v2/models/there-is-none/ready")
asks("metadata of an unknown model", "GET", "/v2/models/there-is-none")
asks("a version that is no number", "GET", "/v2/models/MODEL/versions/one")
asks("configuration of an unknown model", "GET", "/v2/models/there-is-none/config")
asks("statistics of an unknown model", "GET", "/v2/models/there-is-none/stats")
asks("a path that does not exist", "GET", "/v2/no/such/path")
asks("GET of an inference", "GET", "/v2/models/MODEL/infer")
asks("POST of metadata", "POST", "/v2/models/MODEL", body=b"{}")
asks("an inference without a body", "POST", "/v2/models/MODEL/infer")

infers("numbers in JSON", json_of())
infers("nested numbers", {"inputs": [tensor(data=[[VALUES[:2], VALUES[2:]]])]})
infers("bytes behind the JSON", binary(), BYTES)
infers(
    "bytes, and bytes asked for",
    {**binary(), "outputs": [{"name": "OUTPUT0", "parameters": {"binary_data": True}}]},
    BYTES,
)
infers("bytes for all outputs", {**json_of(), "parameters": {"binary_data_output": True}})
infers("an empty tensor", {"inputs": [tensor(data=[], shape=[0, 2, 2])]}, expected=[])
infers("gzip", json_of(), headers={"Content-Encoding": "gzip"})
infers("an encoding that nobody knows", json_of(), headers={"Content-Encoding": "lzma"})

infers("a header length beyond the body", binary(), BYTES, length=100_000)
infers("a header length of one byte too few", binary(), BYTES, length=len(json.dumps(binary())) - 1)
infers("a header length of one byte too many", binary(), BYTES, length=len(json.dumps(binary())) + 1)
infers("a negative header length", binary(), BYTES, length=-5)
infers("a header length that is no number", binary(), BYTES, length="many")
infers("a header length of 2^64", binary(), BYTES, length=2**64)
infers("a header length of 0, to a model whose shape does not follow", b"", BYTES, length=0)
infers("more bytes said than sent", binary(17, shape=[1, 2, 2]), BYTES)
infers("fewer bytes said than sent", binary(12), BYTES)
infers("bytes behind the last tensor", binary(), BYTES + b"x")
infers("a negative size of bytes", binary(-16), BYTES)
infers("a size of bytes that is no number", binary("16"), BYTES)
infers("a size of bytes of 2^63", binary(2**63), BYTES)
infers("bytes and numbers", {"inputs": [tensor(data=VALUES, parameters={"binary_data_size": 16})]}, BYTES)

infers("a body that is no JSON", b"inputs")
infers("JSON that is cut off", json.dumps(json_of()).encode()[:-2])
infers("JSON that is no object", b"[1, 2]")


def deep(levels):
    """Data in so many lists."""
    head = json.dumps({"inputs": [tensor(data="HERE")]}).encode()
    return head.replace(b'"HERE"', b"[" * levels + b"1" + b"]" * levels)


infers("data in 1,000 lists", deep(1_000), is_deadly=True)
infers("data in 100,000 lists", deep(100_000), is_deadly=True)
infers("100,000 lists that are not closed", b'{"inputs":' + b"[" * 100_000, is_deadly=True)
infers("NaN", {"inputs": [tensor(data=[float("nan"), 1.5, -2.0, 3.0])]})
infers("Infinity", {"inputs": [tensor(data=[float("inf"), 1.5, -2.0, 3.0])]}, expected=[float("inf"), 1.5, -2.0, 3.0])
infers("-Infinity", {"inputs": [tensor(data=[0.0, 1.5, float("-inf"), 3.0])]}, expected=[0.0, 1.5, float("-inf"), 3.0])
infers("FP16 in JSON for FP32", {"inputs": [tensor(data=VALUES, datatype="FP16")]})
infers("a number that no double holds", json.dumps(json_of()).encode().replace(b"1.5", b"1e400"))
infers("a text for a number", {"inputs": [tensor(data=["a", 1.5, -2.0, 3.0])]})
infers("null for a number", {"inputs": [tensor(data=[None, 1.5, -2.0, 3.0])]})
infers("a number too few", {"inputs": [tensor(data=VALUES[:3])]})
infers("a number too many", {"inputs": [tensor(data=[*VALUES, 1.0])]})
infers("ragged rows", {"inputs": [tensor(data=[[[0.0], [1.5, -2.0, 3.0]]])]})
infers("no data", {"inputs": [tensor()]})
infers("invalid UTF-8", json.dumps(json_of()).encode().replace(b"INPUT0", b"\xc3\x28"))
infers("two members of one name", b'{"inputs": [], ' + json.dumps(json_of()).encode()[1:])

infers("a wrong datatype", {"inputs": [tensor(data=[0, 1, 2, 3], datatype="INT32")]})
infers("no datatype", {"inputs": [{"name": "INPUT0", "shape": [1, 2, 2], "data": VALUES}]})
infers("a datatype that is no text", json_of(datatype=7))
infers("no shape", {"inputs": [{"name": "INPUT0", "datatype": "FP32", "data": VALUES}]})
infers("a negative size", json_of(shape=[-1, 2, 2]))
infers("a size that is no whole number", json_of(shape=[1.5, 2, 2]))
infers("sizes whose product overflows", json_of(shape=[2**62, 2**62, 2**62]))
infers("an unknown input", {"inputs": [{**tensor(data=VALUES), "name": "INPUT9"}]})
infers("an input twice", {"inputs": [tensor(data=VALUES), tensor(data=VALUES)]})
infers("no inputs", {"inputs": []})
infers("inputs that are no list", {"inputs": {}})
infers("an unknown output", {**json_of(), "outputs": [{"name": "OUTPUT9"}]})
infers("an id that is no text", {**json_of(), "id": 7})
infers("parameters that are no object", {**json_of(), "parameters": [1]})
infers("a parameter that is an object", {**json_of(), "parameters": {"custom": {}}})
infers("sequence_id 3 to a model without sequences", {**json_of(), "parameters": {"sequence_id": 3}})
infers("a member that nobody knows", {**json_of(), "custom": 1})


@case(HTTP, "registering a region twice", protocol="http")
def _(side):
    from .memory import file, key

    path = "/v2/systemsharedmemory/region/rest/"
    asked = json.dumps({"key": key(side), "offset": 0, "byte_size": 16})
    with file(side):
        send(side, "POST", path + "register", asked)
        try:
            return told(side, *send(side, "POST", path + "register", asked))
        finally:
            send(side, "POST", path + "unregister")


asks(
    "registering a negative offset", "POST", "/v2/systemsharedmemory/region/rest/register",
    body=b'{"key": "/oip-there-is-none", "offset": -1, "byte_size": 16}',
)
asks("loading an unknown model", "POST", "/v2/repository/models/there-is-none/load", body=b"{}")
asks("unloading an unknown model", "POST", "/v2/repository/models/there-is-none/unload", body=b"{}")
asks("log settings", "GET", "/v2/logging")
asks("a log setting that does not exist", "POST", "/v2/logging", body=b'{"no_such_setting": 1}')
asks("a log setting of another type", "POST", "/v2/logging", body=b'{"log_verbose_level": "much"}')
asks("trace settings of an unknown model", "GET", "/v2/models/there-is-none/trace/setting")
