"""Clients and sessions."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Optional, SupportsIndex, Union, overload

from . import _native
from ._native import Reply
from ._rows import Rows

Shapes = Mapping[str, Sequence[int]]
Transport = Literal["auto", "shm", "tcp", "zmq", "grpc", "rdma", "gdr", "cuda-ipc"]

class Client(_native.Client):
    def __init__(self, server: str, key: Optional[str] = None) -> None: ...
    def session(
        self,
        model: str,
        *,
        version: int = 0,
        transport: Optional[Transport] = None,
        wait: Literal["adaptive", "spin", "block"] = "adaptive",
        place: Optional[str] = None,
        slots: int = 4,
        shapes: Optional[Shapes] = None,
        request_bytes: int = 0,
        reply_bytes: int = 0,
        run: int = 0,
        record: bool = True,
        timeout: Optional[float] = None,
    ) -> Session: ...
    def models(self) -> Models: ...
    def runs(self, limit: int = 0) -> Rows: ...
    def sql(self, query: str, rows_max: int = 0) -> Rows: ...
    def close(self) -> None: ...
    def __enter__(self) -> Client: ...
    def __exit__(self, *error: object) -> None: ...

class Session(_native.Session):
    def __new__(cls, client: Client, model: str, *, shapes: Optional[Shapes] = None, **options: Any) -> Session: ...
    async def infer_async(self, inputs: Any) -> Reply: ...
    def __enter__(self) -> Session: ...
    def __exit__(self, *error: object) -> None: ...

class Model:
    name: str
    version: int
    state: Literal["available", "loaded", "failed"]
    error: str
    engine: str
    engine_version: str
    device: str
    precision: str
    inputs: list[dict[str, Any]]
    outputs: list[dict[str, Any]]
    instances: int
    threads: int
    queue: int
    takes_pictures: bool
    description: str
    sha256: str
    labels: list[str]
    batches: str
    aliases: list[str]
    notes: list[str]
    stats: dict[str, int]

class Models(list[Model]):
    @overload  # type: ignore[override]
    def __getitem__(self, key: Union[SupportsIndex, str]) -> Model: ...
    @overload
    def __getitem__(self, key: slice) -> list[Model]: ...
