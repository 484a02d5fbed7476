import json
import math
from pathlib import Path

import pytest

from benchmarks.report import Table, lead, publish, shown, spread

TABLE = Table("Speed", ("model", "a second"), [("student", 9000.4), ("peer", 2.345), ("broken", None)])


def test_a_table_is_markdown_with_its_numbers_to_the_right():
    assert TABLE.markdown().splitlines() == [
        "**Speed**",
        "",
        "| model | a second |",
        "| --- | ---: |",
        "| student | 9,000 |",
        "| peer | 2.35 |",
        "| broken |  |",
    ]


@pytest.mark.parametrize(
    ("cell", "text"), [(1234, "1,234"), (math.inf, "never"), ("as is", "as is"), (0.0123, "0.0123")]
)
def test_a_cell_is_shown_with_the_digits_it_deserves(cell: float | str, text: str):
    assert shown(cell) == text


def test_a_lead_is_the_median_of_ratios_taken_side_by_side():
    assert lead([10, 100, 30], [1, 20, 1]) == 10
    assert spread([3.0, 1.0, 2.0]) == "1 to 3"


def test_what_is_printed_is_also_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    publish("speed", {"cores": 2}, [TABLE], tmp_path / "new")
    assert (tmp_path / "new" / "speed.md").read_text() == capsys.readouterr().out
    content = json.loads((tmp_path / "new" / "speed.json").read_text())
    assert content["machine"] == {"cores": 2}
    assert content["tables"][0]["rows"][1] == ["peer", 2.345]
