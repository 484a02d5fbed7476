"""What a scrape of /metrics costs a process: time and size of the page, with five tasks loaded.

python -m benchmarks.scrape
"""

import argparse
import statistics
import sys
import time
from collections.abc import Sequence

import numpy as np

from app.drift import RowCounter, baseline_of
from app.metrics import DRIFT, MODELS, Metrics

TASKS = 5
SCRAPES = 50


def loaded_metrics() -> Metrics:
    """Create every series that five tasks with baselines bring, for both models."""
    metrics = Metrics()
    baseline = baseline_of(RowCounter(None, 1).count([[1]], np.ones((1, 1), np.float32)))
    names = ["", *(f"task-{number}" for number in range(TASKS))]
    bundles = [(f"{name}-{model}", model, "0" * 16, "0" * 64) for name in names for model in MODELS]
    metrics.show_models(bundles)
    for name in names:
        metrics.show_task(name)
        for model in MODELS:
            metrics.show_baseline(model, name, baseline)
            metrics.show_drift(model, name, dict.fromkeys(DRIFT, 0.0))
    return metrics


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the figures."""
    argparse.ArgumentParser(prog="python -m benchmarks.scrape", description=__doc__).parse_args(arguments)
    metrics = loaded_metrics()
    seconds = []
    for _ in range(SCRAPES):
        begun = time.thread_time()  # of this thread alone, whatever else the machine does
        page = metrics.exposition()
        seconds.append(time.thread_time() - begun)
    sys.stdout.write(
        f"{len(page) / 1e3:.0f} kB, {statistics.median(seconds) * 1e3:.1f} ms of CPU time "
        f"(slowest of {SCRAPES}: {max(seconds) * 1e3:.1f} ms), {TASKS} tasks\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
