"""HTTP as uvicorn speaks it, but with a bound to what stands around a body, and with errors in the service's form."""

from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from app.errors import error_body

HEAD_BYTES = 64 * 2**10


class Protocol(HttpToolsProtocol):
    """One connection.

    As long as they go on, the parser keeps the request line and the headers, which come before any key is looked at,
    and the headers that may follow a chunked body.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """As uvicorn makes it."""
        super().__init__(*args, **kwargs)
        self._led_on = False
        self._kept = 0

    def data_received(self, data: bytes) -> None:
        """Parse what came; ends the connection once it has brought nothing but headers for too long."""
        self._led_on = False
        super().data_received(data)
        self._kept = 0 if self._led_on else self._kept + len(data)
        if self._kept > HEAD_BYTES:
            self._refuse(b"431 Request Header Fields Too Large", f"the headers exceed {HEAD_BYTES} bytes")

    def on_headers_complete(self) -> None:
        """A head is complete."""
        self._led_on = True
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A part of a body has come."""
        self._led_on = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        """A request is complete, with whatever came after its body."""
        self._led_on = True
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP."""
        self._refuse(b"400 Bad Request", msg)

    def _refuse(self, status: bytes, message: str) -> None:
        body = error_body("not_http", message)
        head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close" % len(body)
        self.transport.write(b"HTTP/1.1 %s\r\n%s\r\n\r\n%s" % (status, head, body))
        self.transport.close()
