"""Serve sentence encoders and the classifiers on top of them (FastAPI, ONNX Runtime)."""

import os

# ONNX Runtime tells Microsoft of the machine and the models, from the moment in which it is imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
