"""The OpenAPI document's second half: what is only known in operation."""

import copy
from typing import Any

from app.registry import Catalogue
from app.schemas import PAIRS, SENTENCES
from app.settings import Settings


def complete(generated: dict[str, Any], catalogue: Catalogue | None, settings: Settings) -> dict[str, Any]:
    """Add limits, the key, and the models and tasks that are loaded, with examples that run.

    Args:
        generated: The document as FastAPI made it from the routes; left as it is.
        catalogue: What is loaded, if anything is yet.
        settings: The limits, and whether a key is needed.
    """
    document = copy.deepcopy(generated)
    schemas = document["components"]["schemas"]
    _bound(schemas, settings)
    if settings.api_key:
        document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"key": []}]
    if catalogue and catalogue.encoders:
        _name_models(schemas, list(catalogue.encoders))
        _fit_encoders(schemas, catalogue)
    if catalogue and catalogue.tasks:
        _name_tasks(document, catalogue)
    return document


def _bound(schemas: dict[str, Any], settings: Settings) -> None:
    for request, field in (
        ("EncodeRequest", "sentences"),
        ("ClassifyRequest", "sentences"),
        ("ClassifyRequest", "pairs"),
        ("CompareRequest", "sentences"),
        ("CompareRequest", "pairs"),
        ("EmbeddingsRequest", "input"),
    ):
        for kind in _alternatives(schemas[request]["properties"][field]):
            if kind.get("type") == "array" and kind["items"].get("type") != "integer":
                kind["maxItems"] = settings.max_sentences


def _fit_encoders(schemas: dict[str, Any], catalogue: Catalogue) -> None:
    manifests = [engine.manifest for engine in catalogue.encoders.values()]
    properties = schemas["EmbeddingsRequest"]["properties"]
    properties["dimensions"]["anyOf"][0]["enum"] = sorted({manifest.dimensions for manifest in manifests})
    for kind in _alternatives(properties["input"]):
        row = kind["items"] if kind.get("type") == "array" and kind["items"].get("type") == "array" else kind
        if row.get("type") == "array" and row["items"].get("type") == "integer":
            row["maxItems"] = min(manifest.max_tokens for manifest in manifests)
            row["items"]["maximum"] = min(manifest.vocabulary for manifest in manifests) - 1


def _name_models(schemas: dict[str, Any], models: list[str]) -> None:
    for request in ("EncodeRequest", "ClassifyRequest", "EmbeddingsRequest"):
        schemas[request]["properties"]["model"]["enum"] = models
    schemas["EmbeddingsRequest"]["properties"]["model"]["examples"] = models[:1]


def _name_tasks(document: dict[str, Any], catalogue: Catalogue) -> None:
    operation = document["paths"]["/classify/{task}"]["post"]
    operation["parameters"][0]["schema"]["enum"] = catalogue.task_names
    properties = document["components"]["schemas"]["CompareRequest"]["properties"]
    properties["task"]["anyOf"][0]["enum"] = catalogue.task_names
    content = operation["requestBody"]["content"]["application/json"]
    inputs = {"sentences": SENTENCES, "pairs": PAIRS}
    content["examples"] = {
        f"{name} {role}": {"value": {task.takes: inputs[task.takes], "model": role}}
        for (name, role), task in catalogue.tasks.items()
    }


def _alternatives(field: dict[str, Any]) -> list[dict[str, Any]]:
    alternatives: list[dict[str, Any]] = field.get("anyOf", [field])
    return alternatives
