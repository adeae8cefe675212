"""Losses, their gradient and Adam's update as one ONNX graph, written out by hand (docs/step-graph.md)."""
