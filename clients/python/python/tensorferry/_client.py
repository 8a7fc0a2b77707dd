"""Clients and sessions: the compiled half, with what needs no speed."""

import asyncio
import atexit
import os
import threading
import time
import weakref

from . import _native
from ._arrays import fill
from ._rows import Rows, table
from .errors import ClosedError, RefusedError, ReplyTimeout, SlotError, UnknownName

# Everything that is open: closed before the interpreter goes.
_open = weakref.WeakSet()

# How long the interpreter waits at its end for threads that are in a call.
_LEAVE_WITHIN_S = 2.0

# How often a task looks for a free slot: a slot is free when its last array goes, which tells nobody.
_SLOT_EVERY_S = 0.001


class Client(_native.Client):
    """A connection to a server: `with Client("http://127.0.0.1:7077") as client: …`

    `server` is `HOST:PORT`, with `http://` before it or not; `key` is the key of a tenant. Raises
    `ConnectionFailed` if nobody answers there. Any thread may use it.
    """

    def __init__(self, server, key=None):
        self._sessions = weakref.WeakSet()
        _open.add(self)

    def session(self, model, **options):
        """Opens a session with a model. See `Session` for the options."""
        return Session(self, model, **options)

    def models(self):
        """The models that are served: `client.models()["digits"].inputs`."""
        return Models(Model(told) for told in self._models())

    def runs(self, limit=0):
        """The latest runs of the history, as rows. `limit` 0 is the server's default."""
        told = self._runs(limit)
        columns = list(told[0]) if told else ["run_id"]
        return Rows(columns, [tuple(run.values()) for run in told])

    def sql(self, query, rows_max=0):
        """Rows of one SELECT over the store (docs/SQL.md). `rows_max` 0 is the server's bound."""
        return Rows(*self._sql(query, rows_max))

    def close(self):
        """Ends the sessions that are open, and the connection. Twice is once.

        Where the server does not answer, it ends the sessions with their leases.
        """
        for session in list(self._sessions):
            _end(session)
        self._close()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()

    def __repr__(self):
        return f"<tensorferry.Client {self.server}{' (closed)' if self.closed else ''}>"


def _end(session):
    try:
        session.close()
    except (RefusedError, ReplyTimeout):
        pass  # The lease ends it, as that of a program that was killed.


class Session(_native.Session):
    """A session with a model: its slots, and the link that carries them.

    Made by `Client.session(model, …)`. Options, each by its name:

    * `transport`: `shm`, `tcp`, `zmq`, `grpc`, `rdma`, `cuda-ipc`; the server chooses if not said, and
      `transport_reason` tells why. A transport that is named is used, or an error tells why not.
    * `slots`: requests in flight and replies that are kept, 64 at most; `version` of the model;
      `shapes`: `{"input": (8, 3, 224, 224)}` where dimensions are open; `timeout` in seconds, 60 if
      not said; `wait`: `adaptive`, `spin` or `block`; `place`: `pinned`, `mapped`, `cuda:N`, … for a
      model on a GPU; `request_bytes`, `reply_bytes`: room for pictures and for outputs whose size is
      open; `run`: the run to record under; `record`: whether to record at all.

    Any thread may use it; threads that wait do not hold the interpreter.
    """

    def __new__(cls, client, model, *, shapes=None, **options):
        shapes = list(shapes.items()) if hasattr(shapes, "items") else shapes
        session = super().__new__(cls, client, model, shapes=shapes, **options)
        session._futures = None
        session._starting = threading.Lock()
        client._sessions.add(session)
        _open.add(session)
        return session

    def __init__(self, client, model, **options):
        """What `Client.session` says."""

    async def infer_async(self, inputs):
        """Sends a slot, or arrays as `infer` takes them, and waits for the reply in a task.

        With arrays it also waits for a free slot. A task that is cancelled forgets the answer.
        """
        slot = inputs if isinstance(inputs, _native.Slot) else await self._filled(inputs)
        loop = asyncio.get_running_loop()
        future, pending = self._watched().send(self, loop, slot)
        try:
            await future
        finally:
            self._futures.forget(pending)
        return pending.result(0.001)

    async def _filled(self, inputs):
        while True:
            try:
                return fill(self.slot(), inputs)
            except SlotError:
                await asyncio.sleep(_SLOT_EVERY_S)

    def _watched(self):
        with self._starting:
            if self._futures is None:
                self._futures = _Futures(self)
            return self._futures

    def __enter__(self):
        return self

    def __exit__(self, *error):
        _end(self)

    def __repr__(self):
        tensor = lambda it: f"{it['name']}: {it['datatype']} {it['shape']}"  # noqa: E731
        inputs, outputs = (", ".join(map(tensor, of)) for of in (self.inputs, self.outputs))
        return (
            f"<tensorferry.Session {self.model} v{self.version} over {self.transport}, "
            f"{self.slots} slots: {inputs} → {outputs}>"
        )

    def _repr_html_(self):
        rows = [
            (kind, it["name"], it["datatype"], it["shape"])
            for kind, of in (("input", self.inputs), ("output", self.outputs))
            for it in of
        ]
        return f"<p><b>{self.model}</b> v{self.version} over {self.transport}, {self.slots} slots</p>" + table(
            ["", "name", "type", "shape"], rows, len(rows)
        )


class _Futures:
    """Futures of tasks that wait for a session, and the thread that looks for their answers."""

    def __init__(self, session):
        self._lock = threading.Lock()
        # At most one for each request in flight.
        self._waiting = {}
        thread = threading.Thread(
            target=self._look, args=(session._watch(),), name="tensorferry-watch", daemon=True
        )
        thread.start()

    def send(self, session, loop, slot):
        future = loop.create_future()
        # The answer may come before its number is known here.
        with self._lock:
            pending = session.submit(slot, _watched=True)
            self._waiting[pending.request] = (loop, future)
        return future, pending

    def forget(self, pending):
        with self._lock:
            self._waiting.pop(pending.request, None)

    def _look(self, watch):
        while True:
            try:
                come = watch.wait()
            except ClosedError as closed:
                self._end(closed)
                return
            for request in come:
                with self._lock:
                    waiting = self._waiting.pop(request, None)
                if waiting is not None:
                    _tell(*waiting)

    def _end(self, why):
        with self._lock:
            waiting, self._waiting = self._waiting, {}
        for loop, future in waiting.values():
            _tell(loop, future, why)


def _tell(loop, future, why=None):
    def tell():
        if future.done():
            return
        if why is None:
            future.set_result(None)
        else:
            future.set_exception(why)

    try:
        loop.call_soon_threadsafe(tell)
    except RuntimeError:
        pass  # The loop is closed: nobody waits.


class Model:
    """A model that a server has, with the fields of `Models.List` as attributes."""

    def __init__(self, told):
        self.__dict__.update(told)

    def __repr__(self):
        return f"<tensorferry.Model {self.name} v{self.version} {self.state}, {self.engine or 'no engine'}>"


class Models(list):
    """Models, by place or by name."""

    def __getitem__(self, key):
        if not isinstance(key, str):
            return super().__getitem__(key)
        for model in self:
            if model.name == key:
                return model
        raise UnknownName(f"there is no model {key!r}; there are {[model.name for model in self]}")

    def _repr_html_(self):
        rows = [(it.name, it.version, it.state, it.engine, it.device) for it in self]
        return table(["name", "version", "state", "engine", "device"], rows, len(rows))


def _leave():
    """Nothing of this package runs when the interpreter goes."""
    for it in list(_open):
        try:
            it.close()
        except Exception:  # noqa: BLE001 what cannot be told ends with its lease
            pass
    end = time.monotonic() + _LEAVE_WITHIN_S
    while _native.threads_away() and time.monotonic() < end:
        time.sleep(0.001)


atexit.register(_leave)
os.register_at_fork(after_in_child=_native.forked)
