"""The README's picture of the page, from a real run: `python -m benchmarks.pictures`.

Needs Debian's `chromium`, the `dev` extra, and models/teacher (`python -m export teacher`). The figures in it are this
machine's; text is set in Inter where it is installed (Debian's `fonts-inter`).
"""

import argparse
import asyncio
import io
import shutil
from pathlib import Path

import numpy as np
from PIL import Image
from playwright.async_api import ViewportSize, async_playwright

from benchmarks.client import serving

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


async def picture(address: str) -> bytes:
    """Open the page, have an example compared some times, and take all of it, as PNG."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=shutil.which(CHROMIUM), args=QUIET)
        page = await browser.new_page(viewport=VIEWPORT, color_scheme="light", reduced_motion="reduce")
        await page.goto(address)
        for _ in range(RUNS):
            await page.get_by_role("button", name=EXAMPLE).click()
            await page.locator("#run:not([aria-disabled])").wait_for()
        await page.locator("h1").click()  # so that nothing is hovered over
        async with page.expect_response("**/metrics"):
            pass
        taken = await page.screenshot(full_page=True)
        await browser.close()
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


async def take(models: Path, to: Path) -> None:
    """Serve the models, and write the picture of their page."""
    async with serving(models) as service:
        png = small(await picture(f"http://127.0.0.1:{service.client.port}/"))
    to.parent.mkdir(exist_ok=True)
    to.write_bytes(png)
    print(f"{to}: {len(png) / 1e3:.0f} kB")  # noqa: T201


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, default=Path("models"))
    parser.add_argument("--to", type=Path, default=Path("docs/page.png"))
    given = parser.parse_args()
    asyncio.run(take(given.models, given.to))
