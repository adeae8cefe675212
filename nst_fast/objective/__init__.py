"""The objective (Gatys et al. 2016): losses, targets, and the reference evaluation by plain autograd.

May import: images, network, options, system.
"""
