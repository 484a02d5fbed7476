"""The shipped bundles in any company, and memory over time."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer as RustTokenizer

from app.bundle import MODEL, TOKENIZER, read_bundle
from app.session import EncoderSession

ROOT = Path(__file__).parents[2]
# Dynamic int8 scales activations over the whole batch, so that neighbours move a vector a little.
LEAST = {"int8": (0.998, 0.9995), "float32": (0.99999, 0.99999)}  # the worst cosine and the mean
BATCHES = {"student": 2000, "teacher": 40}


@pytest.mark.slow
@pytest.mark.parametrize("role", BATCHES)
def test_neighbours_hardly_move_a_vector(role: str) -> None:
    folder = ROOT / "models" / role
    if not folder.is_dir():
        pytest.skip(f"{folder} is not built")
    bundle = read_bundle(folder)
    session = EncoderSession(bundle.path(MODEL), bundle.embedding)
    rng = np.random.default_rng(0)
    known = RustTokenizer.from_file(str(bundle.path(TOKENIZER)))
    first, last = (known.encode("").ids or [0, 0])[0], (known.encode("").ids or [0, 0])[-1]
    sizes = rng.integers(1, 120, size=200)
    rows = [[first, *rng.integers(0, bundle.manifest.vocabulary, size=size).tolist(), last] for size in sizes]
    alone = np.concatenate([session.run([row]) for row in rows])  # (rows, dimensions)
    cosines: list[float] = []
    for _ in range(BATCHES[role]):
        chosen = rng.integers(0, len(rows), size=rng.integers(2, 17))  # repeats and any order among them
        together = session.run([rows[place] for place in chosen])
        cosines += (together * alone[chosen]).sum(axis=1).tolist()
    worst, mean = LEAST[bundle.manifest.precision]
    assert min(cosines) >= worst
    assert np.mean(cosines) >= mean


@pytest.mark.slow
def test_memory_stays_flat_in_a_soak(models_dir: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.soak", "--models", str(models_dir), "--seconds", "90"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
