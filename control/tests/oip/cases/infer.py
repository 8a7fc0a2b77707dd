"""Inferences: well-formed ones, and those whose tensors or parameters have no meaning."""

import struct

from tritonclient.grpc import service_pb2 as pb

from .base import Answer, case, good, plain, shown

FINAL = "triton_enable_empty_final_response"


def infer(group, name, expected=None, **more):
    """A good request that the decorated function changes."""

    def add(edit):
        def run(side):
            request = good(side)
            edit(request)
            given = request.raw_input_contents
            same = expected or (given[0] if len(given) == 1 else bytes(range(16)))
            return shown(side.call("ModelInfer", request), same)

        case(group, name, **more)(run)
        return edit

    return add


def numbers(request, count=4):
    del request.raw_input_contents[:]
    request.inputs[0].contents.fp32_contents.extend([0.5] * count)


def shape(request, *sizes):
    del request.inputs[0].shape[:]
    request.inputs[0].shape.extend(sizes)


def raw(request, *entries):
    del request.raw_input_contents[:]
    request.raw_input_contents.extend(entries)


def output(request, name="OUTPUT0"):
    return request.outputs.add(name=name)


WELL = "well-formed"
infer(WELL, "bytes")(lambda r: None)
infer(WELL, "a list of numbers", struct.pack("<4f", *[0.5] * 4))(numbers)
infer(WELL, "NaN and infinities in bytes")(
    lambda r: raw(r, struct.pack("<4f", float("nan"), float("inf"), float("-inf"), -0.0))
)
infer(WELL, "the output by name")(output)
infer(WELL, "version 1 by name")(lambda r: setattr(r, "model_version", "1"))
infer(WELL, "version -1 (the latest)")(lambda r: setattr(r, "model_version", "-1"))
infer(WELL, "priority 1")(lambda r: setattr(r.parameters["priority"], "uint64_param", 1))
infer(WELL, "timeout of 10 s")(
    lambda r: setattr(r.parameters["timeout"], "int64_param", 10_000_000)
)
infer(WELL, "a parameter that nobody knows")(
    lambda r: setattr(r.parameters["custom"], "string_param", "x")
)
infer(WELL, "sequence_id 0")(lambda r: setattr(r.parameters["sequence_id"], "int64_param", 0))


@infer(WELL, "a tensor without elements", expected=b"")
def _(r):
    shape(r, 0, 2, 2)
    raw(r, b"")


@case(WELL, "the two largest as classes")
def _(side):
    request = good(side)
    raw(request, struct.pack("<4f", 1, 4, 3, 2))
    output(request).parameters["classification"].int64_param = 2
    response = side.call("ModelInfer", request)
    out = response.outputs[0]
    return Answer("OK", f"{out.datatype}{list(out.shape)} {plain(str(response.raw_output_contents[0]), side)}")


MODEL = "model"
infer(MODEL, "unknown name")(lambda r: setattr(r, "model_name", "there-is-none"))
infer(MODEL, "no name")(lambda r: setattr(r, "model_name", ""))
infer(MODEL, "unknown version")(lambda r: setattr(r, "model_version", "9"))
infer(MODEL, "version that is no number")(lambda r: setattr(r, "model_version", "one"))
infer(MODEL, "version -2")(lambda r: setattr(r, "model_version", "-2"))

TENSOR = "tensors"
infer(TENSOR, "wrong datatype")(lambda r: setattr(r.inputs[0], "datatype", "INT32"))
infer(TENSOR, "datatype that does not exist")(lambda r: setattr(r.inputs[0], "datatype", "FP31"))
infer(TENSOR, "no datatype")(lambda r: setattr(r.inputs[0], "datatype", ""))
infer(TENSOR, "BYTES for FP32")(lambda r: setattr(r.inputs[0], "datatype", "BYTES"))
infer(TENSOR, "wrong rank")(lambda r: shape(r, 4))
infer(TENSOR, "no shape")(lambda r: shape(r))
infer(TENSOR, "negative size")(lambda r: shape(r, -1, 2, 2))
infer(TENSOR, "sizes whose product overflows")(lambda r: shape(r, 2**62, 2**62, 2**62))
infer(TENSOR, "sizes whose product overflows to the right length")(
    lambda r: shape(r, 2**32, 2**32, 4)
)
infer(TENSOR, "unknown input")(lambda r: setattr(r.inputs[0], "name", "INPUT9"))
infer(TENSOR, "no inputs, bytes all the same")(lambda r: r.ClearField("inputs"))
infer(TENSOR, "unknown output")(lambda r: output(r, "OUTPUT9"))


@infer(TENSOR, "no inputs at all")
def _(r):
    r.ClearField("inputs")
    raw(r)


@infer(TENSOR, "an input twice")
def _(r):
    r.inputs.add().CopyFrom(r.inputs[0])
    raw(r, bytes(16), bytes(16))


@infer(TENSOR, "an unknown input beside the good one")
def _(r):
    r.inputs.add().CopyFrom(r.inputs[0])
    r.inputs[1].name = "INPUT9"
    raw(r, bytes(16), bytes(16))


@infer(TENSOR, "an output twice")
def _(r):
    output(r)
    output(r)


CONTENTS = "contents"
infer(CONTENTS, "one byte too few")(lambda r: raw(r, bytes(15)))
infer(CONTENTS, "one byte too many")(lambda r: raw(r, bytes(17)))
infer(CONTENTS, "no bytes and no numbers")(lambda r: raw(r))
infer(CONTENTS, "an empty entry of bytes")(lambda r: raw(r, b""))
infer(CONTENTS, "an entry of bytes too many")(lambda r: raw(r, bytes(16), b""))
infer(CONTENTS, "a number too few")(lambda r: numbers(r, 3))
infer(CONTENTS, "a number too many")(lambda r: numbers(r, 5))
infer(CONTENTS, "bytes and numbers")(
    lambda r: r.inputs[0].contents.fp32_contents.extend([0.5] * 4)
)


@infer(CONTENTS, "a list of another type")
def _(r):
    raw(r)
    r.inputs[0].contents.int_contents.extend([1, 2, 3, 4])


@infer(CONTENTS, "a list of another type beside the right one")
def _(r):
    numbers(r)
    r.inputs[0].contents.int_contents.extend([1, 2, 3, 4])


@infer(CONTENTS, "texts for FP32")
def _(r):
    raw(r)
    r.inputs[0].contents.bytes_contents.append(b"four")


PARAMETER = "parameters"
infer(PARAMETER, "sequence_id 3 to a model without sequences")(
    lambda r: setattr(r.parameters["sequence_id"], "int64_param", 3)
)
infer(PARAMETER, "sequence_start as a text")(
    lambda r: setattr(r.parameters["sequence_start"], "string_param", "yes")
)
infer(PARAMETER, "priority as a text")(
    lambda r: setattr(r.parameters["priority"], "string_param", "high")
)
infer(PARAMETER, "priority -1")(lambda r: setattr(r.parameters["priority"], "int64_param", -1))
infer(PARAMETER, "timeout -1")(lambda r: setattr(r.parameters["timeout"], "int64_param", -1))
infer(PARAMETER, "timeout as a text")(
    lambda r: setattr(r.parameters["timeout"], "string_param", "soon")
)
infer(PARAMETER, "a reserved name")(
    lambda r: setattr(r.parameters["triton_reserved"], "bool_param", True)
)
infer(PARAMETER, "a parameter without a value")(lambda r: r.parameters["custom"].SetInParent())
infer(PARAMETER, f"{FINAL} without a stream")(
    lambda r: setattr(r.parameters[FINAL], "bool_param", True)
)
infer(PARAMETER, "-1 classes")(
    lambda r: setattr(output(r).parameters["classification"], "int64_param", -1)
)
infer(PARAMETER, "classes as a text")(
    lambda r: setattr(output(r).parameters["classification"], "string_param", "two")
)
infer(PARAMETER, "more classes than elements")(
    lambda r: setattr(output(r).parameters["classification"], "int64_param", 99)
)

MESSAGE = "messages"


@case(MESSAGE, "bytes that are no message")
def _(side):
    side.call_bytes("ModelInfer", b"\x0a\xff")
    return Answer("OK")


@case(MESSAGE, "a group, which proto3 does not have")
def _(side):
    side.call_bytes("ModelInfer", good(side).SerializeToString() + b"\xfb\x3f\xfc\x3f")
    return Answer("OK", "the field is passed over")


@case(MESSAGE, "a message that is cut off")
def _(side):
    side.call_bytes("ModelInfer", good(side).SerializeToString()[:-3])
    return Answer("OK")


@case(MESSAGE, "an empty message")
def _(side):
    return shown(side.call("ModelInfer", pb.ModelInferRequest()))


@case(MESSAGE, "a name that is no UTF-8")
def _(side):
    side.call_bytes("ModelInfer", b"\x0a\x02\xc3\x28")
    return Answer("OK")


@case(MESSAGE, "a field of a later version")
def _(side):
    side.call_bytes("ModelInfer", good(side).SerializeToString() + b"\xfa\x3f\x01x")
    return Answer("OK", "the field is passed over")


@case(MESSAGE, "a method that does not exist")
def _(side):
    side.call_bytes("ModelGuess", b"")
    return Answer("OK")


@case(MESSAGE, "129 MiB of a tensor")
def _(side):
    request = good(side)
    data = bytes(129 << 20)
    shape(request, 129, 1 << 9, 1 << 9)
    raw(request, data)
    return shown(side.call("ModelInfer", request), data)
