import os
import subprocess
import sys
from pathlib import Path

import pytest
from bundles import write_encoder, write_task

from app.__main__ import main
from app.bundle import BundleError
from app.comparison import InputError, compare_file
from app.errors import NotFoundError
from app.settings import Settings


@pytest.fixture
def settings(models_dir: Path) -> Settings:
    return Settings(models_dir=models_dir)


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    file = tmp_path / "sentences.txt"
    file.write_text("good film\n\n  \nnot very good food\n")
    return file


def test_a_file_of_sentences_becomes_a_table_with_both_times_and_the_speed_up(settings: Settings, lines: Path) -> None:
    head, *rows, empty, agreement, student, teacher, speed_up = compare_file(settings, 2, lines, None).splitlines()
    assert head.split() == ["cosine", "input"]
    assert rows == ["1.000   good film", "1.000   not very good food"]
    assert (empty, agreement) == ("", "2 inputs, mean cosine 1.000")
    assert student.split()[:2] == ["student", "float32"]
    assert teacher.split()[:2] == ["teacher", "float32"]
    times = [float(line.split()[2]) for line in (student, teacher)]
    assert all(times)
    assert speed_up.startswith("speed-up ")
    assert speed_up.endswith(", both with 2 threads")


def test_a_byte_order_mark_is_no_text_and_only_a_line_break_ends_a_line(settings: Settings, tmp_path: Path) -> None:
    file = tmp_path / "sentences.txt"
    file.write_bytes("\ufeffgood film\r\nthe cat\u2028sat\x85\x0c\x1cdown\n".encode())
    rows = compare_file(settings, 1, file, None).split("\n")[1:3]
    assert rows == ["1.000   good film", "1.000   the cat\u2028sat\x85\x0c\x1cdown"]


def test_texts_that_are_compared_by_their_beginning_alone_are_counted(settings: Settings, tmp_path: Path) -> None:
    file = tmp_path / "sentences.txt"
    file.write_text(f"good film\n{'good ' * 40}\n")
    *_, agreement, _, _, _ = compare_file(settings, 1, file, None).splitlines()
    assert agreement == "2 inputs, 1 of them cut off at a model's limit, mean cosine 1.000"


def test_a_task_shows_both_labels(settings: Settings, lines: Path) -> None:
    head, first, *_, agreement, _, _, _ = compare_file(settings, 1, lines, "mood").splitlines()
    assert head.split() == ["student", "teacher", "input"]
    ours, score, theirs, same, *_ = first.split()
    assert (ours, score) == (theirs, same)
    assert ours in {"good", "bad"}
    assert agreement == "2 inputs, 2 with the same label"


def test_the_service_says_with_how_many_threads_it_compares(client) -> None:
    assert client.post("/compare", json={"sentences": "good"}).json()["threads"] == 2


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "holds no sentence"),
        (b" \n", "holds no sentence"),
        (b"\xff\n", "is not UTF-8: invalid start byte at byte 0"),
    ],
)
def test_a_file_that_cannot_be_compared_is_named(settings: Settings, tmp_path: Path, content: bytes, complaint) -> None:
    file = tmp_path / "odd.txt"
    file.write_bytes(content)
    with pytest.raises(InputError, match=f"odd.txt {complaint}"):
        compare_file(settings, 1, file, None)


def test_a_line_that_is_no_pair_is_named(tmp_path: Path, settings: Settings) -> None:
    for role in ("student", "teacher"):
        write_task(tmp_path, "same", inputs="pair_apart", role=role)
    file = tmp_path / "pairs.tsv"
    file.write_text("good film\tbad film\ngood film\n")
    with pytest.raises(InputError, match=r"pairs.tsv, line 2: this task takes two sentences with a tab between"):
        compare_file(Settings(models_dir=tmp_path), 1, file, "same")
    file.write_text("good film\tbad film\n")
    assert "good film | bad film" in compare_file(Settings(models_dir=tmp_path), 1, file, "same")


def test_a_teacher_that_is_not_there_is_told_with_the_command_that_makes_it(tmp_path: Path, lines: Path) -> None:
    write_encoder(tmp_path / "models")
    with pytest.raises(NotFoundError, match="python -m export teacher"):
        compare_file(Settings(models_dir=tmp_path / "models"), 1, lines, None)


def test_the_command_prints_the_table_or_one_clear_line(
    models_dir: Path, lines: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("UNDERSTUDY_MODELS_DIR", str(models_dir))
    assert main(["compare", str(lines)]) == 0
    assert "speed-up" in capsys.readouterr().out
    assert main(["compare", str(lines), "--task", "unheard"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("understudy: no such task")
    assert error.count("\n") == 1
    assert main(["compare", str(lines.parent / "none")]) == 1
    assert "cannot be read: No such file" in capsys.readouterr().err


def test_the_student_that_serves_is_compared(models_dir: Path, lines: Path) -> None:
    with pytest.raises(BundleError, match="UNDERSTUDY_STUDENT is other, and no such student is there"):
        compare_file(Settings(models_dir=models_dir, student="other"), 1, lines, None)


def test_a_reader_who_has_seen_enough_is_no_error(models_dir: Path, lines: Path) -> None:
    environment = os.environ | {"UNDERSTUDY_MODELS_DIR": str(models_dir)}
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb") as closed:
        command = [sys.executable, "-m", "app", "compare", str(lines)]
        done = subprocess.run(command, stdout=closed, stderr=subprocess.PIPE, env=environment, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")
