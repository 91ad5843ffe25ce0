"""Handing results to other tools: ONNX files, model bundles, annotation files."""
