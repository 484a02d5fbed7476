"""What every benchmark prints: the machine, then tables, as Markdown and as JSON."""

import json
import math
import platform
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

from app.cores import usable_cores

PACKAGES = ("onnxruntime", "tokenizers", "uvicorn", "fastapi", "numpy", "torch")

Cell = str | float | int | None


@dataclass(frozen=True)
class Table:
    """One table: `rows` hold one cell per column; floats are shown with the digits that they deserve."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[Cell, ...]]

    def markdown(self) -> str:
        """Write it as Markdown."""
        numeric = [any(isinstance(row[place], (int, float)) for row in self.rows) for place in range(len(self.columns))]
        lines = [self.columns, tuple("---:" if right else "---" for right in numeric)]
        lines += [tuple(map(shown, row)) for row in self.rows]
        return f"**{self.title}**\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def shown(cell: Cell) -> str:
    """Show a cell: three significant digits, or all before the point."""
    if cell is None:
        return ""
    if isinstance(cell, float):
        if not math.isfinite(cell):
            return "never"  # some of the requests that it stands for were not answered
        return f"{cell:,.0f}" if abs(cell) >= 100 else f"{cell:.3g}"
    return f"{cell:,}" if isinstance(cell, int) else cell


def machine() -> dict[str, str | int]:
    """Say what all figures of a run depend on."""
    found = {line.partition(":")[0].strip(): line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo")}
    flags = found.get("flags", "").split()
    wide = [name for name in ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8") if name in flags]
    return {
        "processor": found.get("model name", platform.machine()),
        "vector instructions": " ".join(wide),
        "cores": usable_cores(),
        "Python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
    }


def spread(values: Sequence[float]) -> str:
    """Give the lowest and the highest of several rounds."""
    return f"{shown(min(values))} to {shown(max(values))}"


def lead(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Give the median ratio of figures that were taken side by side, round by round."""
    return statistics.median(mine / other for mine, other in zip(ours, theirs, strict=True))


def publish(name: str, facts: Mapping[str, str | int], tables: Sequence[Table], into: Path) -> None:
    """Print tables under the machine's facts; and write them into a folder, as Markdown and as JSON."""
    heading = ", ".join(f"{name}: {value}" for name, value in facts.items())
    text = "\n".join([heading + "\n", *(table.markdown() for table in tables)])
    sys.stdout.write(text)
    sys.stdout.flush()
    into.mkdir(parents=True, exist_ok=True)
    (into / f"{name}.md").write_text(text, encoding="utf-8")
    content = {"machine": dict(facts), "tables": [asdict(table) for table in tables]}
    (into / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _lines(file: str) -> list[str]:
    path = Path(file)
    return path.read_text().splitlines() if path.is_file() else []
