"""The application: routes, the gate around them, and errors in one form."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request, Response
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException

from app.documentation import complete
from app.errors import ServiceError, error_body
from app.gate import Gate
from app.metrics import Metrics, build_version
from app.routes import admin, facts, models
from app.service import Service
from app.settings import Settings

DESCRIPTION = "Sentence vectors and labels from a distilled BiLSTM, beside the BERT encoder that it stands in for."


def create_app(settings: Settings) -> FastAPI:
    """Build the service. It starts to load its models when its lifespan begins, and is ready some time later."""
    metrics = Metrics()
    service = Service(settings, metrics)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        service.start()
        yield
        service.close()

    app = FastAPIOffline(  # the documentation's assets come from this machine, not from elsewhere
        title="Understudy",
        version=build_version(),
        description=DESCRIPTION,
        lifespan=lifespan,
        redoc_url=None,
        redirect_slashes=False,
        exception_handlers={ServiceError: _service_error, HTTPException: _http_error},
    )
    app.state.service = service
    app.include_router(models)
    app.include_router(facts)
    if settings.admin:
        app.include_router(admin)
    app.add_middleware(Gate, metrics=metrics, api_key=settings.api_key.get_secret_value() if settings.api_key else None)
    generated = app.openapi
    app.openapi = lambda: complete(generated(), service.shown(), settings)  # type: ignore[method-assign]
    return app


async def _service_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, ServiceError)
    return Response(error.body(), error.status, error.headers, media_type="application/json")


async def _http_error(request: Request, error: Exception) -> Response:
    """Answer what the framework itself refuses: unknown routes and methods."""
    assert isinstance(error, HTTPException)
    kind, message = {
        404: ("not_found", f"there is no {request.url.path}; /docs lists the routes"),
        405: ("method_not_allowed", f"{request.url.path} does not take {request.method}"),
    }.get(error.status_code, ("refused", error.detail))
    headers = dict(error.headers or {})
    return Response(error_body(kind, message), error.status_code, headers, media_type="application/json")
