"""Everything that can go wrong for a client, each with its HTTP status, and the one body in which it is told."""

from typing import ClassVar

import orjson


class ServiceError(Exception):
    """An answer that is an error. Subclasses fix `status` and `type`.

    Args:
        message: For the person who can fix it: what was sent, what is allowed, which setting changes it.
        param: The part of the request that is wrong.
    """

    status: ClassVar[int] = 500
    type: ClassVar[str] = "internal"

    def __init__(self, message: str, param: str | None = None) -> None:
        """Keep the message and the parameter."""
        super().__init__(message)
        self.message = message
        self.param = param

    @property
    def headers(self) -> dict[str, str]:
        """Headers that belong to the answer."""
        return {}

    def body(self) -> bytes:
        """The JSON body."""
        return error_body(self.type, self.message, self.param)


class NotJsonError(ServiceError):
    """The body is not JSON text."""

    status, type = 400, "not_json"


class UnauthorizedError(ServiceError):
    """The API key is missing or wrong."""

    status, type = 401, "unauthorized"

    @property
    def headers(self) -> dict[str, str]:
        """Say which scheme is expected (RFC 9110, section 11.6.1)."""
        return {"WWW-Authenticate": "Bearer"}


class NotFoundError(ServiceError):
    """There is no such task, model or route."""

    status, type = 404, "not_found"


class SlowBodyError(ServiceError):
    """The body did not arrive in time."""

    status, type = 408, "slow_body"


class ReloadError(ServiceError):
    """The models folder cannot be served; what was loaded before stays."""

    status, type = 409, "reload_refused"


class TooLargeError(ServiceError):
    """The body is larger than allowed."""

    status, type = 413, "too_large"


class InvalidError(ServiceError):
    """The content is not what the route takes."""

    status, type = 422, "invalid"


class OverloadedError(ServiceError):
    """The queue is full."""

    status, type = 429, "overloaded"

    def __init__(self, message: str, retry_after: int) -> None:
        """Keep the message and the seconds after which another attempt makes sense."""
        super().__init__(message)
        self.retry_after = retry_after

    @property
    def headers(self) -> dict[str, str]:
        """Say when to come back."""
        return {"Retry-After": str(self.retry_after)}


class ModelError(ServiceError):
    """A model failed on this request."""

    status, type = 500, "model_failed"


class UnavailableError(ServiceError):
    """The service is starting or stuck."""

    status, type = 503, "unavailable"

    @property
    def headers(self) -> dict[str, str]:
        """Say when to come back: starting takes a few seconds."""
        return {"Retry-After": "5"}


class DrainingError(UnavailableError):
    """The service is shutting down."""

    def __init__(self) -> None:
        """There is one thing to say."""
        super().__init__("the service is shutting down")

    @property
    def headers(self) -> dict[str, str]:
        """Send the client to a new connection, which may reach another instance; this one is about to close."""
        return super().headers | {"Connection": "close"}


class DeadlineError(ServiceError):
    """The answer would come too late."""

    status, type = 504, "deadline"


def error_body(kind: str, message: str, param: str | None = None) -> bytes:
    """Write the one error body."""
    return orjson.dumps({"error": {"type": kind, "message": message, "param": param}})
