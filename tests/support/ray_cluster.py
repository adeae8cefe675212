"""A Ray cluster on this machine: a head without processors, and nodes with one each; see test_cluster.py.

Prints its address. Every line of standard input is an order: ``kill`` ends the oldest node at once, ``add`` starts one.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from ray.cluster_utils import Cluster

# A dead node is known after a second, not after ten.
QUICK = {
    "RAY_health_check_period_ms": "300",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
}
STORE = 80 * 2**20  # bytes of a node's object store, the least that Ray takes


def main(nodes: int) -> None:
    os.environ |= QUICK
    cluster = Cluster(initialize_head=True, head_node_args=node(0))
    running = [cluster.add_node(**node(1)) for _ in range(nodes)]
    sys.stdout.write(f"{cluster.address}\n")
    sys.stdout.flush()
    for order in sys.stdin:
        if order == "kill\n":
            cluster.remove_node(running.pop(0), allow_graceful=False)
        else:
            running.append(cluster.add_node(**node(1)))
    cluster.shutdown()


def node(processors: int) -> dict[str, Any]:
    return {"num_cpus": processors, "object_store_memory": STORE, "include_dashboard": False}


if __name__ == "__main__":
    main(int(sys.argv[1]))
