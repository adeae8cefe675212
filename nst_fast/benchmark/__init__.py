"""Benchmarks: speed, memory and quality of the loop, of ONNX Runtime's evaluation and of the monitor, row by row.

:mod:`suite` runs what a :class:`scenarios.BenchConfig` asks for and gives a :class:`rows.BenchReport`. This file
imports nothing, so that the fresh processes of :mod:`memory` load only what they measure.

May import: engines, errors, images, jobs, jury, memory, network, objective, onnx, optimizers, options, run, system.
"""
