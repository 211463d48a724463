"""Compact torch definitions of well-known architectures, with random weights, for export to ONNX. Needs torch; used by architectures.py only."""
