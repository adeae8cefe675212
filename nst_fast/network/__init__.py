"""VGG as data and as a module: taps, receptive fields (``tiles``), encoders cut at the deepest tap, weight files.

May import: errors, system.
"""
