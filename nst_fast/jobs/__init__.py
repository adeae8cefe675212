"""Many runs: batches of pictures, and series (sweeps, textures, reconstructions) with their contact sheets; the demo.

May import: api, errors, images, jury, network, onnx, options, run, system.
"""
