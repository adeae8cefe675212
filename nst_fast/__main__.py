"""``python -m nst_fast`` is ``nst-fast``."""

from nst_fast.cli import main

if __name__ == "__main__":  # a batch's worker processes import this file too
    main()
