"""Many runs: batches of pictures, films, and series (sweeps, textures, reconstructions) with their sheets; the demo.

May import: api, errors, images, jury, network, onnx, options, run, system.
"""
