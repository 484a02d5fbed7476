"""Turn a training run or a teacher into a bundle that can be served (ONNX, int8)."""

import os

# ONNX Runtime tells Microsoft of the machine and the models, from the moment in which it is imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
