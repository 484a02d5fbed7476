import base64
import gzip
import json
from collections.abc import Callable

import numpy as np
import pytest
from bundles import MAX_TOKENS, VOCABULARY
from fastapi.testclient import TestClient

from app import json_route

Serve = Callable[..., TestClient]


def vectors(client: TestClient, sentences: list[str], **rest: object) -> np.ndarray:
    answer = client.post("/encode", json={"sentences": sentences, **rest})
    assert answer.status_code == 200, answer.text
    return np.array(answer.json()["embeddings"], dtype=np.float32)


def ids(text: str) -> list[int]:
    return [2, *(VOCABULARY.index(word) for word in text.split()), 3]


def test_encode_answers_one_vector_per_sentence_with_space_and_usage(client: TestClient) -> None:
    answer = client.post("/encode", json={"sentences": ["good film", "the cat sat"]}).json()
    assert (answer["model"], answer["dimensions"], answer["truncated"]) == ("student", 8, [])
    assert answer["usage"] == {"sentences": 2, "tokens": 4 + 5}
    assert np.allclose(np.linalg.norm(answer["embeddings"], axis=1), 1)
    assert answer["space"] == client.get("/models").json()["models"][0]["manifest"]["space"]


def test_a_single_string_is_a_list_of_one(client: TestClient) -> None:
    one = client.post("/encode", json={"sentences": "good film"}).json()
    assert one["embeddings"] == client.post("/encode", json={"sentences": ["good film"]}).json()["embeddings"]


def test_base64_holds_the_same_little_endian_float32(client: TestClient) -> None:
    plain = vectors(client, ["good film"])
    packed = client.post("/encode", json={"sentences": ["good film"], "encoding_format": "base64"}).json()
    assert np.array_equal(np.frombuffer(base64.b64decode(packed["embeddings"][0]), "<f4"), plain[0])


def test_the_teacher_answers_when_asked(client: TestClient) -> None:
    answer = client.post("/encode", json={"sentences": "good", "model": "teacher"}).json()
    assert answer["model"] == "teacher"


def test_long_sentences_are_cut_and_reported_or_refused(client: TestClient) -> None:
    sentences = ["good", "bad " * MAX_TOKENS, "film", "cat " * 100]
    answer = client.post("/encode", json={"sentences": sentences}).json()
    assert answer["truncated"] == [1, 3]
    assert answer["usage"]["tokens"] == 3 + MAX_TOKENS + 3 + MAX_TOKENS
    refused = client.post("/encode", json={"sentences": sentences, "truncate": False})
    assert refused.status_code == 422
    assert "the first at index 1" in refused.json()["error"]["message"]
    assert 'understudy_truncated_total{model="student"} 2.0' in client.get("/metrics").text


def test_a_blank_string_is_answered(client: TestClient) -> None:
    assert vectors(client, ["", "   ", "\x00"]).shape == (3, 8)


def test_classify_gives_a_label_with_all_scores(client: TestClient) -> None:
    answer = client.post("/classify/mood", json={"sentences": ["good film", "bad film"]}).json()
    assert (answer["task"], answer["model"], answer["usage"]["sentences"]) == ("mood", "student", 2)
    for prediction in answer["predictions"]:
        scores = prediction["scores"]
        assert prediction["label"] == max(scores, key=scores.get)
        assert prediction["score"] == scores[prediction["label"]]
        assert list(scores) == ["bad", "good"]
        assert sum(scores.values()) == pytest.approx(1)


def test_a_teacher_classifier_answers_when_it_is_loaded(client: TestClient) -> None:
    answer = client.post("/classify/mood", json={"sentences": "good", "model": "teacher"})
    assert answer.json()["model"] == "teacher"
    refused = client.post("/classify/same", json={"pairs": [["a", "b"]], "model": "teacher"})
    assert refused.status_code == 404
    assert "finetune-teacher --task same" in refused.json()["error"]["message"]


@pytest.mark.parametrize(("task", "tokens"), [("same", 3 + 4 + 3 + 3), ("joined", 6 + 5)])
def test_pairs_encoded_apart_or_joined_give_one_answer_each(client: TestClient, task: str, tokens: int) -> None:
    pairs = [["good", "very good"], ["cat", "dog"]]
    answer = client.post(f"/classify/{task}", json={"pairs": pairs}).json()
    assert len(answer["predictions"]) == 2
    assert answer["usage"] == {"sentences": 4, "tokens": tokens}


def test_a_truncated_half_marks_its_pair(client: TestClient) -> None:
    pairs = [["a", "b"], ["a", "bad " * 30], ["cat " * 30, "dog " * 30]]
    assert client.post("/classify/same", json={"pairs": pairs}).json()["truncated"] == [1, 2]
    refused = client.post("/classify/same", json={"pairs": pairs, "truncate": False}).json()
    assert refused["error"]["message"].startswith("2 inputs, the first at index 1, are longer")


def test_a_regression_task_gives_values(client: TestClient) -> None:
    (prediction,) = client.post("/classify/stars", json={"sentences": "good"}).json()["predictions"]
    assert list(prediction) == ["value"]


def test_compare_shows_both_models_with_precision_and_speed(client: TestClient) -> None:
    answer = client.post("/compare", json={"sentences": ["good", "bad"]}).json()
    assert [result["cosine"] for result in answer["results"]] == pytest.approx([1, 1])
    assert answer["student"]["precision"] == answer["teacher"]["precision"] == "float32"
    assert answer["speed_up"] == pytest.approx(answer["teacher"]["milliseconds"] / answer["student"]["milliseconds"])


def test_compare_shows_the_labels_of_a_task(client: TestClient) -> None:
    answer = client.post("/compare", json={"sentences": ["good"], "task": "mood"}).json()
    (result,) = answer["results"]
    assert result["agree"] is (result["student"]["label"] == result["teacher"]["label"])


def test_openai_shapes_hold_text_and_token_ids(client: TestClient) -> None:
    expected = vectors(client, ["good film", "bad"])
    for content in (["good film", "bad"], [ids("good film"), ids("bad")]):
        answer = client.post("/v1/embeddings", json={"model": "student", "input": content}).json()
        assert np.array_equal(np.array([row["embedding"] for row in answer["data"]], np.float32), expected)
        assert [row["index"] for row in answer["data"]] == [0, 1]
        assert answer["usage"] == {"prompt_tokens": 7, "total_tokens": 7}
    for single in ("good film", ids("good film")):
        answer = client.post("/v1/embeddings", json={"model": "student", "input": single}).json()
        assert np.array_equal(np.array(answer["data"][0]["embedding"], np.float32), expected[0])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([-1], "input.0: Input should be greater than or equal to 0"),
        ([2, len(VOCABULARY), 3], f"outside 0 to {len(VOCABULARY) - 1}"),
        ([[2, 3], [2**70]], "row 1 holds a token id outside"),
        ([5] * (MAX_TOKENS + 1), f"has {MAX_TOKENS + 1} tokens; the model takes {MAX_TOKENS}"),
        ([], "at least 1 item"),
        ([[]], "at least 1 item"),
        ([True], "input"),
        ([[2, 3], "text"], "input"),
        ([1.5], "input"),
    ],
)
def test_token_ids_that_the_model_does_not_know_never_reach_it(client: TestClient, content, message: str) -> None:
    refused = client.post("/v1/embeddings", json={"model": "student", "input": content})
    assert refused.status_code == 422
    assert message in refused.json()["error"]["message"]


def test_openai_dimensions_are_accepted_only_if_they_are_the_models(client: TestClient) -> None:
    request = {"model": "student", "input": "good"}
    assert client.post("/v1/embeddings", json=request | {"dimensions": 8, "user": "me"}).status_code == 200
    assert client.post("/v1/embeddings", json=request | {"dimensions": 9}).json()["error"]["param"] == "dimensions"


def test_models_and_tasks_are_listed_with_their_manifests(client: TestClient) -> None:
    assert [model["model"] for model in client.get("/models").json()["models"]] == ["student", "teacher"]
    assert [model["id"] for model in client.get("/v1/models").json()["data"]] == ["student", "teacher"]
    assert client.get("/v1/models/teacher").json()["id"] == "teacher"
    assert client.get("/v1/models/gpt").status_code == 404
    tasks = {(task["task"], task["model"]): task for task in client.get("/tasks").json()["tasks"]}
    assert tasks["same", "student"]["inputs"] == "pairs"
    assert tasks["mood", "teacher"]["labels"] == ["bad", "good"]
    assert tasks["stars", "student"]["manifest"]["kind"] == "regressor"


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "kind", "param"),
    [
        ("POST", "/encode", b"{", 400, "not_json", None),
        ("POST", "/encode", b"", 400, "not_json", None),
        ("POST", "/encode", b'{"sentences": "\\ud800"}', 400, "not_json", None),
        ("POST", "/encode", b'{"sentences": "\xff"}', 400, "not_json", None),
        ("POST", "/encode", b"[" * 10_000, 400, "not_json", None),
        ("POST", "/encode", b'{"sentences":' + b"[" * 150 + b"]" * 150 + b"}", 422, "invalid", "sentences.0"),
        ("POST", "/encode", b"[]", 422, "invalid", None),
        ("POST", "/encode", b"{}", 422, "invalid", "sentences"),
        ("POST", "/encode", b'{"sentences": []}', 422, "invalid", "sentences"),
        ("POST", "/encode", b'{"sentences": ["a", 1]}', 422, "invalid", "sentences.1"),
        ("POST", "/encode", b'{"sentences": "a", "truncate": 1}', 422, "invalid", "truncate"),
        ("POST", "/encode", b'{"sentences": "a", "colour": 1}', 422, "invalid", "colour"),
        ("POST", "/encode", b'{"sentences": "a", "' + b"long" * 100_000 + b'": 1}', 422, "invalid", None),
        ("POST", "/encode", b'{"sentences": "a", "encoding_format": "hex"}', 422, "invalid", "encoding_format"),
        ("POST", "/encode", b'{"sentences": "a", "model": "pupil"}', 404, "not_found", "model"),
        ("POST", "/classify/nix", b'{"sentences": "a"}', 404, "not_found", "task"),
        ("POST", "/classify/mood", b'{"pairs": [["a", "b"]]}', 422, "invalid", "pairs"),
        ("POST", "/classify/same", b'{"sentences": "a"}', 422, "invalid", "sentences"),
        ("POST", "/classify/same", b'{"pairs": [["a", "b", "c"]]}', 422, "invalid", "pairs.0"),
        ("POST", "/classify/mood", b'{"sentences": "a", "pairs": [["a", "b"]]}', 422, "invalid", None),
        ("POST", "/classify/mood", b"{}", 422, "invalid", None),
        ("POST", "/compare", b'{"sentences": "a", "task": "same"}', 404, "not_found", "model"),
        ("GET", "/nix", None, 404, "not_found", None),
        ("POST", "/encode/", b"{}", 404, "not_found", None),
        ("GET", "/encode", None, 405, "method_not_allowed", None),
        ("DELETE", "/health/live", None, 405, "method_not_allowed", None),
        ("POST", "/admin/reload", None, 404, "not_found", None),
        ("GET", "/static-offline-docs/nix.js", None, 404, "not_found", None),
    ],
)
def test_every_error_has_one_body(client: TestClient, method, path, body, status, kind, param) -> None:
    answer = client.request(method, path, content=body)
    assert answer.status_code == status, answer.text
    assert list(answer.json()) == ["error"]
    error = answer.json()["error"]
    assert list(error) == ["type", "message", "param"]
    assert (error["type"], error["param"]) == (kind, param)
    assert error["message"]
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-request-id"]


def test_a_compressed_body_is_told_apart_from_other_noise(client: TestClient) -> None:
    body = gzip.compress(b'{"sentences": "a"}')
    answer = client.post("/encode", content=body, headers={"Content-Encoding": "gzip"})
    assert answer.status_code == 400
    assert "it says Content-Encoding: gzip, and is taken without any" in answer.json()["error"]["message"]


def test_json_nested_without_end_is_no_json_and_does_no_harm(client: TestClient) -> None:
    for depth in (1_000, 10_000):
        answer = client.post("/encode", content=b'{"sentences":' + b"[" * depth + b"]" * depth + b"}")
        assert (answer.status_code, answer.json()["error"]["type"]) == (400, "not_json")
    assert client.post("/encode", json={"sentences": "good"}).status_code == 200


def test_of_a_body_that_is_wrong_everywhere_not_every_place_is_told(client: TestClient) -> None:
    answer = client.post("/encode", json={str(number): 1 for number in range(1_000)})
    assert answer.status_code == 422
    assert answer.json()["error"]["message"] == "the body is wrong in 1001 places; /docs shows what is taken"


@pytest.mark.parametrize(
    "body",
    [
        b'{"sentences": "a", "more": [' + b"[]," * 50 + b"[]]}",
        b'{"sentences": "a", ' + b",".join(b'"%d": 1' % number for number in range(50)) + b"}",
        b'{"sentences": "a", ' + rb'"\\": 1, ' * 50 + b'"more": 1}',
    ],
)
def test_a_body_of_more_parts_than_any_request_has_is_refused_before_they_are_read(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, body: bytes
) -> None:
    client = serve(max_sentences=2)
    monkeypatch.setattr(json_route, "_check", lambda *_: pytest.fail("it was read"))
    answer = client.post("/encode", content=body)
    assert answer.status_code == 422
    assert answer.json()["error"]["message"] == "the body has more than 40 parts; UNDERSTUDY_MAX_SENTENCES is 2"


def test_what_is_within_a_sentence_is_no_part_of_the_body(serve: Serve) -> None:
    client = serve(max_sentences=1)
    for sentence in ('[{":' * 100, '\\"[' * 100, '["' * 100 + "\\"):
        assert client.post("/encode", json={"sentences": [sentence]}).status_code == 200
    plain = client.post("/encode", content=b"key: value\n" * 100)
    assert plain.json()["error"]["type"] == "not_json"


def test_a_wrong_method_is_told_the_right_ones(client: TestClient) -> None:
    assert client.get("/encode").headers["allow"] == "POST"


def test_limits_are_named_with_value_and_setting(serve: Serve) -> None:
    client = serve(max_sentences=2, max_body_bytes=1000)
    for path, param, content in (
        ("/encode", "sentences", ["a"] * 3),
        ("/classify/same", "pairs", [["a", "b"]] * 3),
        ("/v1/embeddings", "input", ["a"] * 3),
        ("/v1/embeddings", "input", [[2, 3]] * 3),
    ):
        many = client.post(path, json={param: content, "model": "student"})
        assert (many.status_code, many.json()["error"]["param"]) == (422, param)
        assert many.json()["error"]["message"] == f"{param}: 3 were sent; UNDERSTUDY_MAX_SENTENCES is 2"
    for content in (b"x" * 1001, iter([b"x" * 600, b"x" * 600])):  # declared, and chunked
        large = client.post("/encode", content=content)
        assert large.status_code == 413
        assert large.json()["error"]["message"] == "the body is too large; UNDERSTUDY_MAX_BODY_BYTES is 1000"


def test_server_timing_tells_each_stage_in_fractional_milliseconds(client: TestClient) -> None:
    header = client.post("/encode", json={"sentences": "good"}).headers["server-timing"]
    stages = dict(part.split(";dur=") for part in header.split(", "))
    assert list(stages) == ["parse", "tokenize", "queue", "inference", "serialize", "total"]
    assert sum(float(stages[stage]) for stage in list(stages)[:-1]) <= float(stages["total"])


def test_the_documentation_needs_nothing_from_elsewhere(client: TestClient) -> None:
    page = client.get("/docs").text
    assert "http://" not in page
    assert "https://" not in page
    assert client.get("/static-offline-docs/swagger-ui-bundle.js").status_code == 200


def test_the_declared_answer_is_the_one_given(client: TestClient) -> None:
    """Orjson writes the answers past the models that declare them; here they meet."""
    from app import schemas

    calls = [
        ("/encode", {"sentences": "good"}, schemas.EncodeResponse),
        ("/encode", {"sentences": "good", "encoding_format": "base64"}, schemas.EncodeResponse),
        ("/classify/mood", {"sentences": "good"}, schemas.ClassifyResponse),
        ("/classify/stars", {"sentences": "good"}, schemas.ClassifyResponse),
        ("/compare", {"sentences": "good"}, schemas.CompareResponse),
        ("/compare", {"sentences": "good", "task": "mood"}, schemas.CompareResponse),
        ("/v1/embeddings", {"model": "student", "input": "good"}, schemas.EmbeddingsResponse),
    ]
    for path, request, response in calls:
        answer = client.post(path, json=request).json()
        assert response.model_validate(answer).model_dump(mode="json") == answer, path
        assert json.dumps(answer)
