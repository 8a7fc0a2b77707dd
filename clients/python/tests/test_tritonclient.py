"""The helper beside what tritonclient does."""

import threading

import numpy as np
import pytest

import tensorferry.tritonclient as grpcclient


@pytest.fixture
def triton(server):
    with grpcclient.InferenceServerClient(server.address) as client:
        yield client


def tensor_of(array, name="input", datatype="UINT8"):
    tensor = grpcclient.InferInput(name, list(array.shape), datatype)
    tensor.set_data_from_numpy(array)
    return tensor


def test_a_program_for_tritonclient_runs_as_it_is(triton):
    assert triton.is_server_live() and triton.is_server_ready()
    assert triton.is_model_ready("digits") and not triton.is_model_ready("none")
    told = triton.get_model_metadata("digits")
    spec = told["inputs"][0]
    shape = [1 if dim == -1 else dim for dim in spec["shape"]]
    x = np.random.default_rng(3).random(shape, dtype=np.float32)
    outputs = [grpcclient.InferRequestedOutput(told["outputs"][0]["name"])]
    results = [
        triton.infer("digits", [tensor_of(x, spec["name"], "FP32")], outputs=outputs, request_id="7")
        for _ in range(20)
    ]
    first = results[0].as_numpy(outputs[0].name())
    # They are copies, which may all be kept.
    for result in results:
        np.testing.assert_array_equal(result.as_numpy(outputs[0].name()), first)
    assert results[0].get_response()["id"] == "7" and results[0].as_numpy("none") is None


def test_threads_share_a_client_and_wait_for_slots(triton):
    x = np.arange(64, dtype=np.uint8)
    failed = []

    def work():
        try:
            for _ in range(50):
                got = triton.infer("echo", [tensor_of(x)]).as_numpy("output")
                assert (got[: len(x)] == x[: len(got)]).all()
        except BaseException as why:  # noqa: BLE001 told below
            failed.append(why)

    threads = [threading.Thread(target=work) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failed


def test_sessions_are_kept_by_shapes_and_not_for_ever(triton):
    for length in range(1, grpcclient.SESSIONS_MAX + 4):
        x = np.full(length, length, np.uint8)
        triton.infer("echo", [tensor_of(x)])
        triton.infer("echo", [tensor_of(x)])
    assert len(triton._sessions) == grpcclient.SESSIONS_MAX


def test_errors_are_tritonclients(triton):
    x = np.zeros(8, np.uint8)
    with pytest.raises(grpcclient.InferenceServerException) as refused:
        triton.infer("none", [tensor_of(x)])
    assert refused.value.status() == "StatusCode.NOT_FOUND" and refused.value.message()
    with pytest.raises(grpcclient.InferenceServerException, match="expected FP32"):
        grpcclient.InferInput("input", [8], "FP32").set_data_from_numpy(x)
    with pytest.raises(grpcclient.InferenceServerException, match="shape"):
        grpcclient.InferInput("input", [9], "UINT8").set_data_from_numpy(x)
    with pytest.raises(grpcclient.InferenceServerException, match="set_data_from_numpy first"):
        triton.infer("echo", [grpcclient.InferInput("input", [8], "UINT8")])
    with pytest.raises(grpcclient.InferenceServerException, match="by themselves"):
        grpcclient.InferInput("input", [8], "UINT8").set_shared_memory("region", 8)
    with pytest.raises(grpcclient.InferenceServerException, match="tritonclient.grpc"):
        triton.infer("echo", [tensor_of(x)], sequence_id=1)
