"""Why our status is another one than Triton's, by group and case."""

SEQUENCE = "no model here has a state: silence about it would be a wrong answer"
CALLER = "what is wrong is the caller's, and the message says how to put it right"
UNKNOWN = "unknown models and versions are `NOT_FOUND` in every method here"
DOUBLED = "a doubled or surplus part is a mistake of the client, and is not passed over"
MEMORY = "shared memory"
REPOSITORY = "repository"
HTTP = "HTTP"

WHY = {
    ("well-formed", "version -1 (the latest)"): "some clients write the absence of a version so",
    ("tensors", "an output twice"): DOUBLED,
    ("contents", "an entry of bytes too many"): DOUBLED,
    ("parameters", "sequence_id 3 to a model without sequences"): SEQUENCE,
    ("parameters", "sequence_start as a text"): SEQUENCE,
    ("parameters", "timeout -1"): "as `priority` of -1, which Triton refuses too",
    ("parameters", "a reserved name"): "it may be one of a later version, which is not served here",
    ("parameters", "a parameter without a value"): "what no code here reads is not looked at",
    ("messages", "bytes that are no message"): CALLER,
    ("messages", "a message that is cut off"): CALLER,
    ("messages", "a name that is no UTF-8"): CALLER,
    ("messages", "a group, which proto3 does not have"): (
        "its memory is not counted, and what is not counted is not decoded"
    ),
    ("messages", "129 MiB of a tensor"): "the bound of a message; Triton's is 2 GiB",
    ("streams", "a bad request, with triton_grpc_error"): (
        "the first failure ends the stream, as the header asks; 2.51 heeds it for some failures only"
    ),
    ("streams", "a second message that is none"): (
        "the client is told; Triton ends the stream as if all were well"
    ),
    (MEMORY, "registering a key with .."): CALLER,
    (MEMORY, "registering a key with a second slash"): CALLER,
    (MEMORY, "registering a key with a NUL"): "Triton takes what is before the NUL",
    (MEMORY, "registering an empty key"): CALLER,
    (MEMORY, "registering a key of no file"): CALLER,
    (MEMORY, "registering without a name"): (
        "unregistering without a name means all regions, so that such a one could not be unregistered"
    ),
    (MEMORY, "registering a link to a file"): CALLER,
    (MEMORY, "registering memory of a GPU with a handle that is none"): (
        "there is no GPU; on a machine with one the handle is looked at"
    ),
    (MEMORY, "room of one byte too few for the output"): CALLER,
    (MEMORY, "input from a region, and bytes beside it"): DOUBLED,
    (MEMORY, "input from a file that was cut short after it was registered"): (
        "the kernel copies, and nothing is mapped that could end the process"
    ),
    (MEMORY, "output to a file that was cut short after it was registered"): (
        "the kernel copies, and nothing is mapped that could end the process"
    ),
    ("server and models", "statistics of an unknown model"): UNKNOWN,
    ("server and models", "statistics of an unknown version"): UNKNOWN,
    (REPOSITORY, "loading an unknown model"): UNKNOWN,
    (REPOSITORY, "loading without a name"): CALLER,
    (REPOSITORY, "loading with a configuration that is no JSON"): CALLER,
    (REPOSITORY, "loading with a configuration of an unknown field"): CALLER,
    (HTTP, "a version that is no number"): CALLER,
    (HTTP, "statistics of an unknown model"): UNKNOWN,
    (HTTP, "an encoding that nobody knows"): "415 is what HTTP has for it",
    (HTTP, "sizes whose product overflows"): (
        "Triton takes four numbers for a tensor of 2^186, and answers with none"
    ),
    (HTTP, "data in 100,000 lists"): "lists are counted, and not followed by calls",
    (HTTP, "sequence_id 3 to a model without sequences"): SEQUENCE,
    (HTTP, "loading an unknown model"): UNKNOWN,
    (HTTP, "a log setting that does not exist"): "it would not be set",
    (HTTP, "trace settings of an unknown model"): UNKNOWN,
    ("settings", "trace settings of an unknown model"): UNKNOWN,
    ("settings", "a trace setting that does not exist"): "it would not be set",
    ("settings", "a log setting that does not exist"): "it would not be set",
}


def why(case, theirs, ours):
    """Why the status of an answer is another one; `None` if nobody knows."""
    if case.protocol == "http" and theirs.code == "500" and ours.code == "400":
        return CALLER
    return WHY.get(case.key)
