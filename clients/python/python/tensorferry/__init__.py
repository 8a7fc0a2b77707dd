"""Tensorferry: inference over shared memory, RDMA and TCP, without a copy where that is possible.

    import tensorferry as tf

    with tf.Client("http://127.0.0.1:7077") as c, c.session("digits", transport="shm") as s:
        slot = s.slot()
        slot["input"][:] = x          # the memory that the model reads
        reply = s.infer(slot)
        y = reply["output"]           # a view; copy() to keep it beyond many replies
"""

from ._client import Client, Model, Models, Session
from ._native import DeviceMemory, Pending, Reply, Slot, __version__
from ._rows import Rows
from .errors import *  # noqa: F403
from .errors import __all__ as _errors

__all__ = [
    "Client",
    "DeviceMemory",
    "Model",
    "Models",
    "Pending",
    "Reply",
    "Rows",
    "Session",
    "Slot",
    "__version__",
    *_errors,
]
