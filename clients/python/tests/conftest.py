"""A ferryd of the tests' own: FERRYD names the binary."""

import json
import os
import pathlib
import signal
import subprocess

import pytest

import tensorferry as tf

ROOT = pathlib.Path(__file__).resolve().parents[3]
FERRYD = os.environ.get("FERRYD", str(ROOT / "target/debug/ferryd"))
FERRY = os.environ.get("FERRY", str(ROOT / "target/debug/ferry"))


# Of `echo`, which has open dimensions.
BYTES = {"input": (1024,), "output": (1024,)}


class Server:
    """A ferryd that runs, and where it listens."""

    def __init__(self, folder, *options):
        models = folder / "models"
        models.mkdir(exist_ok=True)
        if not any(models.iterdir()):
            made = subprocess.run(
                [FERRY, "zoo", "write", "digits", "--out", models], capture_output=True, text=True
            )
            assert made.returncode == 0, made.stderr
        command = [FERRYD, "--listen", "127.0.0.1:0", "--store", f"sqlite:{folder}/runs.db"]
        command += ["--models", models, "--log", "warn", *options]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE)
        self.ready = json.loads(self.process.stdout.readline())
        self.address = self.ready["listening"]

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        self.process.wait(30)
        self.process.stdout.close()


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("ferryd"))
    yield server
    server.stop()


@pytest.fixture
def own_server(tmp_path):
    """One that a test may kill."""
    server = Server(tmp_path)
    yield server
    server.stop()


@pytest.fixture
def client(server):
    with tf.Client(server.address) as client:
        yield client


@pytest.fixture(params=["shm", "tcp", "zmq", "grpc"])
def transport(request):
    return request.param


@pytest.fixture
def echo(client):
    """A session whose replies are its requests."""
    with client.session("echo", shapes=BYTES, transport="shm", slots=4) as session:
        yield session
