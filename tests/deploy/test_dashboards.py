import json
from collections.abc import Iterator
from copy import deepcopy
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from app.metrics import BOTH_MODELS, MODEL_ROUTES, MODELS
from deploy.grafana import dashboards

GRAFANA = Path(__file__).parents[2] / "deploy" / "grafana"
register_default_plugins()  # so that each panel and query is read as its own kind
SHIPPED = json.loads(dashboards.FILE.read_text())


def test_the_shipped_dashboard_is_what_the_script_writes(tmp_path):
    dashboards.write(tmp_path / "fresh.json")
    fresh = (tmp_path / "fresh.json").read_text()
    assert dashboards.FILE.read_text() == fresh, "python -m deploy.grafana.dashboards writes it anew"


def test_the_first_row_shows_both_models_the_speed_up_the_throughput_and_the_fidelity():
    first = dashboards.ROWS[0].panels
    assert [panel.title.partition(":")[0].lower() for panel in first[:2]] == list(MODELS)
    assert [panel.kind for panel in first] == ["timeseries", "timeseries", "stat", "timeseries", "timeseries"]
    assert "speedup" in first[2].queries[0].expr
    assert "fidelity" in first[4].queries[0].expr


def test_every_route_that_runs_one_model_can_be_chosen():
    assert MODEL_ROUTES[-1] == BOTH_MODELS
    (choice,) = SHIPPED["templating"]["list"]
    assert [option["value"] for option in choice["options"]] == [*MODEL_ROUTES[:-1]]
    assert choice["query"].split(",") == [*MODEL_ROUTES[:-1]]
    assert choice["current"]["value"] == "/encode"


def test_panels_fill_the_grid_and_do_not_overlap():
    cells = [
        {(x, y) for x in range(p["x"], p["x"] + p["w"]) for y in range(p["y"], p["y"] + p["h"])}
        for p in (panel["gridPos"] for panel in SHIPPED["panels"])
    ]
    assert all(not (one & other) for one, other in combinations(cells, 2))
    covered = set().union(*cells)
    assert covered == {(x, y) for x in range(dashboards.WIDTH) for y in range(max(y for _, y in covered) + 1)}


def test_ids_are_unique_and_every_panel_is_of_a_kind_that_grafana_ships():
    ids = [panel["id"] for panel in SHIPPED["panels"]]
    assert len(set(ids)) == len(ids)
    assert {panel["type"] for panel in SHIPPED["panels"]} <= {"row", "timeseries", "stat", "table"}


def test_grafanas_own_types_know_every_key_of_it():
    """Read into Grafana's types and written again, nothing may be lost or changed: a misspelt key would be."""
    written = json.loads(JSONEncoder().encode(Dashboard.from_json(SHIPPED)))
    assert not list(lost(SHIPPED, written))


@pytest.mark.parametrize(
    "misspelt",
    [
        lambda board: board.__setitem__("refesh", "5s"),
        lambda board: board["panels"][1]["gridPos"].__setitem__("width", 3),
        lambda board: board["panels"][1]["options"]["legend"].__setitem__("displaymode", "table"),
        lambda board: board["panels"][1]["fieldConfig"]["defaults"].__setitem__("units", "s"),
        lambda board: board["panels"][1]["targets"][0].__setitem__("legend", "p50"),
    ],
)
def test_a_misspelt_key_is_noticed(misspelt):
    board = deepcopy(SHIPPED)
    misspelt(board)
    assert len(list(lost(board, json.loads(JSONEncoder().encode(Dashboard.from_json(board)))))) == 1


def lost(sent: Any, kept: Any, place: str = "") -> Iterator[str]:
    """Name what was sent and is not kept; what was added is Grafana's default."""
    if isinstance(sent, dict) and isinstance(kept, dict):
        for key, value in sent.items():
            yield from lost(value, kept[key], f"{place}.{key}") if key in kept else [f"{place}.{key}"]
    elif isinstance(sent, list) and isinstance(kept, list) and len(sent) == len(kept):
        for number, (one, other) in enumerate(zip(sent, kept, strict=True)):
            yield from lost(one, other, f"{place}[{number}]")
    elif sent != kept:
        yield place


def test_every_query_asks_the_provisioned_datasource():
    (source,) = yaml.safe_load((GRAFANA / "provisioning/datasources/prometheus.yml").read_text())["datasources"]
    asked = [target["datasource"] for panel in SHIPPED["panels"] for target in panel.get("targets", [])]
    assert asked
    assert all(ask == {"type": source["type"], "uid": source["uid"]} for ask in asked)


def test_grafana_knows_how_often_prometheus_scrapes():
    (source,) = yaml.safe_load((GRAFANA / "provisioning/datasources/prometheus.yml").read_text())["datasources"]
    scraping = yaml.safe_load((GRAFANA.parent / "prometheus/prometheus.yml").read_text())["global"]
    assert source["jsonData"]["timeInterval"] == scraping["scrape_interval"]


def test_an_average_of_nothing_is_absent_and_not_nan():
    assert dashboards.mean("understudy_batch_rows").endswith(" > 0)")
