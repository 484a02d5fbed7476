import asyncio
import shutil
from pathlib import Path

import httpx
import numpy as np
import pytest
import yaml

from benchmarks.prometheus import PROGRAM, SHIPPED, Prometheus, Series, configuration, scrape_seconds, watching


def answering(content: object) -> Prometheus:
    transport = httpx.MockTransport(lambda _: httpx.Response(200, json=content))
    return Prometheus(httpx.AsyncClient(base_url="http://prometheus", transport=transport))


def test_only_the_places_of_the_service_and_the_rules_differ_from_what_ships():
    shipped, ours = yaml.safe_load(SHIPPED.read_text()), configuration(1234)
    assert ours["global"] == shipped["global"]
    assert [job["job_name"] for job in ours["scrape_configs"]] == [job["job_name"] for job in shipped["scrape_configs"]]
    assert ours["scrape_configs"][0]["static_configs"] == [{"targets": ["127.0.0.1:1234"]}]
    (files,) = map(Path, ours["rule_files"])
    assert list(files.parent.glob(files.name))
    assert f"{scrape_seconds()}s" == shipped["global"]["scrape_interval"]


def test_values_are_put_where_their_times_are():
    result = [{"metric": {"model": "student"}, "values": [[105.0, "2"], [110.0, "3.5"]]}]
    prometheus = answering({"status": "success", "data": {"result": result}})
    (series,) = asyncio.run(prometheus.series("x", [100.0, 105.0, 110.0]))
    assert series.labels == {"model": "student"}
    np.testing.assert_array_equal(series.values, [np.nan, 2, 3.5])


def test_a_query_that_is_refused_is_named():
    prometheus = answering({"status": "error", "error": "parse error"})
    with pytest.raises(RuntimeError, match="sum\\(: parse error"):
        asyncio.run(prometheus.series("sum(", [0.0, 5.0]))


def test_without_prometheus_it_says_how_to_get_it(monkeypatch):
    async def watch() -> None:
        async with watching(1):
            pass

    monkeypatch.setenv("PATH", "")
    with pytest.raises(RuntimeError, match="apt install prometheus"):
        asyncio.run(watch())


@pytest.mark.slow
@pytest.mark.skipif(shutil.which(PROGRAM) is None, reason=f"{PROGRAM} is not installed")
def test_a_real_one_takes_the_shipped_rules_and_answers():
    async def ask() -> list[Series]:
        async with watching(1) as prometheus:
            return await prometheus.series("vector(7)", [100.0, 105.0, 110.0])

    (series,) = asyncio.run(ask())
    assert series.labels == {}
    np.testing.assert_array_equal(series.values, [7, 7, 7])
