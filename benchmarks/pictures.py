"""The README's pictures of the page and the dashboard, from real runs.

python -m benchmarks.pictures [page] [dashboard] [--minutes 6] [--into docs]

The page needs Debian's `chromium`, and is set in Inter where that is installed (Debian's `fonts-inter`). The dashboard
needs Debian's `prometheus`, which scrapes the service through some minutes of traffic. Both need the `dev` extra and
models/teacher (`python -m export teacher`). The figures in them are this machine's.
"""

import argparse
import asyncio
import io
import sys
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from playwright.async_api import ViewportSize, async_playwright

from app.bundle import read_bundle
from app.metrics import MODELS
from benchmarks import dashboard_picture, traffic
from benchmarks.client import program
from benchmarks.prometheus import scrape_seconds, watching
from benchmarks.servers import serving

CHROMIUM = "chromium"
# Nothing of its own over the network.
QUIET = (
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-gpu",
    "--disable-quic",
    "--disable-sync",
    "--no-first-run",
)
VIEWPORT = ViewportSize(width=1360, height=800)
COLOURS = 256
EXAMPLE = "Film reviews"
RUNS = 8  # the figures shown are the last one's, and those of a service that is awake


async def page(options: argparse.Namespace) -> bytes:
    """Have the page compare an example some times, and take all of it, as PNG.

    Raises:
        RuntimeError: there is no Chromium.
    """
    browser = program(CHROMIUM)
    with serving(options.models) as service:
        return await _seen(browser, f"http://127.0.0.1:{service.port}/")


async def dashboard(options: argparse.Namespace) -> bytes:
    """Have Prometheus watch some minutes of traffic, and draw what the dashboard shows then, as PNG.

    Raises:
        RuntimeError: Prometheus is not installed, or refuses a query.
    """
    board, every = dashboard_picture.read(), scrape_seconds()
    values = dashboard_picture.variables(board, every)
    with serving(options.models) as service:
        async with watching(service.port) as prometheus:
            begun = time.time()
            await traffic.send(service.port, 60 * options.minutes)
            times = [begun + every * number for number in range(60 * options.minutes // every + 1)]
            found = await dashboard_picture.ask(board, prometheus, values, times)
    return dashboard_picture.draw(board, found, values, times)


async def _seen(browser: str, address: str) -> bytes:
    async with async_playwright() as playwright:
        chromium = await playwright.chromium.launch(executable_path=browser, args=QUIET)
        tab = await chromium.new_page(viewport=VIEWPORT, color_scheme="light", reduced_motion="reduce")
        await tab.goto(address)
        for _ in range(RUNS):
            await tab.get_by_role("button", name=EXAMPLE).click()
            await tab.locator("#run:not([aria-disabled])").wait_for()
        await tab.locator("h1").click()  # so that nothing is hovered over
        async with tab.expect_response("**/metrics"):
            pass
        taken = await tab.screenshot(full_page=True)
        await chromium.close()
    return taken


def small(png: bytes) -> bytes:
    """Write a PNG anew with a palette: the areas' colours as they are, the rest, text's edges and scales, nearly."""
    painted = Image.open(io.BytesIO(png)).convert("RGB")
    pixels = np.asarray(painted, dtype=np.int32).reshape(-1, 3)
    colours, places, counts = np.unique(pixels, axis=0, return_inverse=True, return_counts=True)
    areas = colours[counts.argsort()[-COLOURS // 2 :]]
    rest = painted.quantize(COLOURS // 2, Image.Quantize.MAXCOVERAGE).getpalette()
    palette = np.concatenate([areas, np.array(rest).reshape(-1, 3)])
    nearest = ((colours[:, None] - palette) ** 2).sum(axis=2).argmin(axis=1)  # Pillow's own search is coarser
    drawn = Image.fromarray(nearest[places].reshape(painted.height, painted.width).astype(np.uint8), "P")
    drawn.putpalette(palette.astype(np.uint8).tobytes())
    written = io.BytesIO()
    drawn.save(written, "PNG", optimize=True)
    return written.getvalue()


PICTURES: dict[str, Callable[[argparse.Namespace], Coroutine[Any, Any, bytes]]] = {"page": page, "dashboard": dashboard}


def main() -> int:
    """Take some pictures, or all."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.pictures",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("pictures", nargs="*", choices=[*PICTURES, []], metavar="picture", help="page or dashboard")
    parser.add_argument("--models", type=Path, default=Path("models"))
    parser.add_argument(
        "--minutes",
        type=int,
        choices=range(1, 61),
        default=6,
        metavar="1..60",
        help="of traffic that the dashboard shows",
    )
    parser.add_argument("--into", type=Path, default=Path("docs"))
    options = parser.parse_args()
    for name in options.pictures or PICTURES:
        file = options.into / f"{name}.png"
        try:
            options.into.mkdir(parents=True, exist_ok=True)
            for model in MODELS:
                read_bundle(options.models / model)
            png = small(asyncio.run(PICTURES[name](options)))
        except (OSError, RuntimeError) as error:
            sys.stderr.write(f"error: {name}: {error}\n")
            return 2
        file.write_bytes(png)
        sys.stdout.write(f"{file}: {len(png) / 1e3:.0f} kB\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
