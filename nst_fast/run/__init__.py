"""One run: the loop and its guard, scales one after the other, checkpoints and going on from them, the record's end.

``run`` is one picture in one process; ``shared`` one picture in several; ``together`` several pictures in one loop.

May import: distributed, engines, errors, images, memory, network, objective, onnx, optimizers, options, system.
"""
