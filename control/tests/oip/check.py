"""Every method of tritonclient.grpc against a server of the Open Inference Protocol.

    pip install 'tritonclient[grpc]' numpy
    ferryd --listen 127.0.0.1:PORT --store sqlite::memory:
    python control/tests/oip/check.py 127.0.0.1:PORT [MODEL]

MODEL takes INPUT0 and gives it back as OUTPUT0, FP32 of three dimensions; it is `echo` unless it is
named, so that the same checks run against another server's identity. Prints a line for each check,
and ends with 1 if one failed.
"""

import queue
import sys
import traceback

import numpy as np
import tritonclient.grpc as grpc
import tritonclient.utils.shared_memory as shm
from tritonclient.utils import InferenceServerException

CHECKS = []


def check(function):
    CHECKS.append(function)
    return function


def values(shape=(1, 2, 3)):
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape) / 8


def tensor(data, name="INPUT0", datatype="FP32"):
    made = grpc.InferInput(name, list(data.shape), datatype)
    made.set_data_from_numpy(data)
    return made


def refused(call, code, *words):
    """The call ends with this status, and its message has these words."""
    try:
        call()
    except InferenceServerException as error:
        assert error.status() == f"StatusCode.{code}", (error.status(), error.message())
        for word in words:
            assert word in error.message(), error.message()
        return
    raise AssertionError(f"not refused: {code}")


@check
def health(client, model):
    assert client.is_server_live() and client.is_server_ready()
    assert client.is_model_ready(model)
    assert not client.is_model_ready("there-is-none")


@check
def metadata(client, model):
    server = client.get_server_metadata()
    assert server.name and server.version and "statistics" in server.extensions
    told = client.get_model_metadata(model)
    assert (told.inputs[0].name, told.inputs[0].datatype) == ("INPUT0", "FP32")
    assert list(told.inputs[0].shape) == [-1, -1, -1]
    refused(lambda: client.get_model_metadata("there-is-none"), "NOT_FOUND", "there-is-none")


@check
def configuration(client, model):
    told = client.get_model_metadata(model)
    config = client.get_model_config(model).config
    assert [it.name for it in config.input] == [it.name for it in told.inputs]
    assert [it.name for it in config.output] == [it.name for it in told.outputs]
    client.get_model_config(model, as_json=True)


@check
def infer(client, model):
    for shape in [(1, 1, 1), (3, 224, 224), (5, 1, 7)]:
        data = values(shape)
        answer = client.infer(model, [tensor(data)], request_id="seven")
        assert answer.get_response().id == "seven"
        assert (answer.as_numpy("OUTPUT0") == data).all()
    asked = grpc.InferRequestedOutput("OUTPUT0")
    answer = client.infer(model, [tensor(data)], outputs=[asked], priority=1, timeout=10_000_000)
    assert (answer.as_numpy("OUTPUT0") == data).all()
    answer = client.infer(model, [tensor(data)], parameters={"custom": "value"})
    assert (answer.as_numpy("OUTPUT0") == data).all()


@check
def infer_async(client, model):
    done = queue.Queue()
    for _ in range(20):
        client.async_infer(model, [tensor(values())], lambda result, error: done.put((result, error)))
    for _ in range(20):
        result, error = done.get(timeout=30)
        assert error is None, error
        assert (result.as_numpy("OUTPUT0") == values()).all()


@check
def infer_compressed_is_refused_or_served(client, model):
    try:
        client.infer(model, [tensor(values())], compression_algorithm="gzip")
    except InferenceServerException as error:
        assert error.status() == "StatusCode.UNIMPLEMENTED", error


@check
def classification(client, model):
    asked = grpc.InferRequestedOutput("OUTPUT0", class_count=2)
    answer = client.infer(model, [tensor(values())], outputs=[asked]).as_numpy("OUTPUT0")
    scores = [text.decode().split(":")[:2] for text in answer.flatten()]
    assert [(float(score), int(index)) for score, index in scores] == [(0.625, 5), (0.5, 4)]


@check
def bad_inputs(client, model):
    data = values()
    wrong_type = tensor(data.astype(np.int32), datatype="INT32")
    refused(lambda: client.infer(model, [wrong_type]), "INVALID_ARGUMENT", "INPUT0")
    refused(lambda: client.infer(model, [tensor(data, name="OTHER")]), "INVALID_ARGUMENT", "OTHER")
    refused(lambda: client.infer(model, [tensor(values((6,)))]), "INVALID_ARGUMENT", "INPUT0")
    refused(lambda: client.infer("there-is-none", [tensor(data)]), "NOT_FOUND")
    none = [grpc.InferRequestedOutput("OTHER")]
    refused(lambda: client.infer(model, [tensor(data)], outputs=none), "INVALID_ARGUMENT", "OTHER")
    short = tensor(data)
    short._raw_content = short._raw_content[:-1]
    refused(lambda: client.infer(model, [short]), "INVALID_ARGUMENT", "INPUT0")


@check
def stream(client, model):
    done = queue.Queue()
    client.start_stream(lambda result, error: done.put((result, error)))
    for number in range(50):
        data = values() + number
        client.async_stream_infer(
            model, [tensor(data)], request_id=str(number), enable_empty_final_response=True
        )
    for number in range(50):
        result, error = done.get(timeout=30)
        assert error is None, error
        response = result.get_response()
        assert response.id == str(number)
        assert response.parameters["triton_final_response"].bool_param
        assert (result.as_numpy("OUTPUT0") == values() + number).all()
    client.async_stream_infer("there-is-none", [tensor(values())])
    _, error = done.get(timeout=30)
    assert error is not None
    client.stop_stream()


@check
def system_shared_memory(client, model):
    data = values((3, 224, 224))
    size = data.nbytes
    client.unregister_system_shared_memory()
    client.unregister_cuda_shared_memory()
    of_input = shm.create_shared_memory_region("in", "/ferry-check-in", size)
    of_output = shm.create_shared_memory_region("out", "/ferry-check-out", size + 64)
    try:
        shm.set_shared_memory_region(of_input, [data])
        client.register_system_shared_memory("in", "/ferry-check-in", size)
        client.register_system_shared_memory("out", "/ferry-check-out", size + 64)
        assert set(client.get_system_shared_memory_status().regions) == {"in", "out"}
        given = grpc.InferInput("INPUT0", list(data.shape), "FP32")
        given.set_shared_memory("in", size)
        asked = grpc.InferRequestedOutput("OUTPUT0")
        asked.set_shared_memory("out", size, offset=64)
        answer = client.infer(model, [given], outputs=[asked])
        told = answer.get_output("OUTPUT0")
        assert told.parameters["shared_memory_region"].string_param == "out"
        assert list(answer.get_response().raw_output_contents) == [b""]
        made = shm.get_contents_as_numpy(of_output, np.float32, list(data.shape), offset=64)
        assert (made == data).all()
        twice = lambda: client.register_system_shared_memory("in", "/ferry-check-in", size)
        refused(twice, "ALREADY_EXISTS", "in")
        client.unregister_system_shared_memory("in")
        refused(lambda: client.get_system_shared_memory_status("in"), "NOT_FOUND", "in")
        client.unregister_system_shared_memory()
        assert not client.get_system_shared_memory_status().regions
    finally:
        shm.destroy_shared_memory_region(of_input)
        shm.destroy_shared_memory_region(of_output)


@check
def cuda_shared_memory(client, model):
    assert not client.get_cuda_shared_memory_status().regions
    try:
        client.register_cuda_shared_memory("gpu", b"x" * 64, 0, 4096)
        raise AssertionError("a handle that is none was taken")
    except InferenceServerException as error:
        assert error.message(), error


@check
def statistics(client, model):
    def count():
        (stats,) = client.get_inference_statistics(model).model_stats
        return int(stats.version), stats.inference_stats.queue.count, stats.inference_count

    version, queued, inferences = count()
    client.infer(model, [tensor(values())])
    assert count() == (version, queued + 1, inferences + 1)
    assert client.get_inference_statistics().model_stats


@check
def repository(client, model):
    index = client.get_model_repository_index().models
    assert any(it.name == model and it.state == "READY" for it in index)
    client.load_model(model)
    refused(lambda: client.load_model("there-is-none"), "NOT_FOUND")
    client.unload_model("there-is-none")


@check
def settings(client, model):
    assert list(client.get_trace_settings().settings["trace_level"].value) == ["OFF"]
    client.update_trace_settings(settings={"trace_level": "OFF"})
    told = client.get_log_settings(as_json=True)
    assert "log_verbose_level" in told["settings"]
    changed = client.update_log_settings({"log_verbose_level": 1}, as_json=True)["settings"]
    assert changed["log_verbose_level"]["uint32_param"] == 1, changed
    back = {name: next(iter(value.values())) for name, value in told["settings"].items()}
    assert client.update_log_settings(back, as_json=True) == told


def run(checks, *given, tidy=lambda: None):
    """Runs checks, a line for each, and `tidy` behind those that failed; how many did."""
    failed = 0
    for function in checks:
        try:
            function(*given)
            print(f"ok      {function.__name__}")
        except Exception:
            failed += 1
            print(f"FAILED  {function.__name__}")
            traceback.print_exc()
            tidy()
    return failed


def main(connect, checks, usage):
    """Runs checks with the client that `connect` makes of an address; ends the process."""
    if len(sys.argv) not in (2, 3):
        sys.exit(usage)
    url, model = sys.argv[1], sys.argv[2] if len(sys.argv) == 3 else "echo"
    with connect(url) as client:
        failed = run(checks, client, model)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main(grpc.InferenceServerClient, CHECKS, __doc__)
