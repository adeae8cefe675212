"""The whole step - losses, gradient, Adam - as one ONNX graph written out by hand, and the bundle that runs it."""
