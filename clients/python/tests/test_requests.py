"""What sessions do: slots, replies, several in flight, tasks."""

import asyncio
import gc
import threading
import time

import numpy as np
import pytest

import tensorferry as tf


def test_a_request_over_each_transport_gives_what_was_written(client, transport):
    with client.session("echo", transport=transport, shapes={"input": (256,), "output": (256,)}) as s:
        assert s.transport == transport
        for number in range(5):
            slot = s.slot()
            slot["input"][:] = np.arange(256, dtype=np.uint8) ^ number
            y = s.infer(slot)["output"]
            assert y.dtype == np.uint8 and y.shape == (256,)
            np.testing.assert_array_equal(y, np.arange(256, dtype=np.uint8) ^ number)


def test_the_example_of_the_contract(server):
    x = np.random.default_rng(1).random(64, dtype=np.float32)
    with tf.Client("http://" + server.address) as c, c.session("digits", transport="shm") as s:
        name = s.inputs[0]["name"]
        x = x.reshape(s.inputs[0]["shape"])
        slot = s.slot()
        slot[name][:] = x
        y = s.infer(slot)[0]
        by_value = s.infer({name: x})[0]
        alone = s.infer(x)[0]
    np.testing.assert_array_equal(y, by_value)
    np.testing.assert_array_equal(y, alone)
    assert np.isfinite(y).all()


def test_an_input_is_one_array_and_writes_nothing_else(echo):
    slot = echo.slot()
    assert slot["input"] is slot[0]
    assert slot.keys() == ["input"] and "input" in slot and len(slot) == 1
    assert slot["input"].flags.writeable and slot["input"].flags.c_contiguous


def test_a_reply_keeps_its_slot_exactly_as_long_as_an_array_refers_to_it(client):
    with client.session("echo", transport="shm", slots=1) as s:
        view = s.infer(b_of(s, 7))["output"][1:]
        assert (view == 7).all()
        with pytest.raises(tf.SlotError, match="all 1 slots.*drop a reply"):
            s.slot()
        del view
        reply = s.infer(b_of(s, 8))
        array = reply["output"]
        del reply
        with pytest.raises(tf.SlotError):
            s.slot()
        array[:] = 9  # nobody else uses it
        del array
        s.slot().release()


def test_an_input_array_that_is_kept_keeps_its_slot_too(client):
    with client.session("echo", transport="shm", slots=2) as s:
        slot = s.slot()
        kept = slot["input"]
        kept[:] = 1
        s.infer(slot)
        # The slot of `kept` is not handed out again, so that it still holds what was written.
        one = s.slot()
        one["input"][:] = 5
        with pytest.raises(tf.SlotError):
            s.slot()
        assert (kept == 1).all()


def test_arrays_outlive_session_and_client(server):
    with tf.Client(server.address) as c, c.session("echo", transport="shm") as s:
        slot = s.slot()
        x = slot["input"]
        x[:] = 3
        y = s.infer(slot)["output"]
    del c, s, slot
    gc.collect()
    assert (y == 3).all() and (x == 3).all()
    y[:] = 4


def test_several_are_in_flight_and_come_in_any_order(echo):
    pending = [echo.submit(b_of(echo, number)) for number in range(4)]
    with pytest.raises(tf.SlotError):
        echo.slot()
    for number, it in reversed(list(enumerate(pending))):
        assert (it.result()["output"] == number).all()
        assert it.done()
        with pytest.raises(tf.SlotError, match="taken before"):
            it.result()


def test_what_nobody_waits_for_gives_its_slot_back(echo):
    for _ in range(20):
        for _ in range(3):
            echo.submit(b_of(echo, 1))
        for _ in range(10_000):
            try:
                slots = [echo.slot() for _ in range(4)]
                break
            except tf.SlotError:
                slots = []
                time.sleep(0.001)
        assert slots
        slots.clear()


def test_threads_share_a_session(client):
    with client.session("echo", transport="shm", slots=16) as s:
        failed = []

        def work(mine):
            try:
                for _ in range(200):
                    slot = s.slot()
                    slot["input"][:] = mine
                    y = s.infer(slot)["output"]
                    assert (y == mine).all()
                    del y
            except BaseException as why:  # noqa: BLE001 told below
                failed.append(why)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert not failed and not any(thread.is_alive() for thread in threads)


def test_tasks_share_a_session_beside_a_thread(client, transport):
    with client.session("echo", transport=transport, slots=4) as s:

        async def one(number):
            reply = await s.infer_async({"input": np.full(s.inputs[0]["shape"], number, np.uint8)})
            assert (reply["output"] == number).all()

        async def all_of_them():
            await asyncio.gather(*(one(number) for number in range(60)))

        asyncio.run(all_of_them())
        assert (s.infer(b_of(s, 5))["output"] == 5).all()
        asyncio.run(all_of_them())


def test_a_task_that_is_cancelled_gives_its_slot_back(echo):
    async def cancelled():
        task = asyncio.ensure_future(echo.infer_async(b_of(echo, 1)))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return await echo.infer_async(b_of(echo, 2))

    for _ in range(8):
        assert (asyncio.run(cancelled())["output"] == 2).all()


def test_a_reply_larger_than_its_room_comes_all_the_same(client):
    shapes = {"input": (10,), "output": (100_000,)}
    with client.session("echo", transport="shm", shapes=shapes) as s:
        assert s.infer(b_of(s, 1))["output"].shape == (100_000,)


def test_pictures(client):
    with client.session("digits", transport="shm", request_bytes=1 << 16) as s:
        if not s.takes_pictures:
            pytest.skip("the model takes no pictures")
        slot = s.slot()
        slot.set_jpeg((ROOT / "clients/zoo/digits/digit-7.jpg").read_bytes())
        assert int(np.argmax(s.infer(slot)[0])) == 7
        slot = s.slot()
        slot.set_raw(np.zeros((28, 28), np.uint8))
        assert np.isfinite(s.infer(slot)[0]).all()
        with pytest.raises(tf.RequestError) as told:
            slot = s.slot()
            slot.set_jpeg(b"no picture")
            s.infer(slot)
        assert told.value.status == "bad_picture"


def test_times_and_reprs_say_what_happened(client, echo):
    reply = echo.infer(b_of(echo, 1))
    assert reply.times["total"] > reply.times["server"] > 0
    slot = echo.slot()
    for it, part in [(client, "Client"), (echo, "over shm"), (slot, "input: UINT8"), (reply, "output: UINT8")]:
        assert part in repr(it)
    echo.infer(slot)
    assert "(sent)" in repr(slot)
    assert "<table>" in echo._repr_html_() and "echo" in client.models()._repr_html_()


def test_models_runs_and_sql(client, echo):
    assert client.models()["echo"].inputs[0]["datatype"] == "UINT8"
    with pytest.raises(KeyError, match="there are"):
        client.models()["none"]
    for _ in range(3):
        echo.infer(b_of(echo, 1))
    echo.close()
    assert client.flush()["lost"] == 0
    assert len(client.runs()) >= 1
    rows = client.sql("SELECT 1 AS one, 'x' AS text, NULL AS absent, x'00ff' AS blob, 0.5 AS real")
    assert list(rows) == [{"one": 1, "text": "x", "absent": None, "blob": b"\0\xff", "real": 0.5}]
    assert "<th>one</th>" in rows._repr_html_() and "1 ×" in repr(rows)
    assert len(client.sql("SELECT * FROM (SELECT 1 UNION SELECT 2 UNION SELECT 3)", rows_max=2)) == 2
    with pytest.raises(tf.RefusedError) as refused:
        client.sql("DELETE FROM runs")
    assert refused.value.code in ("INVALID_ARGUMENT", "PERMISSION_DENIED")


def test_tables(client):
    rows = client.sql("SELECT 1 AS a, 'x' AS b UNION ALL SELECT 2, 'y'")
    pandas = pytest.importorskip("pandas")
    assert rows.to_pandas().equals(pandas.DataFrame({"a": [1, 2], "b": ["x", "y"]}))
    pytest.importorskip("pyarrow")
    assert rows.to_arrow().to_pydict() == {"a": [1, 2], "b": ["x", "y"]}


def test_dlpack_of_inputs_and_replies_is_the_memory_itself(echo):
    slot = echo.slot()
    np.from_dlpack(slot["input"])  # NumPy's own export
    torch_like = np.full(slot["input"].shape, 6, np.uint8)

    class Tensor:
        def __dlpack__(self, **asked):
            return torch_like.__dlpack__()

        def __dlpack_device__(self):
            return torch_like.__dlpack_device__()

    slot["input"] = Tensor()
    y = echo.infer(slot)["output"]
    same = np.from_dlpack(y)
    assert (same == 6).all() and same.ctypes.data == y.ctypes.data


def b_of(session, value):
    """A slot that is filled with this byte."""
    slot = session.slot()
    slot["input"][:] = value
    return slot


ROOT = __import__("pathlib").Path(__file__).resolve().parents[3]
