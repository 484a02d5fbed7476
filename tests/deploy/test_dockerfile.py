import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
LINES = re.sub(r"\\\n", "", re.sub(r"(?m)^#.*\n", "", (ROOT / "Dockerfile").read_text())).splitlines()
INSTRUCTIONS = [tuple(line.split(maxsplit=1)) for line in LINES if line.strip()]
START = max(place for place, (name, _) in enumerate(INSTRUCTIONS) if name == "FROM")
BUILDER, SERVING = INSTRUCTIONS[:START], INSTRUCTIONS[START:]


def arguments(stage: list[tuple[str, ...]], name: str) -> list[str]:
    return [rest for instruction, rest in stage if instruction == name]


def test_the_serving_stage_installs_nothing_and_never_heard_of_torch():
    assert not arguments(SERVING, "RUN")
    assert "torch" not in str(SERVING)


def test_both_stages_have_one_python():
    assert arguments(BUILDER, "FROM")[0].split()[0] == arguments(SERVING, "FROM")[0]


def test_the_service_runs_as_a_numeric_user_that_is_not_root():
    (user,) = arguments(SERVING, "USER")
    assert all(int(number) > 0 for number in user.split(":"))


def test_signals_reach_the_service():
    (command,) = arguments(SERVING, "CMD")
    assert json.loads(command) == ["python", "-m", "app"]


def test_the_health_check_needs_no_other_program_and_no_shell():
    (check,) = arguments(SERVING, "HEALTHCHECK")
    command = json.loads(check.partition("CMD")[2])
    assert command[0] == "python"
    compile(command[-1], "health check", "exec")
    assert "/health/ready" in command[-1]


def test_dependencies_are_installed_before_any_code_comes():
    installs = [place for place, (name, rest) in enumerate(BUILDER) if name == "RUN" and "install" in rest]
    copies = [place for place, (name, rest) in enumerate(BUILDER) if name == "COPY" and "pyproject.toml" not in rest]
    assert max(installs) < min(copies)


def test_torch_is_the_version_that_the_makefile_installs():
    (pinned,) = set(re.findall(r"torch==[\d.]+", str(BUILDER)))
    assert f"TORCH := {pinned}\n" in (ROOT / "Makefile").read_text()


def test_the_build_sees_only_what_it_copies():
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {source.partition("/")[0] for rest in arguments(BUILDER, "COPY") for source in rest.split()[:-1]}
    assert kept == copied
