"""The HTTP server of ``nst-fast ui`` and ``nst-fast serve``: uploads, a queue of runs, events, the page.

Wants the extra ``ui``. Nothing here is imported by other rooms but ``cli``; PyTorch is imported when it is needed.

May import: api, errors, images, jobs, options, system.
"""
