"""Turn a training run or a teacher into a bundle that can be served (ONNX, int8)."""
