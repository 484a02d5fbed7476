from collections.abc import Callable
from pathlib import Path

import pytest
from bundles import MAX_TOKENS, VOCABULARY, write_encoder
from fastapi.testclient import TestClient

from app.routes import ERRORS

Serve = Callable[..., TestClient]


@pytest.fixture
def document(client: TestClient) -> dict:
    return client.get("/openapi.json").json()


def test_loaded_models_and_tasks_are_enums(document: dict) -> None:
    schemas = document["components"]["schemas"]
    for request in ("EncodeRequest", "ClassifyRequest", "EmbeddingsRequest"):
        assert schemas[request]["properties"]["model"]["enum"] == ["student", "teacher"]
    tasks = ["joined", "mood", "same", "stars"]
    assert document["paths"]["/classify/{task}"]["post"]["parameters"][0]["schema"]["enum"] == tasks
    assert schemas["CompareRequest"]["properties"]["task"]["anyOf"][0]["enum"] == tasks


def test_what_is_not_loaded_is_not_named(serve: Serve, tmp_path: Path) -> None:
    write_encoder(tmp_path)
    document = serve(models_dir=tmp_path).get("/openapi.json").json()
    assert document["components"]["schemas"]["EncodeRequest"]["properties"]["model"]["enum"] == ["student"]
    assert "enum" not in document["paths"]["/classify/{task}"]["post"]["parameters"][0]["schema"]


def test_limits_are_part_of_the_document(serve: Serve) -> None:
    schemas = serve(max_sentences=3).get("/openapi.json").json()["components"]["schemas"]
    assert schemas["EncodeRequest"]["properties"]["sentences"]["anyOf"][1]["maxItems"] == 3
    ids = schemas["EmbeddingsRequest"]["properties"]["input"]["anyOf"][2]
    assert (ids["maxItems"], ids["items"]["maximum"]) == (MAX_TOKENS, len(VOCABULARY) - 1)


def test_every_error_answer_is_declared_with_the_one_body(document: dict) -> None:
    for path in ("/encode", "/classify/{task}", "/compare", "/v1/embeddings"):
        responses = document["paths"][path]["post"]["responses"]
        assert set(responses) == {"200", *(str(status) for status in ERRORS if status != 409)}
        for status, response in responses.items():
            schema = response["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
            assert schema.endswith("Response") if status == "200" else schema == "ErrorBody"
    assert "HTTPValidationError" not in document["components"]["schemas"]


def test_examples_run(client: TestClient, document: dict) -> None:
    schemas = document["components"]["schemas"]
    for path, request in (
        ("/encode", "EncodeRequest"),
        ("/v1/embeddings", "EmbeddingsRequest"),
        ("/compare", "CompareRequest"),
    ):
        for example in schemas[request]["examples"]:
            assert client.post(path, json=example).status_code == 200
    operation = document["paths"]["/classify/{task}"]["post"]
    for name, example in operation["requestBody"]["content"]["application/json"]["examples"].items():
        assert client.post(f"/classify/{name.partition(' ')[0]}", json=example["value"]).status_code == 200


def test_a_key_is_declared_only_where_one_is_needed(serve: Serve, document: dict) -> None:
    assert "security" not in document
    assert serve(api_key="sesame").get("/openapi.json").json()["security"] == [{"key": []}]
