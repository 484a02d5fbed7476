import asyncio
import io
from itertools import combinations

import numpy as np
import pytest
from PIL import Image

from benchmarks import dashboard_picture
from benchmarks.dashboard_picture import SCALES, SUFFIX, Line, filled, legend, place, shown
from benchmarks.prometheus import Series
from training.plots import DPI

BOARD = dashboard_picture.read()
VALUES = dashboard_picture.variables(BOARD, 5)
TIMES = [1.7e9 + 5 * number for number in range(12)]


def line(name: str, *values: float) -> Line:
    return Line(name, Series({}, np.resize(values, len(TIMES))))


def answers(labels: dict[str, str]) -> dict[int, list[Line]]:
    """A line for every query of the dashboard."""
    return {
        panel["id"]: [
            Line(target["legendFormat"], Series(labels, np.linspace(0.1, 7, len(TIMES)))) for target in panel["targets"]
        ]
        for panel in BOARD["panels"]
        if "targets" in panel
    }


def test_every_kind_of_panel_and_every_unit_of_the_dashboard_can_be_drawn():
    assert {panel["type"] for panel in BOARD["panels"]} <= dashboard_picture.KINDS.keys()
    units = {panel["fieldConfig"]["defaults"]["unit"] for panel in BOARD["panels"] if "targets" in panel}
    assert {unit for unit in units if not unit.startswith(SUFFIX)} <= SCALES.keys()


def test_queries_and_titles_are_left_without_variables():
    exprs = [target["expr"] for panel in BOARD["panels"] for target in panel.get("targets", [])]
    titles = [panel["title"] for panel in BOARD["panels"]]
    assert any("$" in text for text in exprs)
    assert any("$" in text for text in titles)
    assert not [text for text in [*exprs, *titles] if "$" in filled(text, VALUES)]


def test_a_query_gets_the_chosen_route_and_four_scrapes_for_a_rate():
    assert filled('rate(x{route="$route"}[$__rate_interval])', VALUES) == 'rate(x{route="/encode"}[20s])'
    with pytest.raises(KeyError, match="unheard"):
        filled("x[$unheard]", VALUES)


def test_a_legend_names_labels_and_leaves_no_hole_for_an_empty_one():
    assert legend("{{model}} {{task}} lengths", {"model": "student", "task": "sst2"}) == "student sst2 lengths"
    assert legend("{{model}} {{ task }} lengths", {"model": "student"}) == "student lengths"


@pytest.mark.parametrize(
    ("value", "unit", "decimals", "text"),
    [
        (0.00123456, "s", None, "1.23 ms"),
        (0.000085, "s", None, "85 µs"),
        (0.001, "s", None, "1 ms"),
        (12.0, "s", None, "12 s"),
        (0.0, "s", None, "0 s"),
        (0.0, "percentunit", None, "0%"),
        (0.0456, "percentunit", None, "4.56%"),
        (1234.0, "short", None, "1.23 K"),
        (1234.0, "short", 0, "1 K"),
        (17.04, "suffix:x", 1, "17.0x"),
        (1234.0, "suffix: rows/s", None, "1,234 rows/s"),
        (0.5, "reqps", None, "0.5 req/s"),
        (3 * 2**20, "bytes", None, "3 MiB"),
        (-0.25, "short", 3, "-0.250"),
    ],
)
def test_values_are_scaled_to_their_unit(value, unit, decimals, text):
    assert shown(value, unit, decimals) == text


def test_panels_lie_as_in_grafanas_grid():
    height = dashboard_picture.HEAD + dashboard_picture.FOOT + 72 * dashboard_picture.ROW
    places = {panel["id"]: place(panel, height) for panel in BOARD["panels"]}
    for one, other in combinations(BOARD["panels"], 2):
        grids, found = (one["gridPos"], other["gridPos"]), (places[one["id"]], places[other["id"]])
        assert (grids[0]["x"] < grids[1]["x"]) == (found[0].left < found[1].left)
        if grids[0]["y"] + grids[0]["h"] <= grids[1]["y"]:
            assert found[0].bottom >= found[1].bottom + found[1].height - 1e-9
    assert all(found.left + found.width <= dashboard_picture.WIDTH + 1e-9 for found in places.values())


def test_a_line_ends_with_the_last_value_there_is():
    assert line("a", 1.0, 2.0, *[np.nan] * 10).last == 2.0


def test_the_picture_holds_every_panel_with_and_without_answers():
    labels = {"model": "student", "role": "student", "space": "0" * 16, "sha256": "0" * 64}
    empty, full = (dashboard_picture.draw(BOARD, found, VALUES, TIMES) for found in ({}, answers(labels)))
    assert empty != full
    for png in (empty, full):
        assert Image.open(io.BytesIO(png)).width == round(dashboard_picture.WIDTH * DPI)


def test_what_is_drawn_is_what_the_dashboard_asks():
    asked = []

    class Recorded:
        async def series(self, expr, times):
            asked.append(expr)
            return [Series({"model": "student"}, np.ones(len(times)))]

    found = asyncio.run(dashboard_picture.ask(BOARD, Recorded(), VALUES, TIMES))
    assert len(asked) == sum(len(panel.get("targets", [])) for panel in BOARD["panels"])
    assert not [expr for expr in asked if "$" in expr]
    assert sum(map(len, found.values())) == len(asked)
