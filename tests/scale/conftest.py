"""A Ray cluster of several nodes on this machine."""

import os
import shutil
import tempfile
from pathlib import Path

import pytest


@pytest.fixture
def cluster(begun):
    """Three nodes of one CPU each; `address` is how to reach them, `add_node` and `remove_node` change them."""
    while len(begun.worker_nodes) < 2:
        begun.add_node(num_cpus=1)
    return begun


@pytest.fixture(scope="module")  # not to the end of the session, whose other tests it would slow down
def begun():
    from ray.cluster_utils import Cluster

    place = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # names of sockets are short
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TMPDIR", place)
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv(
            "XLA_FLAGS", "--xla_backend_optimization_level=0"
        )  # a program of several processes is not kept
        source = str(Path(__file__).parents[2] / "src")
        patch.setenv("PYTHONPATH", os.pathsep.join([source, os.environ.get("PYTHONPATH", "")]))  # of workers
        soon_dead = {"health_check_period_ms": 1000, "health_check_failure_threshold": 3}
        made = Cluster(
            initialize_head=True,
            head_node_args={"num_cpus": 1, "include_dashboard": False, "_system_config": soon_dead},
        )
        try:
            yield made
        finally:
            made.shutdown()
            shutil.rmtree(place, ignore_errors=True)
