"""How far this CPU's kernels are from those of the machine that made a bundle: cosines to its canary.

python -m benchmarks.kernels                                          on this CPU
qemu-x86_64 -cpu Haswell .venv/bin/python -m benchmarks.kernels       on an emulated one, AVX2 without VNNI
"""

import argparse
import sys
from pathlib import Path

import numpy as np

from app.bundle import MODEL, TOKENIZER, BundleError, read_bundle
from app.session import EncoderSession
from app.tokenizer import Tokenizer
from export.parity import compare


def main() -> int:
    """Print one line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kernels", description=__doc__)
    parser.add_argument("--bundle", type=Path, default=Path("models/student"), help="an encoder's bundle")
    options = parser.parse_args()
    try:
        bundle = read_bundle(options.bundle)
        if bundle.manifest.kind != "encoder":
            raise BundleError(f"{bundle.folder} is a {bundle.manifest.kind}; its canary holds scores and no vectors")
        session, canary = EncoderSession(bundle.path(MODEL), bundle.embedding), bundle.canary()
    except BundleError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    rows = Tokenizer(bundle.path(TOKENIZER), bundle.manifest.max_tokens).rows(canary.inputs)
    answers = np.concatenate([session.run([row.ids]) for row in rows])
    report = compare(answers, np.asarray(canary.outputs, dtype=np.float32))
    sys.stdout.write(f"{len(rows)} canaries of {bundle.manifest.name}, {bundle.manifest.precision}: {report}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
