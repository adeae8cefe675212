"""ONNX Runtime: sessions that run where they were asked to, or say what is missing. Never imports torch."""
