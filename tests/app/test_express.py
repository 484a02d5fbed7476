import pytest
from fastapi.testclient import TestClient

SENTENCE = {"sentences": "good"}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/encode", SENTENCE),
        ("/classify/mood", SENTENCE),
        ("/classify/%6dood", SENTENCE),
        ("/compare", SENTENCE),
        ("/v1/embeddings", {"model": "student", "input": "good"}),
    ],
)
def test_what_runs_a_model_never_meets_a_router(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, path: str, body: dict[str, str]
) -> None:
    async def wrong_way(*_arguments: object) -> None:
        raise AssertionError("a router was asked")

    usual = client.post(path, json=body).json()
    monkeypatch.setattr(client.app.router, "middleware_stack", wrong_way)
    assert client.get("/models").status_code == 500
    answer = client.post(path, json=body)
    assert answer.status_code == 200
    assert answer.json().keys() == usual.keys()


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/encode", 405), ("POST", "/encode/", 404)])
def test_what_is_no_route_is_refused_as_everywhere(client: TestClient, method: str, path: str, status: int) -> None:
    answer = client.request(method, path, json=SENTENCE)
    assert answer.status_code == status
    assert answer.json()["error"]["message"]
