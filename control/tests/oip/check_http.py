"""Every method of tritonclient.http against a server of the Open Inference Protocol.

    pip install 'tritonclient[grpc,http]' numpy
    ferryd --listen 127.0.0.1:PORT --http 127.0.0.1:PORT2 --store sqlite::memory:
    python control/tests/oip/check_http.py 127.0.0.1:PORT2 [MODEL]

As check.py, over HTTP.
"""

import asyncio

import numpy as np
import tritonclient.http as http
import tritonclient.http.aio as http_aio
import tritonclient.utils.shared_memory as shm
from tritonclient.utils import InferenceServerException

from check import main, values

CHECKS = []


def check(function):
    CHECKS.append(function)
    return function


def tensor(data, name="INPUT0", datatype="FP32", binary_data=True):
    made = http.InferInput(name, list(data.shape), datatype)
    made.set_data_from_numpy(data, binary_data=binary_data)
    return made


def refused(call, status, *words):
    """The call ends with this status, and its message has these words."""
    try:
        call()
    except InferenceServerException as error:
        assert error.status() == str(status), (error.status(), error.message())
        for word in words:
            assert word in error.message(), error.message()
        return
    raise AssertionError(f"not refused: {status}")


@check
def health(client, model):
    assert client.is_server_live() and client.is_server_ready()
    assert client.is_model_ready(model) and client.is_model_ready(model, "1")
    assert not client.is_model_ready("there-is-none")


@check
def metadata(client, model):
    server = client.get_server_metadata()
    assert server["name"] and server["version"] and "binary_tensor_data" in server["extensions"]
    told = client.get_model_metadata(model)
    assert (told["inputs"][0]["name"], told["inputs"][0]["datatype"]) == ("INPUT0", "FP32")
    assert told["inputs"][0]["shape"] == [-1, -1, -1]
    assert client.get_model_metadata(model, "1") == told
    refused(lambda: client.get_model_metadata("there-is-none"), 404, "there-is-none")


@check
def configuration(client, model):
    told = client.get_model_metadata(model)
    config = client.get_model_config(model)
    assert [it["name"] for it in config["input"]] == [it["name"] for it in told["inputs"]]
    assert [it["name"] for it in config["output"]] == [it["name"] for it in told["outputs"]]
    assert config["input"][0]["data_type"] == "TYPE_FP32"
    assert all(isinstance(size, int) for size in config["input"][0]["dims"])


@check
def infer(client, model):
    for shape in [(1, 1, 1), (3, 224, 224), (5, 1, 7)]:
        data = values(shape)
        for binary_in in (True, False):
            for asked in (None, http.InferRequestedOutput("OUTPUT0", binary_data=False),
                          http.InferRequestedOutput("OUTPUT0", binary_data=True)):
                answer = client.infer(
                    model,
                    [tensor(data, binary_data=binary_in)],
                    outputs=asked and [asked],
                    request_id="seven",
                )
                assert answer.get_response()["id"] == "seven"
                assert (answer.as_numpy("OUTPUT0") == data).all()
    asked = [http.InferRequestedOutput("OUTPUT0")]
    answer = client.infer(model, [tensor(data)], "1", asked, priority=1, timeout=10_000_000)
    assert (answer.as_numpy("OUTPUT0") == data).all()
    answer = client.infer(model, [tensor(data)], parameters={"custom": "value"})
    assert (answer.as_numpy("OUTPUT0") == data).all()


@check
def infer_async(client, model):
    pending = [client.async_infer(model, [tensor(values() + number)]) for number in range(20)]
    for number, one in enumerate(pending):
        assert (one.get_result(timeout=30).as_numpy("OUTPUT0") == values() + number).all()


@check
def infer_compressed(client, model):
    data = values((3, 224, 224))
    for sent in (None, "gzip", "deflate"):
        for received in (None, "gzip", "deflate"):
            answer = client.infer(
                model,
                [tensor(data)],
                request_compression_algorithm=sent,
                response_compression_algorithm=received,
            )
            assert (answer.as_numpy("OUTPUT0") == data).all(), (sent, received)


@check
def infer_of_an_event_loop(client, model):
    async def ask():
        url = client._parsed_url
        async with http_aio.InferenceServerClient(f"{url.host}:{url.port}") as other:
            assert await other.is_model_ready(model)
            data = values((3, 224, 224))
            answer = await other.infer(model, [tensor(data)])
            assert (answer.as_numpy("OUTPUT0") == data).all()

    asyncio.run(ask())


@check
def bodies_by_hand(client, model):
    data = values()
    body, head_bytes = http.InferenceServerClient.generate_request_body([tensor(data)])
    headers = {"Inference-Header-Content-Length": head_bytes}
    answer = client._post(f"v2/models/{model}/infer", body, headers, None)
    head_bytes = int(answer.get("Inference-Header-Content-Length"))
    made = http.InferenceServerClient.parse_response_body(answer.read(), header_length=head_bytes)
    assert (made.as_numpy("OUTPUT0") == data).all()


@check
def classification(client, model):
    for binary_data in (True, False):
        asked = http.InferRequestedOutput("OUTPUT0", binary_data=binary_data, class_count=2)
        answer = client.infer(model, [tensor(values())], outputs=[asked]).as_numpy("OUTPUT0")
        texts = [text.decode() if isinstance(text, bytes) else text for text in answer.flatten()]
        scores = [(float(it.split(":")[0]), int(it.split(":")[1])) for it in texts]
        assert scores == [(0.625, 5), (0.5, 4)], scores


@check
def bad_inputs(client, model):
    data = values()
    wrong_type = tensor(data.astype(np.int32), datatype="INT32")
    refused(lambda: client.infer(model, [wrong_type]), 400, "INPUT0")
    refused(lambda: client.infer(model, [tensor(data, name="OTHER")]), 400, "OTHER")
    refused(lambda: client.infer(model, [tensor(values((6,)))]), 400, "INPUT0")
    refused(lambda: client.infer("there-is-none", [tensor(data)]), 404)
    none = [http.InferRequestedOutput("OTHER")]
    refused(lambda: client.infer(model, [tensor(data)], outputs=none), 400, "OTHER")
    short = tensor(data)
    short._raw_data = short._raw_data[:-1]
    refused(lambda: client.infer(model, [short]), 400, "INPUT0")


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
        assert {it["name"] for it in client.get_system_shared_memory_status()} == {"in", "out"}
        given = http.InferInput("INPUT0", list(data.shape), "FP32")
        given.set_shared_memory("in", size)
        asked = http.InferRequestedOutput("OUTPUT0")
        asked.set_shared_memory("out", size, offset=64)
        answer = client.infer(model, [given], outputs=[asked])
        assert "parameters" not in answer.get_output("OUTPUT0")
        made = shm.get_contents_as_numpy(of_output, np.float32, list(data.shape), offset=64)
        assert (made == data).all()
        twice = lambda: client.register_system_shared_memory("in", "/ferry-check-in", size)
        refused(twice, 400, "in")
        client.unregister_system_shared_memory("in")
        refused(lambda: client.get_system_shared_memory_status("in"), 404, "in")
        client.unregister_system_shared_memory()
        assert not client.get_system_shared_memory_status()
    finally:
        shm.destroy_shared_memory_region(of_input)
        shm.destroy_shared_memory_region(of_output)


@check
def cuda_shared_memory(client, model):
    assert not client.get_cuda_shared_memory_status()
    try:
        client.register_cuda_shared_memory("gpu", b"x" * 64, 0, 4096)
        raise AssertionError("a handle that is none was taken")
    except InferenceServerException as error:
        assert error.message(), error
    client.unregister_cuda_shared_memory("gpu")


@check
def statistics(client, model):
    def count():
        (stats,) = client.get_inference_statistics(model)["model_stats"]
        queued = stats["inference_stats"]["queue"]["count"]
        return int(stats["version"]), queued, stats["inference_count"]

    version, queued, inferences = count()
    client.infer(model, [tensor(values())])
    assert count() == (version, queued + 1, inferences + 1)
    assert client.get_inference_statistics()["model_stats"]


@check
def repository(client, model):
    index = client.get_model_repository_index()
    assert any(it["name"] == model and it["state"] == "READY" for it in index)
    client.load_model(model)
    refused(lambda: client.load_model("there-is-none"), 404)
    client.unload_model("there-is-none")


@check
def settings(client, model):
    assert client.get_trace_settings()["trace_level"] == ["OFF"]
    assert client.get_trace_settings(model)["trace_level"] == ["OFF"]
    client.update_trace_settings(settings={"trace_level": "OFF"})
    client.update_trace_settings(model, settings={"trace_level": ["OFF"], "trace_rate": None})
    told = client.get_log_settings()
    assert "log_verbose_level" in told
    assert client.update_log_settings(told) == told


if __name__ == "__main__":
    main(http.InferenceServerClient, CHECKS, __doc__)
