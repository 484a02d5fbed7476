"""HTTP as uvicorn speaks it, but patient with clients only so far, and with errors in the service's form."""

import asyncio
import re
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from app.errors import error_body

HEAD_BYTES = 64 * 2**10
# Java's client and `curl --http2` offer HTTP/2 to every server. This one may go on as if they had not (RFC 9110, 7.8),
# but the parser would take the body behind such a head for another protocol.
OFFER = re.compile(rb"\r\nupgrade(?=[ \t]*:)", re.IGNORECASE)


class Protocol(HttpToolsProtocol):
    """One connection.

    As long as they go on, the parser keeps the request line and the headers, which come before any key is looked at,
    and the headers that may follow a chunked body. So both are bounded: the bytes, and the time until a head is there.
    """

    def __init__(self, count: Callable[[int], None], *args: Any, **kwargs: Any) -> None:
        """As uvicorn makes it; `count` learns the status of each refusal, which no request's handler ever sees."""
        super().__init__(*args, **kwargs)
        self._count = count
        self._in_head = True
        self._led_on = False
        self._kept = 0
        self._overdue: asyncio.TimerHandle | None = None
        self._open: list[RequestResponseCycle] = []  # several, if the client does not wait for each answer

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Wait for the first head."""
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more, and tell every request that is open; uvicorn tells the last alone."""
        self._wait_no_more()
        for request in self._open:
            request.disconnected = True
            request.message_event.set()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what came; ends the connection once it has brought nothing but headers for too long."""
        self._led_on = False
        if self._in_head:
            head, end, rest = data.partition(b"\r\n\r\n")
            data = OFFER.sub(rb"\r\nx-upgrade", head) + end + rest
        super().data_received(data)
        self._kept = 0 if self._led_on else self._kept + len(data)
        if self._kept > HEAD_BYTES:
            self._refuse(431, b"Request Header Fields Too Large", f"the headers exceed {HEAD_BYTES} bytes")

    def on_message_begin(self) -> None:
        """A head begins, perhaps after a pause."""
        self._await_head()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """A head is complete."""
        self._in_head, self._led_on = False, True
        self._wait_no_more()
        super().on_headers_complete()
        self._open = [request for request in (*self._open, self.cycle) if not request.response_complete]

    def on_body(self, body: bytes) -> None:
        """A part of a body has come."""
        self._led_on = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        """A request is complete, with whatever came after its body."""
        self._in_head, self._led_on = True, True
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP."""
        self._refuse(400, b"Bad Request", msg)

    def _await_head(self) -> None:
        if self._overdue is None:
            self._overdue = self.loop.call_later(self.timeout_keep_alive, self._give_up)

    def _wait_no_more(self) -> None:
        if self._overdue is not None:
            self._overdue.cancel()
            self._overdue = None

    def _give_up(self) -> None:
        if self._kept:
            self._refuse(408, b"Request Timeout", f"the headers were not complete within {self.timeout_keep_alive} s")
        else:  # a word could be taken for the answer to what is just being sent
            self.transport.close()

    def _refuse(self, status: int, reason: bytes, message: str) -> None:
        if self.transport.is_closing():
            return  # refused already, or left
        self._count(status)
        body = error_body("not_http", message)
        head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close" % len(body)
        self.transport.write(b"HTTP/1.1 %d %s\r\n%s\r\n\r\n%s" % (status, reason, head, body))
        self.transport.close()
