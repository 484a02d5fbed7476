"""The HTTP routes: hand what came to an engine or a task, and write the answer."""

import asyncio
import base64
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any, Literal

import numpy as np
import orjson
from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.staticfiles import StaticFiles

from app.bundle import Texts
from app.comparison import find_pair
from app.engine import Encoded, Engine, Scored, Task
from app.errors import InvalidError
from app.gate import CALL, Call
from app.json_route import CATALOGUE, JsonRoute
from app.metrics import MODELS
from app.registry import Catalogue
from app.schemas import (
    ClassifyRequest,
    ClassifyResponse,
    CompareRequest,
    CompareResponse,
    EmbeddingsRequest,
    EmbeddingsResponse,
    EncodeRequest,
    EncodeResponse,
    ErrorBody,
    Health,
    Inputs,
    LoadedModel,
    LoadedModels,
    LoadedTask,
    LoadedTasks,
    ModelCard,
    ModelCards,
    Reloaded,
)
from app.service import Service
from app.session import Vectors
from app.settings import PREFIX, Settings

PAGE = StaticFiles(directory=Path(__file__).parent / "page")
PAGE_HEADERS = {
    # All that the page uses lies beside it, and all that it asks is this service. Nobody may frame it.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-cache",  # kept, but asked for anew by its ETag: names carry no version
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

ERRORS = {
    400: "The body is not JSON.",
    401: "The API key is missing or wrong.",
    404: "There is no such task or model.",
    409: "The models folder cannot be served; what was loaded before stays.",
    408: "The body did not arrive in time.",
    413: "The body is too large.",
    422: "The content is not what the route takes.",
    429: "The queue is full; Retry-After says when to come back.",
    500: "The model failed on this request.",
    503: "The service is starting, draining or stuck.",
    504: "The answer would have come too late.",
}


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Declare error answers for the OpenAPI document."""
    return {status: {"model": ErrorBody, "description": ERRORS[status]} for status in statuses}


models = APIRouter(route_class=JsonRoute, tags=["models"])
facts = APIRouter(tags=["facts"])
admin = APIRouter(tags=["admin"])
page = APIRouter(include_in_schema=False)

MODEL_ERRORS = errors(*(status for status in ERRORS if status != 409))
# as an argument of its function FastAPI would declare a 422 with a body of its own
MODEL_NAME = {"name": "model", "in": "path", "required": True, "schema": {"type": "string", "enum": list(MODELS)}}


@models.post("/encode", response_model=EncodeResponse, responses=MODEL_ERRORS)
async def encode(body: EncodeRequest, request: Request) -> Response:
    """Encode sentences: one vector of unit length each."""
    call, catalogue, settings = _context(request)
    engine = catalogue.encoder(body.model)
    call.model = engine.manifest.role
    sentences = _texts(body.sentences, "sentences", settings)
    encoded = await engine.encode(sentences, truncate=body.truncate)
    _note(request, engine, encoded)
    _service(request).shadow.offer(engine, sentences, encoded.vectors)
    with _serializing(call):
        return _json(
            {
                "model": engine.manifest.role,
                "space": engine.manifest.space,
                "dimensions": engine.manifest.dimensions,
                "embeddings": _written(encoded.vectors, body.encoding_format),
                "truncated": encoded.truncated,
                "usage": _usage(sentences, encoded),
            }
        )


@models.post("/classify/{task}", response_model=ClassifyResponse, responses=MODEL_ERRORS)
async def classify(task: str, body: ClassifyRequest, request: Request) -> Response:
    """Answer a task for each sentence, or for each pair of sentences."""
    call, catalogue, settings = _context(request)
    loaded = catalogue.task(task, body.model)
    call.model = loaded.manifest.role
    call.facts["task"] = loaded.manifest.name
    inputs = _inputs(body, loaded.takes, settings)
    scored = await loaded.score(inputs, truncate=body.truncate)
    _note(request, loaded, scored)
    _service(request).shadow.offer(loaded, inputs, scored.scores)
    with _serializing(call):
        return _json(
            {
                "task": loaded.manifest.name,
                "model": loaded.manifest.role,
                "predictions": loaded.predictions(scored),
                "truncated": scored.truncated,
                "usage": _usage(inputs, scored),
            }
        )


@models.post("/compare", response_model=CompareResponse, responses=MODEL_ERRORS)
async def compare(body: CompareRequest, request: Request) -> Response:
    """Give the same sentences to student and teacher, one after the other: agreement, and the time of each."""
    call, catalogue, settings = _context(request)
    pair = find_pair(catalogue, body.task)
    inputs = _inputs(body, pair.takes, settings)
    results, figures = await pair.compare(inputs)
    for role in ("student", "teacher"):
        call.stages[role] = figures[role]["milliseconds"] / 1e3
    call.facts["rows"] = len(inputs)
    with _serializing(call):
        return _json({"task": body.task, "results": results, **figures})


@models.post("/v1/embeddings", response_model=EmbeddingsResponse, responses=MODEL_ERRORS)
async def embeddings(body: EmbeddingsRequest, request: Request) -> Response:
    """Encode text or token ids, in the shape of OpenAI's API: its client works with only the base URL changed."""
    call, catalogue, _ = _context(request)
    engine = catalogue.encoder(body.model)
    call.model = engine.manifest.role
    if body.dimensions not in {None, engine.manifest.dimensions}:
        raise InvalidError(f"the {body.model}'s vectors have {engine.manifest.dimensions} dimensions", "dimensions")
    encoded = await _encode_any(request, engine, body.input)
    _note(request, engine, encoded)
    with _serializing(call):
        written = _written(encoded.vectors, body.encoding_format)
        return _json(
            {
                "object": "list",
                "data": [
                    {"object": "embedding", "index": index, "embedding": vector} for index, vector in enumerate(written)
                ],
                "model": engine.manifest.role,
                "usage": {"prompt_tokens": encoded.tokens, "total_tokens": encoded.tokens},
            }
        )


@facts.get("/v1/models", responses=errors(401, 503))
async def openai_models(request: Request) -> ModelCards:
    """List the models that /v1/embeddings takes."""
    return ModelCards(data=[ModelCard(id=role) for role in _service(request).catalogue.encoders])


@facts.get("/v1/models/{model}", responses=errors(401, 404, 503), openapi_extra={"parameters": [MODEL_NAME]})
async def openai_model(request: Request) -> ModelCard:
    """Tell whether /v1/embeddings takes this model."""
    return ModelCard(id=_service(request).catalogue.encoder(request.path_params["model"]).manifest.role)


@facts.get("/models", responses=errors(401, 503))
async def loaded_models(request: Request) -> LoadedModels:
    """List the loaded encoders, with what they were made from and how good they are."""
    encoders = _service(request).catalogue.encoders
    return LoadedModels(models=[LoadedModel(model=role, manifest=encoders[role].manifest) for role in encoders])


@facts.get("/tasks", responses=errors(401, 503))
async def loaded_tasks(request: Request) -> LoadedTasks:
    """List the loaded tasks."""
    tasks = _service(request).catalogue.tasks.values()
    return LoadedTasks(tasks=[_loaded(task) for task in tasks])


@facts.get("/health/live", responses=errors(503))
async def live(request: Request) -> Health:
    """Tell whether the process works; if not, only a restart helps."""
    _service(request).check_alive()
    return Health()


@facts.get("/health/ready", responses=errors(503))
async def ready(request: Request) -> Health:
    """Tell whether requests are welcome: models loaded and checked, none of them stuck, not shutting down."""
    _service(request).check_ready()
    return Health()


@facts.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
async def metrics(request: Request) -> Response:
    """Write the metrics in Prometheus' text format."""
    service = _service(request)
    service.report()
    text = await asyncio.to_thread(service.metrics.exposition)
    return Response(text, media_type=CONTENT_TYPE_LATEST)


@admin.post("/admin/reload", responses=errors(401, 409, 503))
async def reload(request: Request) -> Reloaded:
    """Read the models folder again. What is in flight is answered; if anything is wrong, what served before stays."""
    return Reloaded(bundles=await _service(request).reload())


@page.api_route("/", methods=["GET", "HEAD"])
@page.api_route("/page/{file}", methods=["GET", "HEAD"])
async def show_page(request: Request, file: str = "index.html") -> Response:
    """Show what the service does: the page, or a file that it loads."""
    response = await PAGE.get_response(file, request.scope)
    response.headers.update(PAGE_HEADERS)
    return response


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


def _context(request: Request) -> tuple[Call, Catalogue, Settings]:
    return request.scope[CALL], request.scope[CATALOGUE], _service(request).settings


def _texts(sentences: str | list[str], param: str, settings: Settings) -> list[Texts]:
    texts: list[Texts] = [(text,) for text in ([sentences] if isinstance(sentences, str) else sentences)]
    _limit(len(texts), param, settings)
    return texts


def _inputs(body: Inputs, takes: Literal["sentences", "pairs"], settings: Settings) -> list[Texts]:
    """Take the sentences or the pairs, whichever the task is made for."""
    if takes not in body.model_fields_set:
        (given,) = {"sentences", "pairs"} & body.model_fields_set
        raise InvalidError(f"this takes `{takes}`, not `{given}`", given)
    if takes == "sentences":
        return _texts(body.sentences, "sentences", settings)
    _limit(len(body.pairs), "pairs", settings)
    return list(body.pairs)


def _limit(count: int, param: str, settings: Settings) -> None:
    if count > settings.max_sentences:
        raise InvalidError(f"{param}: {count} were sent; {PREFIX}MAX_SENTENCES is {settings.max_sentences}", param)


async def _encode_any(request: Request, engine: Engine, content: str | list[Any]) -> Encoded:
    """Encode one of the four forms of OpenAI's `input`: text, texts, token ids, several rows of token ids."""
    service = _service(request)
    settings = service.settings
    if isinstance(content, str) or isinstance(content[0], str):
        texts = _texts(content, "input", settings)
        encoded = await engine.encode(texts)
        service.shadow.offer(engine, texts, encoded.vectors)
        return encoded
    rows = [content] if isinstance(content[0], int) else content
    _limit(len(rows), "input", settings)
    return await engine.encode_ids(rows)


def _note(request: Request, loaded: Engine | Task, encoded: Encoded) -> None:
    """Keep what the metrics and the log want to know of an answer."""
    call: Call = request.scope[CALL]
    call.stages.update(encoded.stages)
    call.facts.update(rows=len(encoded.rows), tokens=encoded.tokens)
    if loaded.drift:
        loaded.drift.observe(encoded.rows, encoded.vectors, encoded.scores if isinstance(encoded, Scored) else None)
    if encoded.truncated:
        _service(request).metrics.truncated.labels(call.model).inc(len(encoded.truncated))


@contextmanager
def _serializing(call: Call) -> Iterator[None]:
    begun = perf_counter()
    yield
    call.stages["serialize"] = perf_counter() - begun


def _json(content: dict[str, Any]) -> Response:
    return Response(orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY), media_type="application/json")


def _written(vectors: Vectors, encoding_format: str) -> Vectors | list[str]:
    """Write float32 (rows, dimensions) as orjson takes it: an array, or base64 of little-endian float32."""
    if encoding_format == "float":
        return np.ascontiguousarray(vectors)
    return [base64.b64encode(row.tobytes()).decode() for row in vectors.astype("<f4", copy=False)]


def _usage(inputs: Sequence[Texts], encoded: Encoded) -> dict[str, int]:
    return {"sentences": sum(map(len, inputs)), "tokens": encoded.tokens}


def _loaded(task: Task) -> LoadedTask:
    manifest = task.manifest
    return LoadedTask(
        task=manifest.name, model=manifest.role, inputs=task.takes, labels=list(manifest.labels), manifest=manifest
    )
