"""A ferryd of one's own, for the scripts beside this one."""

import json
import pathlib
import resource
import subprocess
import tempfile
from contextlib import contextmanager

ROOT = pathlib.Path(__file__).resolve().parents[2]


@contextmanager
def ferryd(binary, *options):
    """Starts it with a store on a disk, as it is used; gives its process and what its line of start says."""
    with tempfile.TemporaryDirectory(prefix="ferry-measure-") as folder:
        command = [binary, "--listen", "127.0.0.1:0", "--store", f"sqlite:{folder}/runs.db"]
        process = subprocess.Popen(
            [*command, "--log", "warn", *options], stdout=subprocess.PIPE, text=True
        )
        try:
            line = process.stdout.readline()
            if not line:
                raise SystemExit(f"{binary} did not start; its message is above")
            yield process, json.loads(line)
        finally:
            process.terminate()
            process.wait(timeout=60)


def has_option(binary, option):
    told = subprocess.run([binary, "--help"], capture_output=True, text=True, check=True)
    return f"{option} " in told.stdout


def raise_descriptors(wanted):
    """For this process and those that it starts; only root may go beyond the hard limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= wanted:
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, max(wanted, hard)))
    except ValueError:
        raise SystemExit(f"{wanted} descriptors are needed and {hard} allowed: ulimit -Hn {wanted}") from None


def memory_bytes(pid):
    """What a process holds of the machine's memory, its share of what it shares included."""
    with open(f"/proc/{pid}/smaps_rollup") as file:
        (line,) = [line for line in file if line.startswith("Pss:")]
    return int(line.split()[1]) * 1024
