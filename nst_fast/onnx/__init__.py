"""Everything ONNX: export, parity, the step as one graph, sessions of ONNX Runtime and their providers, the monitor.

May import: errors, network, objective, options, system.
"""
