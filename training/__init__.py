"""Distil a BERT sentence encoder into a BiLSTM student, then fine-tune it (PyTorch)."""
