"""``python -m nst_fast`` is ``nst-fast``."""

from nst_fast.cli import main

main()
