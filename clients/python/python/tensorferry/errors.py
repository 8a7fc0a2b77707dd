"""What can go wrong, by what a program can do about it. Each message names the cause and the fix."""

import re

__all__ = [
    "ClosedError",
    "ConnectionFailed",
    "DeviceError",
    "ForkedError",
    "LinkLost",
    "RefusedError",
    "ReplyTimeout",
    "RequestError",
    "SlotError",
    "TensorError",
    "TensorferryError",
    "UnknownName",
]


class TensorferryError(Exception):
    """Anything that this package raises of its own."""


class ConnectionFailed(TensorferryError, ConnectionError):
    """No server answers at the address, or it is no address."""


class RefusedError(TensorferryError):
    """The server refused a call. `code` is gRPC's, such as `NOT_FOUND`."""

    def __init__(self, message, code="Unknown"):
        super().__init__(message)
        self.code = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", code).upper()

    def __reduce__(self):
        return type(self), (self.args[0], self.code)


class RequestError(TensorferryError):
    """The server answered a request with something else than outputs.

    `status` says what: `overloaded`, `bad_picture`, `engine_failed`, … `request` is its number.
    """

    def __init__(self, message, status="", request=0):
        super().__init__(message)
        self.status = status
        self.request = request

    def __reduce__(self):
        return type(self), (self.args[0], self.status, self.request)


class LinkLost(TensorferryError, ConnectionError):
    """The link broke: whether requests in flight ran is not known. The next `slot()` resumes."""


class ReplyTimeout(TensorferryError, TimeoutError):
    """The reply has not come in time."""


class SlotError(TensorferryError, RuntimeError):
    """A slot that is in flight, in use, of another session, or none that is free."""


class TensorError(TensorferryError, ValueError):
    """An array of another type, shape or size than the model takes."""


class DeviceError(TensorferryError, RuntimeError):
    """A tensor on another device than is needed, or a copy to or from one that failed."""


class ClosedError(TensorferryError, RuntimeError):
    """The client or the session was closed."""


class ForkedError(TensorferryError, RuntimeError):
    """What was made before `fork()` was used in the child."""


class UnknownName(TensorferryError, KeyError):
    """There is no input, output or model of this name; the message has those there are."""

    def __str__(self):
        return str(self.args[0])
