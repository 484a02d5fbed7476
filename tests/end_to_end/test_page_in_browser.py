"""The page at /, in headless Chromium on the real service: typed, clicked, read, and looked over by axe-core."""

import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Locator, Page, Response, Route, expect, sync_playwright

from benchmarks.pictures import CHROMIUM, QUIET
from tests.app.bundles import EMBEDDINGS, encoder_graph, write_encoder, write_task
from tests.app.processes import Process

ROOT = Path(__file__).parents[2]
SENTENCES = ["A man is playing a guitar.", "Someone plays an instrument.", "The stock market fell."]
TINY = ["good film", "not very good food", "the cat sat", "a bad film"]
NARROW, WIDE = {"width": 390, "height": 844}, {"width": 1440, "height": 900}
# The smallest step of a number that is written with two digits, halved, for the rounding of either side.
ROUNDING = 0.0051

pytestmark = pytest.mark.slow

Serve = Callable[..., Process]
Visit = Callable[..., Page]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if shutil.which(CHROMIUM) is None:
        pytest.skip(f"no {CHROMIUM} is installed; on Debian: apt install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which(CHROMIUM), args=QUIET)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small models of every kind: both encoders, a task of both, and two of the student alone."""
    folder = tmp_path_factory.mktemp("models")
    student = write_encoder(folder)
    other = encoder_graph(EMBEDDINGS[::-1].copy())
    write_encoder(folder, "teacher", other, canary_tolerance=2)  # as its canary is the student's
    write_task(folder, "mood", base=student)
    write_task(folder, "mood", role="teacher")
    write_task(folder, "same", base=student, inputs="pair_apart", labels=("different", "perhaps", "same"))
    write_task(folder, "stars", base=student, labels=())
    return folder


@pytest.fixture(scope="module")
def serve(tiny: Path) -> Iterator[Serve]:
    """Start services with some settings changed; each lives as long as the module's tests."""
    with ExitStack() as stack:

        def start(**settings: object) -> Process:
            process = Process(**{"models_dir": tiny} | settings)
            stack.callback(process.kill)
            return process.wait_until(200)

        yield start


@pytest.fixture(scope="module")
def service(serve: Serve) -> Process:
    """A service of the small models."""
    return serve()


@pytest.fixture
def visit(browser: Browser) -> Iterator[Visit]:
    """Open a service's page. What it asks of others, or writes to the console, fails the test."""
    with ExitStack() as stack:

        def open_page(
            service: Process, *, before: Callable[[Page], None] = lambda page: None, **options: object
        ) -> Page:
            context = stack.enter_context(browser.new_context(**{"viewport": WIDE} | options))
            page = context.new_page()
            origin, strange = f"http://127.0.0.1:{service.port}/", []
            page.on("request", lambda request: request.url.startswith(origin) or strange.append(request.url))
            page.on("pageerror", lambda error: strange.append(str(error)))
            page.on("console", lambda message: strange.append(message.text) if _is_own(message.text) else None)
            stack.callback(lambda: strange and pytest.fail(f"the page did not behave: {strange}"))
            before(page)
            page.goto(origin)
            expect(page.locator("#run")).not_to_have_attribute("aria-disabled", "true")
            return page

        yield open_page


def _is_own(message: str) -> bool:
    """Whether the page is to blame; the browser itself notes every answer that is an error."""
    return not message.startswith("Failed to load resource")


def compare(page: Page, sentences: list[str]) -> None:
    page.get_by_label("Sentences").first.fill("\n".join(sentences))
    page.get_by_role("button", name="Compare", exact=True).click()
    expect(page.locator("#run")).not_to_have_attribute("aria-disabled", "true")


def answer(service: Process, path: str, **content: object) -> dict:
    status, body = service.call("POST", path, content)
    assert status == 200, body
    return json.loads(body)


def number(text: str) -> float:
    return float(re.sub(r"[^\d.\-]", "", text.replace("\N{MINUS SIGN}", "-")))


def matrix(page: Page, title: str) -> np.ndarray:
    rows = page.get_by_role("table", name=title, exact=True).locator("tbody tr").all()
    return np.array([[number(cell) for cell in row.locator("td").all_inner_texts()] for row in rows])


def similarities(service: Process, model: str, sentences: list[str]) -> np.ndarray:
    vectors = np.array(answer(service, "/encode", sentences=sentences, model=model)["embeddings"])
    return vectors @ vectors.T


def test_the_shipped_models_are_shown_as_the_api_answers(serve: Serve, visit: Visit) -> None:
    if not (ROOT / "models" / "teacher").is_dir():
        pytest.skip("models/teacher is not built: python -m export teacher")
    service = serve(models_dir=ROOT / "models")
    page = visit(service)
    expect(page.get_by_label("Task")).to_have_value("stsb")  # the first example's
    page.get_by_role("button", name="Film reviews").click()
    expect(page.get_by_label("Task")).to_have_value("sst2")
    expect(page.locator("#run")).not_to_have_attribute("aria-disabled", "true")
    runs: list[dict] = []
    page.on("response", lambda response: runs.append(response.json()) if _times_both(response) else None)
    compare(page, SENTENCES)
    told = sorted(runs, key=lambda run: run["speed_up"])[(len(runs) - 1) // 2]
    student, teacher = (similarities(service, model, SENTENCES) for model in ("student", "teacher"))
    assert np.allclose(matrix(page, "Student"), student, atol=ROUNDING)
    assert np.allclose(matrix(page, "Teacher"), teacher, atol=ROUNDING)
    assert np.allclose(matrix(page, "Student \N{MINUS SIGN} teacher"), student - teacher, atol=ROUNDING)
    mean = np.mean([result["cosine"] for result in told["results"]])
    assert number(page.locator("#fidelity strong").inner_text()) == pytest.approx(mean, abs=ROUNDING)
    assert number(page.locator("#lead").inner_text()) == pytest.approx(told["speed_up"], abs=0.51)
    for model in ("student", "teacher"):
        bar = page.locator(f"#bars dd.{model}")
        assert number(bar.inner_text()) == pytest.approx(told[model]["milliseconds"], rel=0.01)
        longest = max(told[each]["milliseconds"] for each in ("student", "teacher"))
        share = float(bar.locator(".bar").evaluate("bar => bar.style.getPropertyValue('--share')"))
        assert share == pytest.approx(told[model]["milliseconds"] / longest)
        assert told[model]["precision"] in page.locator("#bars").inner_text()
    predictions = answer(service, "/classify/sst2", sentences=SENTENCES)["predictions"]
    shown = page.get_by_role("table", name="Labels").locator("tbody tr").all()
    for row, prediction in zip(shown, predictions, strict=True):
        assert row.locator(".label").inner_text() == prediction["label"]
        assert number(row.locator(".value").inner_text()) == pytest.approx(100 * prediction["score"], abs=0.051)


def _times_both(response: Response) -> bool:
    return response.url.endswith("/compare") and "task" not in response.request.post_data_json


def test_a_task_of_both_models_shows_both_labels(service: Process, visit: Visit) -> None:
    page = visit(service)
    compare(page, TINY)
    table = page.get_by_role("table", name="Labels")
    assert table.locator("thead th").all_inner_texts() == ["Sentence", "Student", "Teacher"]
    results = answer(service, "/compare", sentences=TINY, task="mood")["results"]
    for row, result in zip(table.locator("tbody tr").all(), results, strict=True):
        for model in ("student", "teacher"):
            assert row.locator(f".{model} .label").inner_text() == result[model]["label"]
    expect(page.locator("#labels-note")).to_be_empty()


def test_the_task_chooser_takes_pairs_and_values_and_says_what_is_missing(service: Process, visit: Visit) -> None:
    page = visit(service)
    compare(page, TINY)
    chooser = page.get_by_label("Task")
    assert chooser.locator("option").all_inner_texts() == ["mood", "same", "stars"]
    chooser.select_option("same")
    table = page.get_by_role("table", name="Labels")
    expect(table.locator("tbody tr")).to_have_count(2)
    expect(table.get_by_role("rowheader").first).to_have_text(f"{TINY[0]} ⟷ {TINY[1]}")
    expect(table.locator("tbody tr").first.locator("li")).to_have_count(3)
    expect(page.locator("#labels-note")).to_contain_text("lines 1 and 2 are one")
    expect(page.locator("#labels-note")).to_contain_text("No teacher is loaded for same")
    compare(page, TINY[:3])
    expect(page.get_by_role("alert")).to_contain_text("The last line has no partner")
    chooser.select_option("stars")
    (value,) = answer(service, "/classify/stars", sentences=TINY[:1])["predictions"]
    expect(table.locator("tbody td").first).to_have_text(f"{value['value']:.3f}")


def test_all_that_is_wished_for_during_a_run_is_done_after_it(service: Process, visit: Visit) -> None:
    page, held = visit(service), list[Route]()
    page.route("**/tasks", lambda route: held.append(route), times=1)
    with page.expect_request("**/tasks"):
        page.get_by_role("button", name="Compare", exact=True).click()
    page.get_by_label("Sentences").first.fill("\n".join(TINY))
    page.get_by_label("Sentences").first.press("Control+Enter")
    page.get_by_label("Task").select_option("stars")
    held.pop().continue_()
    expect(page.locator("#run")).not_to_have_attribute("aria-disabled", "true")
    expect(page.get_by_role("table", name="Labels").get_by_role("rowheader")).to_have_text(TINY)
    expect(page.get_by_role("list", name="Sentences").locator("li")).to_have_text(TINY)


def test_an_example_is_one_click_away(service: Process, visit: Visit) -> None:
    page = visit(service)
    for example in page.get_by_role("group", name="Examples").get_by_role("button").all():
        example.click()
        sentences = page.get_by_label("Sentences").first.input_value().split("\n")
        expect(page.get_by_role("list", name="Sentences").locator("li")).to_have_text(sentences)


def test_the_keyboard_is_enough_and_its_place_is_seen(service: Process, visit: Visit) -> None:
    page = visit(service)
    reached = []
    for _ in range(30):
        page.keyboard.press("Tab")
        focus = page.locator(":focus")
        if not focus.count():
            break
        outline = focus.evaluate("element => getComputedStyle(element).outlineStyle")
        reached.append(focus.evaluate("element => element.id || element.textContent.trim()"))
        assert outline != "none", reached[-1]
        if reached[-1] == "sentences":
            page.keyboard.press("Control+A")
            page.keyboard.type("good film\nbad film")
            page.keyboard.press("Control+Enter")
            expect(page.get_by_role("list", name="Sentences").locator("li")).to_have_text(["good film", "bad film"])
            expect(page.locator("#said")).to_contain_text("2 sentences compared.")
        if reached[-1] == "Film reviews":
            page.keyboard.press("Space")
            expect(page.locator("#said")).to_contain_text("6 sentences compared.")
    assert {"sentences", "run", "task", "API", "Metrics", "Copy curl"} <= set(reached)


def test_without_a_teacher_the_student_is_shown_and_the_command_that_builds_one(
    serve: Serve, visit: Visit, tmp_path: Path
) -> None:
    write_encoder(tmp_path)
    page = visit(serve(models_dir=tmp_path))
    compare(page, TINY)
    expect(page.get_by_role("table", name="Student", exact=True)).to_be_visible()
    expect(page.get_by_role("table", name="Teacher")).to_have_count(0)
    expect(page.locator(".lead")).to_have_text(re.compile(r"^[\d.]+ ms by the student alone$"))
    expect(page.locator("#bars dd.teacher")).to_contain_text("not loaded")
    expect(page.locator("#speed-note code")).to_have_text("python -m export teacher")
    expect(page.get_by_role("alert")).to_be_empty()
    expect(page.get_by_label("Task")).to_be_disabled()
    expect(page.locator("#labels-note")).to_contain_text("No task is loaded")


def test_too_many_sentences_are_refused_in_words_and_the_next_run_works(serve: Serve, visit: Visit) -> None:
    page = visit(serve(max_sentences=7))
    compare(page, [f"good film {place}" for place in range(8)])
    expect(page.get_by_role("alert")).to_contain_text("Sentences: 8 were sent; UNDERSTUDY_MAX_SENTENCES is 7.")
    compare(page, TINY)
    expect(page.get_by_role("alert")).to_be_empty()
    expect(page.get_by_role("list", name="Sentences").locator("li")).to_have_text(TINY)


def test_many_sentences_fill_the_matrices_and_the_rest_is_told(service: Process, visit: Visit) -> None:
    page = visit(service)
    compare(page, [f"good film {'very ' * place}" for place in range(20)])
    assert matrix(page, "Student").shape == (12, 12)
    expect(page.locator("#similarity-note")).to_contain_text("The first 12 of 20 sentences are shown.")
    expect(page.locator("#speed-note")).to_contain_text("Sentence 15 was too long and was cut.")


def test_an_empty_box_is_told(service: Process, visit: Visit) -> None:
    page = visit(service)
    compare(page, ["", "  "])
    expect(page.get_by_role("alert")).to_contain_text("There is no sentence in the box.")


@pytest.mark.parametrize(
    ("status", "headers", "words"),
    [
        (429, {"retry-after": "3"}, "The service is busy The queue holds too much. Try again in 3 s."),
        (503, {"retry-after": "5"}, "The service is not ready The queue holds too much."),
        (504, {}, "The answer would have come too late The queue holds too much."),
        (500, {}, "The service failed (500) The queue holds too much."),
    ],
)
def test_errors_are_told_in_words(
    service: Process, visit: Visit, status: int, headers: dict[str, str], words: str
) -> None:
    body = json.dumps({"error": {"type": "any", "message": "the queue holds too much", "param": None}})

    def refuse(route: Route) -> None:
        route.fulfill(status=status, headers=headers | {"content-type": "application/json"}, body=body)

    page = visit(service, before=lambda page: page.route("**/encode", refuse))
    compare(page, TINY)
    expect(page.get_by_role("alert")).to_have_text(words)


def test_a_service_that_is_still_loading_is_asked_again_once_it_is_ready(service: Process, visit: Visit) -> None:
    body = json.dumps({"error": {"type": "unavailable", "message": "the models are still being loaded", "param": None}})
    paths = ("**/models", "**/health/ready")

    def load(page: Page) -> None:
        for path in paths:
            page.route(path, lambda route: route.fulfill(status=503, content_type="application/json", body=body))

    page = visit(service, before=load)
    expect(page.get_by_role("alert")).to_have_text("The service is not ready The models are still being loaded.")
    expect(page.locator("#health")).to_have_text("not ready")
    for path in paths:
        page.unroute(path)
    expect(page.get_by_role("table", name="Teacher", exact=True)).to_be_visible()
    expect(page.locator("#health")).to_have_text("ready")
    expect(page.get_by_role("alert")).to_be_empty()


def test_the_task_of_an_example_that_was_taken_before_any_was_loaded_is_turned_to(
    serve: Serve, visit: Visit, tmp_path: Path
) -> None:
    student = write_encoder(tmp_path)
    write_task(tmp_path, "stsb", base=student, inputs="pair_apart")
    write_task(tmp_path, "sst2", base=student)
    page = visit(serve(models_dir=tmp_path), before=lambda page: page.route("**/models", lambda route: route.abort()))
    page.get_by_role("button", name="Film reviews").click()
    expect(page.get_by_role("alert")).to_contain_text("The service cannot be reached")
    page.unroute("**/models")
    page.get_by_role("button", name="Compare", exact=True).click()
    expect(page.get_by_label("Task")).to_have_value("sst2")


def test_a_service_that_is_gone_is_told(serve: Serve, visit: Visit) -> None:
    service = serve()
    page = visit(service)
    service.kill()
    compare(page, TINY)
    expect(page.get_by_role("alert")).to_contain_text("The service cannot be reached")
    expect(page.locator("#health")).to_have_text("not reachable")


def test_a_key_is_asked_for_kept_in_memory_and_left_out_of_the_curl(serve: Serve, visit: Visit) -> None:
    page = visit(serve(api_key="sesame"), permissions=["clipboard-read", "clipboard-write"])
    expect(page.get_by_role("alert")).to_contain_text("This service needs its API key")
    page.get_by_label("API key").fill("wrong")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("It refused the one that was given.")
    page.get_by_label("API key").fill("sesame")
    page.keyboard.press("Enter")
    expect(page.get_by_role("table", name="Teacher", exact=True)).to_be_visible()
    expect(page.get_by_label("API key")).to_have_count(0)
    assert not page.evaluate("localStorage.length + sessionStorage.length + document.cookie.length")
    for button in page.locator(".copy").all():
        command = copied(page, button)
        assert "Bearer $UNDERSTUDY_API_KEY" in command
        assert "sesame" not in command


def copied(page: Page, button: Locator) -> str:
    page.locator("#said").evaluate("said => { said.textContent = ''; }")
    button.click()
    expect(page.locator("#said")).to_have_text("The command is in the clipboard.")
    return page.evaluate("navigator.clipboard.readText()")


def test_text_is_never_markup_and_a_copied_curl_asks_just_that(service: Process, visit: Visit) -> None:
    sentences = ['It\'s <b>good</b> "film" $HOME `id` \\ !', "<img src=x onerror=alert(1)>"]
    page = visit(service, permissions=["clipboard-read", "clipboard-write"])
    compare(page, sentences)
    expect(page.get_by_role("list", name="Sentences").locator("li")).to_have_text(sentences)
    expect(page.locator("main img")).to_have_count(0)
    for name, keys in (
        ("Copy student.s curl", {"embeddings"}),
        ("Copy teacher.s curl", {"embeddings"}),
        ("Copy curl", {"results", "speed_up"}),
    ):
        command = copied(page, page.get_by_role("button", name=re.compile(name)).first)
        assert command.startswith(f"curl 'http://127.0.0.1:{service.port}/")
        done = subprocess.run(["sh", "-c", command.replace("curl ", "curl -s ", 1)], capture_output=True, check=True)
        told = json.loads(done.stdout)
        assert keys <= told.keys(), told
        assert len(told.get("embeddings", told.get("results"))) == 2


def test_where_the_clipboard_is_closed_the_command_is_shown_selected(service: Process, visit: Visit) -> None:
    closed = "Object.defineProperty(navigator, 'clipboard', {value: undefined})"  # as on a page from plain http
    page = visit(service, before=lambda page: page.add_init_script(closed))
    page.get_by_role("button", name=re.compile("Copy student.s curl")).click()
    shown = page.get_by_label("Command to copy")
    expect(shown).to_be_focused()
    assert page.evaluate("getSelection().toString()") == shown.input_value()


def test_live_quantiles_are_those_of_the_metrics(serve: Serve, visit: Visit) -> None:
    service = serve()
    for _ in range(5):
        answer(service, "/encode", sentences=TINY)
    page = visit(service)
    table = page.get_by_role("table", name="Since the service started")
    row = table.get_by_role("row", name="student")
    # five, and the page's own on opening: one for vectors
    expect(row.locator("td").last).to_have_text("6")
    p50, p99 = (number(text) for text in row.locator("td").all_inner_texts()[:2])
    text = service.call("GET", "/metrics")[1].decode()
    assert p50 == pytest.approx(1e3 * quantile(text, "student", 0.5), rel=0.01)
    assert p99 == pytest.approx(1e3 * quantile(text, "student", 0.99), rel=0.01)
    recent = page.get_by_role("table", name="Seen here").get_by_role("row", name="student")
    compare(page, TINY)
    expect(recent.locator("td").last).to_have_text(re.compile(r"[12]"))  # what the page asked since it was opened


def quantile(exposition: str, model: str, share: float) -> float:
    """As PromQL's histogram_quantile: linear within a bucket."""
    found: dict[float, float] = {}
    buckets = rf'^understudy_request_duration_seconds_bucket{{le="([^"]+)",model="{model}",route="[^"]+"}} (\S+)$'
    for bound, count in re.findall(buckets, exposition, flags=re.MULTILINE):
        found[float(bound)] = found.get(float(bound), 0) + float(count)
    bounds, counts = np.array([*found]), np.array([*found.values()])
    place = int(np.searchsorted(counts, share * counts[-1]))
    below, before = (bounds[place - 1], counts[place - 1]) if place else (0.0, 0.0)
    return below + (bounds[place] - below) * (share * counts[-1] - before) / (counts[place] - before)


def test_nobody_is_asked_for_metrics_while_the_page_is_hidden(service: Process, visit: Visit) -> None:
    asked = []

    def watch(page: Page) -> None:
        page.clock.install()
        page.on("request", lambda request: asked.append(request.url) if request.url.endswith("/metrics") else None)

    def hide(page: Page, *, hidden: bool) -> None:
        page.evaluate(
            f"Object.defineProperty(document, 'hidden', {{value: {str(hidden).lower()}, configurable: true}})"
        )
        page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")

    page = visit(service, before=watch)
    with page.expect_response("**/metrics"):
        page.clock.run_for(6_000)
    hide(page, hidden=True)
    seen = len(asked)
    assert seen
    page.clock.run_for(60_000)
    assert len(asked) == seen
    with page.expect_response("**/metrics"):
        hide(page, hidden=False)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [NARROW, WIDE], ids=["narrow", "wide"])
def test_it_fits_and_axe_finds_nothing(service: Process, visit: Visit, scheme: str, viewport: dict[str, int]) -> None:
    page = visit(service, viewport=viewport, color_scheme=scheme, reduced_motion="reduce")
    compare(page, TINY)
    assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]
    assert page.locator(".bar").first.evaluate("bar => getComputedStyle(bar).transitionDuration") == "0s"
    _expect_no_violation(page)
    compare(page, ["good film"] * 600)
    expect(page.get_by_role("alert")).not_to_be_empty()
    _expect_no_violation(page)


def _expect_no_violation(page: Page) -> None:
    found = Axe().run(page)
    assert not found.violations_count, found.generate_report()


def test_values_are_readable_on_every_shade(service: Process, visit: Visit) -> None:
    for scheme in ("light", "dark"):
        page = visit(service, color_scheme=scheme)
        compare(page, TINY)
        for cell in (".heat tbody td", ".apart td.more", ".apart td.less"):
            assert min(contrasts(page.locator(cell).first)) >= 4.5


def contrasts(cell: Locator) -> list[float]:
    """WCAG contrast of a cell's text at 101 shares of its colour, as the browser paints both."""
    found: list[float] = cell.evaluate(
        """cell => {
          const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
          const luminance = (colour) => {
            canvas.fillStyle = colour;
            canvas.fillRect(0, 0, 1, 1);
            const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data].map((value) => value / 255)
              .map((value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4));
            return 0.2126 * r + 0.7152 * g + 0.0722 * b;
          };
          return Array.from({ length: 101 }, (_, step) => {
            cell.style.setProperty("--share", step / 100);
            const { color, backgroundColor } = getComputedStyle(cell);
            const [low, high] = [luminance(color), luminance(backgroundColor)].sort((one, other) => one - other);
            return (high + 0.05) / (low + 0.05);
          });
        }"""
    )
    return found
