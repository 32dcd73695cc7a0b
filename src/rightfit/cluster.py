"""A Ray cluster: an address in, a connection for as long as it is needed; what its nodes have.

Ray is imported here and in what runs on it, and nowhere else. It is told to be quiet: what there is to say is said by
who asked.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rightfit.console import Console
from rightfit.errors import UsageError

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_STATE_TRACKING": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
PASSED_ON = ("RIGHTFIT_CACHE", "JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS")


@contextmanager
def connected(address: str, console: Console) -> Iterator[None]:
    """To the cluster at `address`: "auto" is one that runs on this machine, "local" one of this machine's own, which
    ends with it, else host:port or ray://host:port. One that this process is connected to already serves, and stays.
    UsageError where Ray is not installed, or no cluster answers."""
    os.environ.update({name: value for name, value in QUIET.items() if name not in os.environ})
    try:
        import ray
    except ImportError:
        raise UsageError("--ray needs Ray: pip install 'rightfit[ray]'") from None
    if ray.is_initialized():
        yield
        return
    try:
        ray.init(
            None if address == "local" else address,
            **({"include_dashboard": False} if address == "local" else {}),
            log_to_driver=False,
            logging_level=logging.ERROR,
            configure_logging=True,
        )
    except (ConnectionError, ValueError, RuntimeError, TimeoutError) as error:
        raise UsageError(
            f"--ray {address}: no cluster answers ({str(error).strip().splitlines()[0]}); "
            "`ray start --head` begins one, and --ray local is one for this command alone"
        ) from None
    try:
        nodes = [node for node in ray.nodes() if node["Alive"]]
        total = ray.cluster_resources()
        gpus = f", {total['GPU']:g} GPUs" if total.get("GPU") else ""
        console.say(
            f"on a Ray cluster of {len(nodes)} node{'s' if len(nodes) > 1 else ''}: {total.get('CPU', 0):g} CPUs{gpus}"
        )
        yield
    finally:
        ray.shutdown()


def resources(workers: int) -> tuple[int, int]:
    """(GPUs of the cluster, CPUs that each of `workers` can have, spread over the nodes)."""
    import ray

    cpus = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
    cpus = [count for count in cpus if count]
    each = min(cpus, default=1) // max(1, -(-workers // max(1, len(cpus))))
    return int(ray.cluster_resources().get("GPU", 0)), max(1, each)


def slots(cpus: int) -> int:
    """How many tasks of so many CPUs the nodes hold at once."""
    import ray

    return max(1, sum(int(node["Resources"].get("CPU", 0)) // cpus for node in ray.nodes() if node["Alive"]))


def environment(**more: str) -> dict[str, Any]:
    """Environment variables of a worker: `more`, and those of ours that are set here."""
    passed = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    return {"TF_CPP_MIN_LOG_LEVEL": "3", **passed, **more}
