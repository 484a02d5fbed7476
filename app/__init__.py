"""Serve sentence encoders and the classifiers on top of them (FastAPI, ONNX Runtime)."""
