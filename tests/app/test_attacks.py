"""What hostile, unlucky and ordinary clients send, made up by the thousand."""

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
import schemathesis
from bundles import DIMENSIONS, MAX_TOKENS, VOCABULARY
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from processes import Process
from schemathesis.checks import load_all_checks
from schemathesis.specs.openapi.checks import positive_data_acceptance

from app.main import create_app
from app.settings import Settings

ODD = ["", " ", "\x00", "👩‍👩‍👧‍👦 family", "שלום עולם", "ﷺ", "a\u0301" * 20, "\u202eright to left", "\ufeffbom"]
SENTENCES = st.text(max_size=60) | st.sampled_from([*ODD, "good " * 40, "x" * 100_000])
LITTLE = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def client(models_dir: Path) -> Iterator[TestClient]:
    """One service for all examples."""
    with TestClient(create_app(Settings(models_dir=models_dir, threads=2, drain_seconds=0, lag_seconds=30))) as client:
        client.portal.call(client.app.state.service.loaded.wait)
        yield client


def encode(client: TestClient, sentences: list[str]) -> np.ndarray:
    answer = client.post("/encode", json={"sentences": sentences})
    assert answer.status_code == 200, answer.text
    return np.array(answer.json()["embeddings"])


@LITTLE
@given(st.lists(SENTENCES, min_size=1, max_size=12))
def test_any_text_is_answered_with_finite_vectors(client: TestClient, sentences: list[str]) -> None:
    vectors = encode(client, sentences)
    assert vectors.shape == (len(sentences), DIMENSIONS)
    assert np.isfinite(vectors).all()


@LITTLE
@given(st.data(), st.lists(SENTENCES, min_size=1, max_size=40))
def test_a_vector_is_the_same_alone_repeated_reordered_and_in_any_company(
    client: TestClient, data: st.DataObject, sentences: list[str]
) -> None:
    order = data.draw(st.permutations(range(len(sentences))))
    together, shuffled = encode(client, sentences * 2), encode(client, [sentences[place] for place in order])
    alone = np.concatenate([encode(client, [sentence]) for sentence in sentences])
    for vectors in (together[: len(sentences)], together[len(sentences) :], shuffled[np.argsort(order)]):
        assert (vectors * alone).sum(axis=1).min() > 0.99999


@LITTLE
@given(st.lists(st.lists(st.integers(-5, len(VOCABULARY) + 5), max_size=MAX_TOKENS + 2), max_size=4))
def test_token_ids_are_answered_exactly_if_the_model_knows_them(client: TestClient, rows: list[list[int]]) -> None:
    answer = client.post("/v1/embeddings", json={"model": "student", "input": rows})
    known = rows and all(0 < len(row) <= MAX_TOKENS and all(0 <= i < len(VOCABULARY) for i in row) for row in rows)
    assert answer.status_code == (200 if known else 422), answer.text


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)


FIELDS = st.sampled_from(["sentences", "pairs", "input", "model", "task", "truncate"])
PATHS = st.sampled_from(["/encode", "/classify/mood", "/classify/same", "/compare", "/v1/embeddings"])


@LITTLE
@given(PATHS, st.dictionaries(FIELDS, JSON, max_size=4) | JSON)
def test_any_json_is_answered_or_refused_with_the_one_body(client: TestClient, path: str, content: Any) -> None:
    answer = client.post(path, content=json.dumps(content))
    assert answer.status_code in {200, 400, 404, 422}
    assert (answer.status_code == 200) != (list(answer.json()) == ["error"])


@LITTLE
@given(st.binary(max_size=200))
def test_any_bytes_are_answered_or_refused(client: TestClient, content: bytes) -> None:
    assert client.post("/encode", content=content).status_code in {200, 400, 422}


@pytest.fixture
def served(start: Callable[..., Process]) -> Process:
    """A service that the official client can reach."""
    return start(api_key="sesame").wait_until()


def test_the_official_openai_client_works(served: Process) -> None:
    with openai.OpenAI(base_url=f"http://127.0.0.1:{served.port}/v1", api_key="sesame", max_retries=0) as api:
        assert [model.id for model in api.models.list()] == ["student", "teacher"]
        assert api.models.retrieve("teacher").id == "teacher"
        packed = api.embeddings.create(model="student", input=["good film", "bad"])  # the client asks for base64
        plain = api.embeddings.create(model="student", input=["good film", "bad"], encoding_format="float")
        assert packed.data[0].embedding == pytest.approx(plain.data[0].embedding)
        assert packed.usage.total_tokens == 7
        ids = [2, VOCABULARY.index("good"), VOCABULARY.index("film"), 3]
        for one in ("good film", ids, [ids]):
            (row,) = api.embeddings.create(model="student", input=one).data
            assert row.embedding == pytest.approx(plain.data[0].embedding)
            assert math.hypot(*row.embedding) == pytest.approx(1)
        with pytest.raises(openai.NotFoundError, match="no such model"):
            api.embeddings.create(model="text-embedding-3-small", input="good")
        with pytest.raises(openai.UnprocessableEntityError, match="outside 0 to"):
            api.embeddings.create(model="student", input=[2, 10_000, 3])
    with (
        openai.OpenAI(base_url=f"http://127.0.0.1:{served.port}/v1", api_key="wrong", max_retries=0) as api,
        pytest.raises(openai.AuthenticationError),
    ):
        api.models.list()


@pytest.mark.slow
@pytest.mark.parametrize("mode", list(schemathesis.GenerationMode))
def test_every_answer_is_as_our_openapi_document_declares(
    client: TestClient, mode: schemathesis.GenerationMode
) -> None:
    load_all_checks()
    document = schemathesis.openapi.from_asgi("/openapi.json", client.app)
    for found in document.get_all_operations():
        operation = found.ok()
        if operation.body or mode is schemathesis.GenerationMode.POSITIVE:  # without a body nothing can be wrong
            attack(operation, mode)


def attack(operation: Any, mode: schemathesis.GenerationMode) -> None:
    # Sentences for a pair task, and pairs for a task of one sentence, are valid by the document and still wrong.
    mixed = [positive_data_acceptance] if operation.path in {"/classify/{task}", "/compare"} else []

    @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
    @given(operation.as_strategy(generation_mode=mode))
    def check(case: schemathesis.Case) -> None:
        assume(not holds_whole_float(case.body))
        case.call_and_validate(excluded_checks=mixed)

    check()


def holds_whole_float(content: Any) -> bool:
    """Whether there is a 22.0, which is an integer to JSON Schema and none to this service."""
    if isinstance(content, dict | list):
        return any(map(holds_whole_float, content.values() if isinstance(content, dict) else content))
    return isinstance(content, float) and content.is_integer()
