"""What `tritonclient.grpc` offers for inference, over sessions: programs move by changing an import.

    # import tritonclient.grpc as grpcclient
    import tensorferry.tritonclient as grpcclient

    client = grpcclient.InferenceServerClient("127.0.0.1:7077")
    tensor = grpcclient.InferInput("input", [1, 1, 28, 28], "FP32")
    tensor.set_data_from_numpy(x)
    result = client.infer("digits", [tensor])
    y = result.as_numpy("output")

A session is opened for each model and set of shapes when it is first asked for, on the fastest transport
that there is: on the server's own host that is shared memory, without a line of it in the program. What
`tritonclient` has and this has not (streams, sequences, classes, regions of shared memory) raises, and
says what does it instead.
"""

import threading
from collections import OrderedDict

import numpy as np

from . import Client, RefusedError, RequestError, TensorError, TensorferryError
from ._arrays import fill

__all__ = [
    "InferInput",
    "InferRequestedOutput",
    "InferResult",
    "InferenceServerClient",
    "InferenceServerException",
]

# Sessions that a client keeps; the one that was not used for longest is closed.
SESSIONS_MAX = 16

# How many requests of one model and set of shapes are in flight, when threads share a client.
SLOTS = 8

NUMPY = {
    "BOOL": np.bool_, "UINT8": np.uint8, "INT8": np.int8, "UINT16": np.uint16, "INT16": np.int16,
    "UINT32": np.uint32, "INT32": np.int32, "UINT64": np.uint64, "INT64": np.int64,
    "FP16": np.float16, "FP32": np.float32, "FP64": np.float64, "BF16": np.uint16,
}  # fmt: skip


class InferenceServerException(Exception):
    """As in `tritonclient.utils`."""

    def __init__(self, msg, status=None, debug_details=None):
        super().__init__(msg)
        self._msg, self._status, self._debug_details = msg, status, debug_details

    def __str__(self):
        return self._msg if self._status is None else f"[{self._status}] {self._msg}"

    def message(self):
        return self._msg

    def status(self):
        return self._status

    def debug_details(self):
        return self._debug_details


def _unsupported(what, instead):
    raise InferenceServerException(f"{what} is not part of tensorferry.tritonclient: {instead}")


class InferInput:
    """An input tensor of a request."""

    def __init__(self, name, shape, datatype):
        if datatype not in NUMPY:
            _unsupported(f"the datatype {datatype}", f"known are {', '.join(NUMPY)}")
        self._name, self._shape, self._datatype = name, [int(it) for it in shape], datatype
        self._array = None

    def name(self):
        return self._name

    def datatype(self):
        return self._datatype

    def shape(self):
        return self._shape

    def set_shape(self, shape):
        self._shape = [int(it) for it in shape]
        return self

    def set_data_from_numpy(self, input_tensor):
        if not isinstance(input_tensor, np.ndarray):
            raise InferenceServerException("input_tensor must be a numpy array")
        wanted = np.dtype(NUMPY[self._datatype])
        if input_tensor.dtype != wanted:
            raise InferenceServerException(
                f"got unexpected datatype {input_tensor.dtype} from numpy array, expected "
                f"{self._datatype} ({wanted}): convert it with astype({wanted.name!r})"
            )
        if list(input_tensor.shape) != self._shape:
            raise InferenceServerException(
                f"got unexpected numpy array shape {list(input_tensor.shape)}, expected {self._shape}"
            )
        self._array = input_tensor
        return self

    def set_shared_memory(self, *_args, **_more):
        _unsupported("set_shared_memory", "sessions on one host use shared memory by themselves")


class InferRequestedOutput:
    """An output that is asked for."""

    def __init__(self, name, class_count=0):
        if class_count:
            _unsupported("class_count", "take the output and sort it: numpy.argsort(-y)[:, :k]")
        self._name = name

    def name(self):
        return self._name

    def set_shared_memory(self, *_args, **_more):
        _unsupported("set_shared_memory", "sessions on one host use shared memory by themselves")


class InferResult:
    """The outputs of a request: copies, which may be kept."""

    def __init__(self, model_name, model_version, request_id, outputs):
        self._model, self._version, self._id, self._outputs = (
            model_name, str(model_version), request_id, outputs,
        )  # fmt: skip

    def as_numpy(self, name):
        """The output, or `None` where it was not asked for."""
        return self._outputs.get(name)

    def get_response(self):
        return {"model_name": self._model, "model_version": self._version, "id": self._id}


class InferenceServerClient:
    """A connection to the server; any thread may use it. `key` is the key of a tenant."""

    def __init__(self, url, verbose=False, ssl=False, key=None, **more):
        if ssl or any(value is not None for value in more.values()):
            _unsupported(f"ssl, {sorted(more)}", "give the address, and key= for a tenant")
        with _translated():
            self._client = Client(url, key)
        self._lock = threading.Lock()
        self._sessions = OrderedDict()

    def is_server_live(self, **_same):
        return self.is_server_ready()

    def is_server_ready(self, **_same):
        try:
            self._client.models()
        except TensorferryError:
            return False
        return True

    def is_model_ready(self, model_name, model_version="", **_same):
        with _translated():
            models = self._client.models()
        return any(
            it.name == model_name and it.state == "loaded" and model_version in ("", str(it.version))
            for it in models
        )

    def get_model_metadata(self, model_name, model_version="", as_json=True, **_same):
        """As JSON, whatever `as_json` says."""
        with _translated():
            models = [it for it in self._client.models() if it.name == model_name]
        chosen = [it for it in models if model_version in ("", str(it.version))]
        if not chosen:
            raise InferenceServerException(
                f"Request for unknown model: {model_name!r} {model_version}", "StatusCode.NOT_FOUND"
            )

        def tensors(specs):
            shape = lambda it: [dim if isinstance(dim, int) else -1 for dim in it["shape"]]  # noqa: E731
            return [{**it, "shape": shape(it)} for it in specs]

        model = chosen[-1]
        return {
            "name": model.name,
            "versions": [str(it.version) for it in models],
            "platform": model.engine,
            "inputs": tensors(model.inputs),
            "outputs": tensors(model.outputs),
        }

    def infer(
        self, model_name, inputs, model_version="", outputs=None, request_id="", priority=0,
        client_timeout=None, sequence_id=0, timeout=None, headers=None, parameters=None, **more,
    ):  # fmt: skip
        """One request. `timeout` is in microseconds, `client_timeout` in seconds, as in tritonclient."""
        if sequence_id or priority or headers or parameters or any(more.values()):
            _unsupported(
                "a sequence, priority, headers, parameters",
                "use tritonclient.grpc, which ferryd serves too, or a session of tensorferry",
            )
        wanted = None if outputs is None else [it.name() for it in outputs]
        within = client_timeout or (timeout / 1e6 if timeout else None)
        with _translated():
            arrays = {}
            for tensor in inputs:
                if tensor._array is None:
                    raise TensorError(f"input {tensor.name()!r}: call set_data_from_numpy first")
                arrays[tensor.name()] = tensor._array
            session, free = self._session(model_name, model_version, inputs)
            # One for each slot, so that a thread waits where they are all in use.
            with free:
                slot = fill(session.slot(), arrays)
                reply = session.infer(slot, timeout=within)
                names = reply.keys() if wanted is None else wanted
                read = {name: reply[name].copy() for name in names}
                del slot, reply
        return InferResult(model_name, session.version, request_id, read)

    def _session(self, model, version, inputs):
        shapes = tuple((it.name(), tuple(it.shape())) for it in inputs)
        key = (model, str(version), shapes)
        with self._lock:
            found = self._sessions.pop(key, None)
            if found is None:
                session = self._client.session(
                    model, version=int(version or 0), shapes=dict(shapes), slots=SLOTS
                )
                found = session, threading.BoundedSemaphore(session.slots)
            self._sessions[key] = found
            if len(self._sessions) > SESSIONS_MAX:
                # Closed when the last thread that uses it lets it go.
                self._sessions.popitem(last=False)
            return found

    def close(self):
        self._client.close()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()


class _translated:
    """Errors as tritonclient's."""

    def __enter__(self):
        return self

    def __exit__(self, _kind, error, _trace):
        if isinstance(error, TensorferryError):
            status = None
            if isinstance(error, RefusedError):
                status = f"StatusCode.{error.code}"
            elif isinstance(error, RequestError):
                status = error.status
            raise InferenceServerException(str(error), status) from error
