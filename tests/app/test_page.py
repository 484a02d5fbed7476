import re
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

Serve = Callable[..., TestClient]

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "app" / "page"
FILES = {file.name: file.read_text() for file in FOLDER.iterdir()}
SCRIPTS = "\n".join(text for name, text in FILES.items() if name.endswith(".js"))
TYPES = {".html": {"text/html"}, ".css": {"text/css"}, ".js": {"text/javascript", "application/javascript"}}
TYPES[".svg"] = {"image/svg+xml"}
PATHS = ["/", *(f"/page/{name}" for name in FILES)]


@pytest.mark.parametrize("path", PATHS)
def test_every_file_comes_with_its_type_and_a_strict_policy(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 200
    assert answer.text == FILES[path.removeprefix("/page/").lstrip("/") or "index.html"]
    suffix = Path(path).suffix or ".html"
    assert answer.headers["content-type"].partition(";")[0] in TYPES[suffix]
    policy = dict(part.split(maxsplit=1) for part in answer.headers["content-security-policy"].split("; "))
    assert policy.pop("default-src") == "'none'"
    assert set(policy.values()) == {"'self'", "'none'"}
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("path", PATHS)
def test_a_kept_copy_is_asked_for_anew_and_not_sent_again(client: TestClient, path: str) -> None:
    first = client.get(path)
    assert first.headers["cache-control"] == "no-cache"
    again = client.get(path, headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert client.get(path, headers={"If-None-Match": '"another"'}).status_code == 200


@pytest.mark.parametrize("path", PATHS)
def test_head_answers_as_get_without_the_body(client: TestClient, path: str) -> None:
    head, get = client.head(path), client.get(path)
    assert (head.status_code, head.content) == (200, b"")
    for name in ("content-type", "content-length", "etag", "content-security-policy"):
        assert head.headers[name] == get.headers[name]


@pytest.mark.parametrize(
    "path", ["/page/none.js", "/page/..%2Fmain.py", "/page/%2Fetc%2Fpasswd", "/page/", "/page/%00"]
)
def test_nothing_but_the_page_s_own_files_is_served(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 404
    assert answer.json()["error"]["type"] == "not_found"


def test_the_page_needs_no_key_but_what_it_asks_does(serve: Serve) -> None:
    client = serve(api_key="sesame")
    assert {client.get(path).status_code for path in PATHS} == {200}
    assert client.get("/tasks").status_code == 401


def test_nothing_is_asked_of_anybody_else() -> None:
    namespace = "http://www.w3.org/2000/svg"  # a name, which nobody fetches
    outside = re.compile(r"(?:https?:|wss?:|[\"'(])//[\w[]")
    assert not [name for name, text in FILES.items() if outside.search(text.replace(namespace, ""))]


def test_nothing_stands_inline_that_the_policy_would_refuse() -> None:
    assert not re.search(r"<style|\sstyle=|<script(?![^>]*\ssrc=)|\son\w+=|javascript:", FILES["index.html"])
    assert not re.search(r"\beval\(|new Function|innerHTML|insertAdjacentHTML|document\.write", SCRIPTS)


def test_what_the_files_name_is_there() -> None:
    named = re.findall(r'(?:href|src)="page/([^"]+)"', FILES["index.html"]) + re.findall(r'from "\./([^"]+)"', SCRIPTS)
    assert named
    assert set(named) | {"index.html"} == set(FILES)
    ids = set(re.findall(r'\sid="([^"]+)"', FILES["index.html"]))
    assert set(re.findall(r'\bat\("([^"]+)"\)', FILES["page.js"])) <= ids


def test_every_route_that_the_page_calls_exists(client: TestClient) -> None:
    document = client.get("/openapi.json").json()["paths"]
    called = set(re.findall(r'\b(?:ask|read|curl|refusal)\("([^"]+)"', SCRIPTS))
    assert {"encode", "compare", "models", "tasks", "metrics", "health/ready"} == called
    assert {f"/{path}" for path in called} <= set(document)
    assert "`classify/${" in SCRIPTS
    assert "/classify/{task}" in document
    for link in re.findall(r'href="([^"]+)"', FILES["index.html"]):
        assert client.get(f"/{link}").status_code == 200


def test_the_metric_that_the_page_reads_is_exported_for_both_models(client: TestClient) -> None:
    (metric,) = set(re.findall(r'"(understudy_\w+)"', SCRIPTS))
    text = client.get("/metrics").text
    for model in ("student", "teacher"):
        assert re.search(rf'^{metric}_bucket{{.*model="{model}"', text, flags=re.MULTILINE)


def test_an_installed_package_carries_every_file() -> None:
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["app"]
    carried = {file for pattern in patterns for file in (ROOT / "app").glob(pattern)}
    assert carried == set(FOLDER.iterdir())
