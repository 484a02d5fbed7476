"""The way of a request that works with a model: from the gate straight to its handler.

FastAPI's own way there, through middleware and three layers of routers, takes longer than a student's answer. The
handler is the same either way. All other requests, wrong routes and methods included, go FastAPI's way.
"""

from collections.abc import Iterable

from starlette.requests import Request

from app.gate import ASGIApp, Receive, Scope, Send
from app.json_route import JsonRoute


class Express:
    """ASGI middleware that answers some routes itself."""

    def __init__(self, app: ASGIApp, routes: Iterable[JsonRoute]) -> None:
        """Answer `routes`, and hand what matches none of them to `app`."""
        self._app = app
        self._ways = [(route, route.get_route_handler()) for route in routes]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "http" and scope["method"] == "POST":
            for route, handle in self._ways:
                if match := route.path_regex.match(scope["path"]):
                    scope["route"], scope["path_params"] = route, match.groupdict()
                    response = await handle(Request(scope, receive, send))
                    await response(scope, receive, send)
                    return
        await self._app(scope, receive, send)
