"""What bad use gets: an error that names the fix, and nothing is leaked."""

import os
import pathlib
import signal
import subprocess
import sys
import textwrap
import threading
import time
from contextlib import contextmanager

import numpy as np
import pytest

import tensorferry as tf
from test_requests import b_of


def test_a_slot_in_flight_is_neither_read_nor_written(echo):
    slot = echo.slot()
    kept = slot["input"]
    kept[:] = 1
    pending = echo.submit(slot)
    for use in (
        lambda: slot["input"],
        lambda: slot.__setitem__("input", kept),
        lambda: slot.set_jpeg(b""),
        lambda: echo.infer(slot),
        lambda: echo.submit(slot),
    ):
        with pytest.raises(tf.SlotError, match="was sent"):
            use()
    with pytest.raises(ValueError, match="read-only"):
        kept[:] = 2
    with pytest.raises(ValueError):
        kept.flags.writeable = True
    assert (pending.result()["output"] == 1).all()
    with pytest.raises(ValueError, match="read-only"):
        kept[0] = 2


def test_arrays_that_do_not_fit_are_refused_by_name(client, echo):
    slot = echo.slot()
    shape = slot["input"].shape
    for value, says in [
        (np.zeros(shape, np.float32), r"UINT8.*float32.*astype\('uint8'\)"),
        (np.zeros(3, np.uint8), r"shape .* and \[3\] was given.*reshape"),
        (np.zeros(shape + (1,), np.uint8), "reshape"),
        ([0.5] * shape[0], "float64"),
        ("text", "shape"),
    ]:
        with pytest.raises(tf.TensorError, match=says):
            slot["input"] = value
    with pytest.raises(tf.UnknownName, match='no input "in"; it has input$'):
        slot["in"]
    with pytest.raises(KeyError, match="has no input 1"):
        slot[1]
    with pytest.raises(KeyError, match="has no output"):
        echo.infer(slot)["input"]
    with pytest.raises(tf.TensorError, match="missing.*input"):
        echo.infer({})


def test_bits_of_bfloat16_are_never_taken_for_numbers():
    from tensorferry._arrays import copy_into

    into = np.zeros(2, np.uint16)
    with pytest.raises(tf.TensorError, match="BF16.*float32.*ml_dtypes"):
        copy_into(None, "x", "BF16", into, np.ones(2, np.float32))
    copy_into(None, "x", "BF16", into, np.array([0x3F80, 0], np.uint16))
    assert into.tolist() == [0x3F80, 0]


def test_any_order_of_elements_is_copied_right_and_read_only_arrays_are_read(client):
    with client.session("digits", transport="shm") as s:
        shape = s.inputs[0]["shape"]
        x = np.random.default_rng(2).random(shape, dtype=np.float32)
        expected = s.infer(x)[0].copy()
        fortran = np.asfortranarray(x)
        strided = np.zeros(shape[:-1] + [shape[-1] * 2], np.float32)[..., ::2]
        strided[...] = x
        frozen = x.copy()
        frozen.flags.writeable = False
        for given in (fortran, strided, frozen):
            np.testing.assert_array_equal(s.infer(given)[0], expected)


def test_a_tensor_on_a_device_is_told_how_to_come_here(echo):
    class OnDevice:
        device = "cuda:0"
        __cuda_array_interface__ = {"shape": (1,), "typestr": "|u1", "data": (0, False), "version": 2}

        def __dlpack__(self, **asked):
            raise BufferError

        def __dlpack_device__(self):
            return (2, 0)

    with pytest.raises(tf.DeviceError, match=r"cuda:0.*\.cpu\(\).*cuda-ipc"):
        echo.slot()["input"] = OnDevice()


def test_a_slot_belongs_to_its_session(client, echo):
    with client.session("echo", transport="shm") as other:
        with pytest.raises(tf.SlotError, match="another session"):
            other.infer(echo.slot())
        with pytest.raises(TypeError):
            tf.Slot()


def test_after_close_everything_says_so_and_twice_is_once(server):
    client = tf.Client(server.address)
    session = client.session("echo", transport="shm")
    slot, pending = session.slot(), session.submit(session.slot())
    array = slot["input"]
    assert session.close()["lost"] == 0 and session.close() is None and session.closed
    with pytest.raises(tf.ClosedError, match="open another"):
        session.slot()
    with pytest.raises(tf.ClosedError):
        session.infer(slot)
    with pytest.raises(tf.ClosedError):
        pending.result()
    array.sum()
    client.close()
    client.close()
    assert client.closed
    with pytest.raises(tf.ClosedError, match="make another"):
        client.models()
    with pytest.raises(tf.ClosedError):
        client.session("echo")


@contextmanager
def stopped(server):
    """Nothing is answered meanwhile."""
    server.process.send_signal(signal.SIGSTOP)
    tasks = f"/proc/{server.process.pid}/task"
    state = lambda task: pathlib.Path(tasks, task, "stat").read_text().rsplit(")", 1)[1].split()[0]  # noqa: E731
    while any(state(task) != "T" for task in os.listdir(tasks)):
        time.sleep(0.001)
    try:
        yield
    finally:
        server.process.send_signal(signal.SIGCONT)


def test_closing_ends_who_waits(own_server):
    with tf.Client(own_server.address) as client:
        session = client.session("echo", transport="shm", slots=2)
        told = []

        def wait():
            try:
                session.infer(b_of(session, 1))
            except tf.TensorferryError as why:
                told.append(type(why))

        with stopped(own_server):
            waiting = threading.Thread(target=wait)
            waiting.start()
            time.sleep(0.1)
            # It tells the server, which does not answer yet.
            closing = threading.Thread(target=session.close)
            closing.start()
            waiting.join(30)
            assert told == [tf.ClosedError]
        closing.join(30)
        assert session.closed and not closing.is_alive()


def test_what_does_not_come_in_time_is_told_and_can_come_later(own_server):
    with tf.Client(own_server.address) as client:
        session = client.session("echo", transport="shm", slots=2)
        with stopped(own_server):
            pending = session.submit(b_of(session, 1))
            with pytest.raises(tf.ReplyTimeout, match="within 50ms; .* still in flight"):
                pending.result(timeout=0.05)
            with pytest.raises(TimeoutError):
                session.infer(b_of(session, 2), timeout=0.05)
            with pytest.raises(tf.SlotError):
                session.slot()
        assert pending.result()["output"][0] == 1
        # The other reply is nobody's, and its slot comes back.
        for _ in range(10_000):
            try:
                reply = session.infer(b_of(session, 3))
                break
            except tf.SlotError:
                time.sleep(0.001)
        assert reply["output"][0] == 3


def test_refusals_name_what_would_do(client):
    with pytest.raises(tf.RefusedError, match="digits") as refused:
        client.session("digit")
    assert refused.value.code == "NOT_FOUND"
    with pytest.raises(ValueError, match="known are .*shm"):
        client.session("echo", transport="carrier pigeon")
    with pytest.raises(ValueError, match="adaptive"):
        client.session("echo", wait="never")
    for timeout in (0, -1, float("nan")):
        with pytest.raises(ValueError, match="more than 0"):
            client.session("echo", timeout=timeout)
    with pytest.raises(tf.ConnectionFailed, match="is ferryd running"):
        tf.Client("127.0.0.1:1")
    with pytest.raises(tf.ConnectionFailed, match="HOST:PORT"):
        tf.Client("ftp://127.0.0.1:1")
    assert issubclass(tf.ConnectionFailed, ConnectionError)


def test_a_server_that_dies_is_told_and_its_threads_come_back(own_server):
    with tf.Client(own_server.address) as client:
        session = client.session("echo", transport="shm", slots=2)
        session.infer(b_of(session, 1))
        slot = session.slot()
        array = slot["input"]
        own_server.process.kill()
        own_server.process.wait()
        with pytest.raises((tf.LinkLost, tf.RefusedError)):
            session.infer(slot)
            session.infer(b_of(session, 1))
        array[...].sum()


def in_python(server, text):
    """Runs a program to its end; a crash is a negative code."""
    program = textwrap.dedent(text)
    command = [sys.executable, "-X", "faulthandler", "-c", program, server.address]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


START = """
        import sys, os, threading, time
        import numpy as np
        import tensorferry as tf
        c = tf.Client(sys.argv[1])
        s = c.session("echo", transport="shm", slots=4)
        def filled(value):
            slot = s.slot()
            slot["input"][:] = value
            return slot
"""


def test_an_interpreter_that_ends_with_requests_in_flight_ends(server):
    for ending in ("", "sys.exit(0)", "del s, c", "c.close()"):
        ended = in_python(
            server,
            START
            + f"""
        pending = [s.submit(filled(1)) for _ in range(3)]
        y = s.infer(filled(2))["output"]
        def forever():
            while True:
                s.infer(filled(3))
        threading.Thread(target=forever, daemon=True).start()
        time.sleep(0.05)
        {ending}
""",
        )
        assert ended.returncode == 0, (ending, ended.stderr)


def test_a_child_of_fork_is_told_to_make_its_own_and_leaves_the_parents_alone(server):
    ended = in_python(
        server,
        START
        + """
        slot, pending = filled(1), s.submit(filled(2))
        child = os.fork()
        if child == 0:
            failed = 0
            for use in (s.slot, lambda: s.infer(slot), lambda: slot["input"], pending.result,
                        c.models, lambda: c.session("echo"), s.close, c.close, pending.done):
                try:
                    use()
                except tf.ForkedError as why:
                    assert "spawn" in str(why)
                else:
                    failed = 3
            del slot, pending, s, c
            with tf.Client(sys.argv[1]) as own, own.session("echo", transport="shm") as session:
                session.infer(np.zeros(session.inputs[0]["shape"], np.uint8))
            sys.stdout.flush()
            sys.exit(failed)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0, status
        assert (pending.result()["output"] == 2).all()
        assert (s.infer(slot)["output"] == 1).all()
""",
    )
    assert ended.returncode == 0, ended.stderr


def test_ctrl_c_ends_a_wait(own_server):
    program = textwrap.dedent(
        START
        + """
        import signal
        print("open")
        input()
        try:
            threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
            s.infer(filled(1))
        except KeyboardInterrupt:
            print("interrupted")
        input()
        assert (s.infer(filled(4))["output"] == 4).all()
        """
    )
    command = [sys.executable, "-X", "faulthandler", "-u", "-c", program, own_server.address]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as program:
        assert program.stdout.readline() == "open\n"
        with stopped(own_server):
            print(file=program.stdin, flush=True)
            assert program.stdout.readline() == "interrupted\n"
        print(file=program.stdin, flush=True)
        assert program.wait(60) == 0


def test_nothing_is_left_of_many_sessions(server):
    def left():
        return len(os.listdir("/proc/self/fd")), threading.active_count()

    def once():
        with tf.Client(server.address) as client:
            session = client.session("echo", transport="shm")
            pending = [session.submit(b_of(session, 1)) for _ in range(2)]
            y = pending[0].result()["output"]
            session.close()
            assert (y == 1).all()

    once()
    before = left()
    for _ in range(20):
        once()
    assert left() == before
