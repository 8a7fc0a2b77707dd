"""What two servers of the Open Inference Protocol answer to the same cases: ours and a Triton.

    pip install 'tritonclient[grpc]' numpy
    python control/tests/oip/conformance.py --ours HOST:PORT --theirs HOST:PORT
        [--http-ours HOST:PORT --http-theirs HOST:PORT] [--revive 'tritonserver …'] [--write FILE]

Both need an identity of three dimensions (INPUT0, OUTPUT0, FP32): here that is `echo`, at Triton
its identity backend (build-triton makes one). The two must run on this host: shared memory is part
of the cases. Some cases end a Triton; `--revive` says how to start it again.

Prints a line for each case: both statuses, and the texts where the statuses differ. Ends with 1 if
a status differs and `cases/differences.py` has no reason for it. `--write` puts the table into FILE,
between its lines `<!-- conformance -->` and `<!-- /conformance -->`.

With `--check FILE` in place of `--theirs`, it looks whether ours still answers as that table says.
"""

import argparse
import datetime
import shlex
import subprocess
import sys
import time

import grpc
from cases import ALL, Answer, Side, answer, why
from tritonclient.grpc import service_pb2 as pb

BEGIN, END = "<!-- conformance -->", "<!-- /conformance -->"
DIED = Answer("(the server ended)")
TEXT_MAX = 110


class Server:
    """A side that is started again when a case ended it."""

    def __init__(self, side, revive=None):
        self.side, self.revive, self.process = side, revive, None

    def answer(self, case):
        if not self.ready():
            return Answer("(not running)")
        told = answer(self.side, case)
        if told.code == "UNAVAILABLE":
            time.sleep(0.2)  # a process that dies takes a moment to be gone
        return told if self.side.is_up() else DIED

    def ready(self):
        if self.side.is_up():
            return True
        if self.revive:
            self.stop()
            self.process = subprocess.Popen(shlex.split(self.revive), stderr=subprocess.DEVNULL)
        for _ in range(60 if self.revive else 0):
            self.side.connect()
            if self.side.is_up() and self.model_is_ready():
                return True
            time.sleep(0.5)
        return False

    def model_is_ready(self):
        try:
            asked = pb.ModelReadyRequest(name=self.side.model)
            return self.side.call("ModelReady", asked).ready
        except grpc.RpcError:
            return False

    def version(self):
        told = self.side.call("ServerMetadata", pb.ServerMetadataRequest())
        return f"{told.name} {told.version}"

    def stop(self):
        if self.process:
            self.process.terminate()
            self.process.wait(timeout=60)
            self.process = None


def options():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ours", required=True)
    other = parser.add_mutually_exclusive_group(required=True)
    other.add_argument("--theirs")
    other.add_argument("--check", metavar="FILE")
    parser.add_argument("--http-ours")
    parser.add_argument("--http-theirs")
    parser.add_argument("--model-ours", default="echo")
    parser.add_argument("--model-theirs", default="identity")
    parser.add_argument("--revive", help="command that starts theirs again, in the foreground")
    parser.add_argument("--write", metavar="FILE")
    return parser.parse_args()


def selected(given):
    """The cases that these options can run; deadly ones last."""
    has_http = given.http_ours and (given.http_theirs or given.check)
    cases = [it for it in ALL if it.protocol == "grpc" or has_http]
    return sorted(cases, key=lambda it: it.is_deadly)


def compared(given):
    """Rows of case, theirs, ours."""
    ours = Server(Side("ours", given.ours, given.http_ours, given.model_ours))
    theirs = Server(
        Side("theirs", given.theirs, given.http_theirs, given.model_theirs), given.revive
    )
    rows = []
    try:
        for case in selected(given):
            rows.append((case, theirs.answer(case), ours.answer(case)))
            show(*rows[-1])
        theirs.ready()
        versions = f"{theirs.version()} beside {ours.version()}"
    finally:
        theirs.stop()
    return rows, versions


def is_same(theirs, ours):
    return theirs.code == ours.code


def show(case, theirs, ours):
    mark = " " if is_same(theirs, ours) else "≠" if why(case, theirs, ours) else "!"
    print(f"{mark} {case.group}: {case.name}\n      {theirs.code:20} {theirs.text[:TEXT_MAX]}")
    print(f"      {ours.code:20} {ours.text[:TEXT_MAX]}", flush=True)


def cell(text):
    return text.replace("|", "\\|").replace("<", "&lt;")


def row(case, theirs, ours):
    reason = "" if is_same(theirs, ours) else why(case, theirs, ours) or "**not explained**"
    both = [f"`{it.code}` {cell(it.text[:TEXT_MAX])}".rstrip() for it in (theirs, ours)]
    return f"| {case.name} | {' | '.join(both)} | {reason} |"


def table(rows, versions):
    lines = [BEGIN, f"{versions}, {datetime.date.today()}."]
    group = None
    for case, theirs, ours in sorted(rows, key=lambda it: ALL.index(it[0])):
        if case.group != group:
            group = case.group
            lines += ["", f"| {group} | Triton | here | why another status |", "|---|---|---|---|"]
        lines.append(row(case, theirs, ours))
    return "\n".join([*lines, END])


def write(path, text):
    with open(path) as file:
        old = file.read()
    before, _, rest = old.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        sys.exit(f"{path} has no {BEGIN} … {END}")
    with open(path, "w") as file:
        file.write(before + text + after)


def documented(path):
    """Our status by case, as the table says."""
    with open(path) as file:
        rows = file.read().partition(BEGIN)[2].partition(END)[0].splitlines()
    cells = [[it.strip() for it in row.replace("\\|", "").split("|")] for row in rows if row[:2] == "| "]
    group, told = None, {}
    for _, name, theirs, ours, *_ in cells:
        if theirs == "Triton":
            group = name
        else:
            told[group, name] = ours.split("`")[1]
    return told


def check(given):
    ours = Server(Side("ours", given.ours, given.http_ours, given.model_ours))
    told = documented(given.check)
    failed = 0
    for case in selected(given):
        answered, expected = ours.answer(case), told.get(case.key, "no line for it")
        if answered.code != expected:
            failed += 1
            print(f"FAILED  {case.group}: {case.name}: {answered.code} {answered.text}")
            print(f"        {given.check}: {expected}")
    print(f"{len(told)} cases of the table, {failed} answered otherwise")
    return failed == 0 and len(told) > 0


def main():
    given = options()
    if given.check:
        sys.exit(0 if check(given) else 1)
    rows, versions = compared(given)
    if given.write:
        write(given.write, table(rows, versions))
    other = [it for it in rows if not is_same(it[1], it[2])]
    unexplained = [case for case, *both in other if not why(case, *both)]
    print(f"{len(rows)} cases, {len(other)} with another status, {len(unexplained)} not explained")
    for case in unexplained:
        print(f"not explained: {case.group}: {case.name}")
    sys.exit(1 if unexplained else 0)


if __name__ == "__main__":
    main()
