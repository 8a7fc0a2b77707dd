"""The cases, in the order of the table."""

from . import infer, memory, methods, rest, streams  # noqa: F401 (each adds its cases)
from .base import CASES, Answer, Side, answer
from .differences import why

ORDER = ["infer", "streams", "memory", "methods", "rest"]
ALL = sorted(CASES, key=lambda it: ORDER.index(it.run.__module__.rpartition(".")[2]))

__all__ = ["ALL", "Answer", "Side", "answer", "why"]
