"""One run: the loop and its guard, scales one after the other, checkpoints and going on from them, the record.

``layout`` says how its picture lies in processes; ``together`` has several pictures in one loop.

May import: distributed, engines, errors, images, memory, network, objective, onnx, optimizers, options, system.
"""
