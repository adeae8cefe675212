"""nst-fast: optimisation-based neural style transfer (Gatys et al. 2016), fast and trustworthy."""

__version__ = "0.1.0"
