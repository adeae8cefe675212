"""``nst-fast`` with workers that a picture called deadly.png kills; see test_cluster.py and test_executors.py."""

from __future__ import annotations

import os
from collections.abc import Callable

from nst_fast.cli import main
from nst_fast.jobs import executors
from nst_fast.jobs.executors import Answer, Group

make = executors.WorkerSide.make


def deadly(worker: executors.WorkerSide, group: Group, stopped: Callable[[], bool]) -> Answer:
    if any(picture.name == "deadly.png" for picture in group):
        os._exit(1)
    return make(worker, group, stopped)


executors.WorkerSide.make = deadly  # also in worker processes, which import this file

if __name__ == "__main__":
    main()
