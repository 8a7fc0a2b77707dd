"""What idle connections and active sessions cost ferryd: its memory, and the waiting of others.

    cargo build --release -p ferry-control -p ferry-client --bin ferryd --example sessions
    pip install 'tritonclient[grpc]'
    python control/measure/connections.py --ferryd target/release/ferryd
        --client target/release/examples/sessions [--idle 10000] [--sessions 1000] [--rounds 9]

Idle are connections of gRPC that made a call each and then none. Sessions are over shm, and each sends
a request a second, one session after the other. Beside either, another client sends requests one after
the other (perf_analyzer, 4,000 bytes in the message): its p99 in rounds of before, with, after. ferryd
needs 4 descriptors for each session that it allows and one for each connection: 17,000. Run it
where nothing else runs.
"""

import argparse
import multiprocessing
import os
import re
import statistics
import subprocess

from served import ROOT, ferryd, memory_bytes, raise_descriptors

PERF = ROOT / "control/tests/oip/perf_analyzer"
SPARE = 500
# Of each session, in requests a second.
RATE = 1
PER_PROCESS = 1250
WATCHDOG_SECONDS = 300


def hold(address, count, is_up, is_over):
    """A process with so many connections; each one has made a call."""
    import grpc
    from tritonclient.grpc import service_pb2 as pb
    from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub

    # Without a pool of its own, channels to one address share a connection.
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.keepalive_time_ms", 2**31 - 1)]
    channels, failed = [], 0
    for _ in range(count):
        channels.append(grpc.insecure_channel(address, options=options))
        try:
            asked = pb.ModelReadyRequest(name="echo")
            failed += not GRPCInferenceServiceStub(channels[-1]).ModelReady(asked, timeout=30).ready
        except grpc.RpcError as error:
            failed += 1
            print(f"a connection failed: {error.code().name} {error.details()}", flush=True)
    is_up.put(failed)
    is_over.wait()
    # All are still there, and answer.
    lost = 0
    for channel in channels:
        try:
            GRPCInferenceServiceStub(channel).ModelReady(pb.ModelReadyRequest(name="echo"), timeout=30)
        except grpc.RpcError:
            lost += 1
    is_up.put(lost)
    # Whoever closes a thousand channels one by one may take minutes; the end of the process does it.
    is_up.close()
    is_up.join_thread()
    os._exit(0)


class Idle:
    """`with Idle(…)`: the connections are there."""

    def __init__(self, address, count):
        context = multiprocessing.get_context("spawn")
        self.is_up, self.is_over, self.count = context.Queue(), context.Event(), count
        sizes = [min(PER_PROCESS, count - at) for at in range(0, count, PER_PROCESS)]
        self.all = [
            context.Process(target=hold, args=(address, size, self.is_up, self.is_over))
            for size in sizes
        ]

    def __enter__(self):
        for process in self.all:
            process.start()
        self.failed = sum(self.is_up.get(timeout=WATCHDOG_SECONDS) for _ in self.all)
        return self

    def __exit__(self, *_):
        self.is_over.set()
        self.lost = sum(self.is_up.get(timeout=WATCHDOG_SECONDS) for _ in self.all)
        for process in self.all:
            process.join(WATCHDOG_SECONDS)


class Sessions:
    """`with Sessions(…)`: so many sessions over shm, of which each sends now and then."""

    def __init__(self, client, address, count):
        self.command = [client, address, str(count), str(count * RATE)]
        self.count, self.failed, self.lost = count, 0, 0

    def __enter__(self):
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(self.command, stdin=pipe, stdout=pipe, text=True)
        if self.process.stdout.readline() != "open\n":
            raise SystemExit(f"{' '.join(map(str, self.command))}: its message is above")
        return self

    def __exit__(self, *_):
        answered, _ = self.process.communicate(timeout=60)
        if self.process.returncode or int(answered) < self.count:
            raise SystemExit(f"{' '.join(map(str, self.command))}: {answered} answered")


def p99_us(address, requests):
    command = [PERF, "-m", "echo", "-i", "grpc", "-u", address, "--shape", "INPUT0:10,10,10"]
    command += ["--request-count", str(requests)]
    told = subprocess.run(command, capture_output=True, text=True, timeout=WATCHDOG_SECONDS)
    found = re.search(r"p99 latency: (\d+)", told.stdout)
    if told.returncode or not found:
        raise SystemExit(told.stdout + told.stderr)
    return int(found[1])


def measure(what, make, process, address, asked):
    """The cost of what `make` holds open. Memory is that of the first time, when nothing is kept."""
    p99_us(address, asked.requests)
    alone, beside, ratios, cost, failed = [], [], [], None, 0
    for _ in range(asked.rounds):
        before, memory = p99_us(address, asked.requests), memory_bytes(process.pid)
        with make() as held:
            cost = cost or (memory_bytes(process.pid) - memory)
            during = p99_us(address, asked.requests)
        after = p99_us(address, asked.requests)
        failed += held.failed + held.lost
        alone += [before, after]
        beside.append(during)
        ratios.append(during / ((before + after) / 2))
    ratios.sort()
    print(
        f"| {held.count:,} {what} | {failed} | {cost / held.count / 1024:,.1f} KiB each, {cost / 2**20:,.0f} MiB"
        f" | {statistics.median(alone):,.0f} µs | {statistics.median(beside):,.0f} µs"
        f" | {statistics.median(ratios):.2f} ({ratios[0]:.2f}–{ratios[-1]:.2f}) |",
        flush=True,
    )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ferryd", default=ROOT / "target/release/ferryd")
    parser.add_argument("--client", help="the example `sessions` of ferry-client: measures sessions too")
    parser.add_argument("--idle", type=int, default=10_000)
    parser.add_argument("--sessions", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--requests", type=int, default=2000)
    asked = parser.parse_args()
    # A request without a session counts as one.
    connections, sessions = asked.idle + SPARE, asked.sessions + SPARE
    raise_descriptors(connections + 4 * sessions + SPARE)
    options = ["--connections-max", str(connections), "--quota-sessions", str(sessions)]
    with ferryd(asked.ferryd, *options) as (process, told):
        address = told["listening"]
        print("| | errors | memory | p99 of another | beside them | ratio (rounds), ≤ 1.2 |")
        print("|---|---|---|---|---|---|")
        if asked.idle:
            measure("idle connections", lambda: Idle(address, asked.idle), process, address, asked)
        if asked.client and asked.sessions:
            make = lambda: Sessions(asked.client, address, asked.sessions)
            measure("active sessions", make, process, address, asked)


if __name__ == "__main__":
    main()
