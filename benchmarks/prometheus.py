"""Debian's `prometheus` beside a service, set up as deploy/ ships it, and what it answers."""

import asyncio
import json
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import yaml
from numpy.typing import NDArray

from benchmarks.client import free_port, program

PROGRAM = "prometheus"
SHIPPED = Path(__file__).parents[1] / "deploy" / "prometheus" / "prometheus.yml"
START_SECONDS = 30.0


@dataclass(frozen=True)
class Series:
    """Labels, and a value for each time that was asked for: NaN where there is none."""

    labels: Mapping[str, str]
    values: NDArray[np.float64]  # (times,)


class Prometheus:
    """What a running server knows."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        """Ask over this client."""
        self._client = client

    async def series(self, expr: str, times: Sequence[float]) -> list[Series]:
        """Evaluate PromQL at evenly spaced times, in seconds since 1970.

        Raises:
            RuntimeError: the query is refused.
        """
        first, step = times[0], times[1] - times[0]
        asked: dict[str, str | float] = {"query": expr, "start": first, "end": times[-1], "step": step}
        answer = (await self._client.get("/api/v1/query_range", params=asked)).json()
        if answer["status"] != "success":
            raise RuntimeError(f"{expr}: {answer['error']}")
        found = []
        for one in answer["data"]["result"]:
            values = np.full(len(times), np.nan)
            for time, value in one["values"]:
                values[round((time - first) / step)] = float(value)
            found.append(Series(one["metric"], values))
        return found


def scrape_seconds() -> int:
    """How often the shipped configuration scrapes."""
    return int(yaml.safe_load(SHIPPED.read_text())["global"]["scrape_interval"].removesuffix("s"))


def configuration(port: int) -> dict[str, Any]:
    """Give the shipped configuration, but for where the service and the rules are."""
    shipped: dict[str, Any] = yaml.safe_load(SHIPPED.read_text())
    shipped["rule_files"] = [str(SHIPPED.parent / files) for files in shipped["rule_files"]]
    for job in shipped["scrape_configs"]:
        job["static_configs"] = [{"targets": [f"127.0.0.1:{port}"]}]
    return shipped


@asynccontextmanager
async def watching(port: int) -> AsyncIterator[Prometheus]:
    """Scrape the service on a port of this machine until the block is left; nothing is kept.

    Raises:
        RuntimeError: it is not installed, or does not start.
    """
    server = program(PROGRAM)
    with tempfile.TemporaryDirectory() as folder:
        file, own = Path(folder, "prometheus.yml"), free_port()
        file.write_text(json.dumps(configuration(port)))  # JSON is YAML
        process = await asyncio.create_subprocess_exec(
            server,
            f"--config.file={file}",
            f"--storage.tsdb.path={folder}/data",
            f"--web.listen-address=127.0.0.1:{own}",
            "--log.level=error",
        )
        try:
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{own}", trust_env=False) as client:
                await _until_ready(process, client)
                yield Prometheus(client)
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()


async def _until_ready(process: asyncio.subprocess.Process, client: httpx.AsyncClient) -> None:
    async with asyncio.timeout(START_SECONDS):
        while process.returncode is None:
            try:
                if (await client.get("/-/ready")).is_success:
                    return
            except httpx.TransportError:
                pass
            await asyncio.sleep(0.1)
    raise RuntimeError(f"{PROGRAM} ended with {process.returncode}")
