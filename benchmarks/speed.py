"""How many sentences a second student and teacher encode in process, side by side in one run.

python -m benchmarks.speed     needs models/student and models/teacher

The graphs run as the service runs them: one ONNX Runtime session each, one worker thread per core, a batch a thread.
Rounds are interleaved, so that whatever else the machine does meets all of them; the median round is given, with the
lowest and the highest. Tokenising is left out: it is the same for all.
"""

import argparse
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import onnxruntime

from app.bundle import MODEL, TOKENIZER, BundleError, read_bundle
from app.cores import usable_cores
from app.session import EncoderSession
from app.tokenizer import Tokenizer
from export.graph import quantise
from export.parity import SENTENCES

ROUNDS = 7
ROUND_SECONDS = 1.0
BATCHES = (1, 8, 32)

Rows = Sequence[Sequence[int]]


def sentences_per_second(
    session: EncoderSession, batches: Sequence[Rows], pool: ThreadPoolExecutor, cores: int
) -> float:
    """Encode batches over and over on every core for one round."""
    stop = time.perf_counter() + ROUND_SECONDS

    def work(worker: int) -> int:
        done, turn = 0, worker
        while time.perf_counter() < stop:
            batch = batches[turn % len(batches)]
            session.run(batch)
            done, turn = done + len(batch), turn + 1
        return done

    started = time.perf_counter()
    done = sum(pool.map(work, range(cores)))
    return done / (time.perf_counter() - started)


def sessions(models: Path) -> dict[str, EncoderSession]:
    """Open the student, and the teacher in both precisions."""
    teacher = read_bundle(models / "teacher").path(MODEL)
    with tempfile.NamedTemporaryFile() as small:
        small.write(quantise(teacher.read_bytes()))
        small.flush()
        teacher_int8 = EncoderSession(Path(small.name))
    return {
        "student int8": EncoderSession(read_bundle(models / "student").path(MODEL)),
        "teacher float32": EncoderSession(teacher),
        "teacher int8": teacher_int8,
    }


def measure(opened: dict[str, EncoderSession], rows: Rows, size: int, cores: int) -> dict[str, list[float]]:
    """Give sentences per second of every round by name, for batches of `size` rows of like length."""
    ordered = sorted(rows, key=len)
    batches = [ordered[low : low + size] for low in range(0, len(ordered) - size + 1, size)]
    found: dict[str, list[float]] = {name: [] for name in opened}
    with ThreadPoolExecutor(cores) as pool:
        for number in range(ROUNDS + 1):
            for name, session in opened.items():
                rate = sentences_per_second(session, batches, pool, cores)
                if number:  # the first round warms up
                    found[name].append(rate)
    return found


def table(found: dict[str, list[float]], size: int, say: Callable[[str], object]) -> None:
    """Print one batch size: the median round, its range, and the student's lead in the same rounds."""
    student = found["student int8"]
    for name, rates in found.items():
        leads = [ours / theirs for ours, theirs in zip(student, rates, strict=True)]
        say(
            f"| {size} | {name} | {statistics.median(rates):,.0f} | {min(rates):,.0f} to {max(rates):,.0f} "
            f"| {statistics.median(leads):.1f} |\n"
        )


def main() -> int:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed", description=__doc__)
    parser.add_argument("--models", type=Path, default=Path("models"))
    options = parser.parse_args()
    try:
        opened = sessions(options.models)
        student = read_bundle(options.models / "student")
    except BundleError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    tokenizer = Tokenizer(student.path(TOKENIZER), student.manifest.max_tokens)
    rows = [row.ids for row in tokenizer.rows([(sentence,) for sentence in SENTENCES] * 4)]
    cores = usable_cores()
    lengths = [len(row) for row in rows]
    sys.stdout.write(
        f"{cores} cores, {platform.machine()}, ONNX Runtime {onnxruntime.__version__}; "
        f"rows of {min(lengths)} to {max(lengths)} tokens, mean {statistics.mean(lengths):.1f}\n\n"
        "| batch | model | sentences/s | over rounds | student's lead |\n| ---: | --- | ---: | ---: | ---: |\n"
    )
    for size in BATCHES:
        table(measure(opened, rows, size, cores), size, sys.stdout.write)
    return 0


if __name__ == "__main__":
    sys.exit(main())
