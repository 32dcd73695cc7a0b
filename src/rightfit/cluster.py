"""A Ray cluster: an address in, a connection for as long as it is needed; what its nodes have.

Ray is imported here and in what runs on it, and nowhere else. It is told to be quiet: what there is to say is said by
who asked.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from rightfit.console import Console, counted
from rightfit.errors import UsageError
from rightfit.files import write_text
from rightfit.runtime import PROCESSORS, THREADS, cpu_count, without_notices

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_STATE_TRACKING": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",  # of the lines that its C++ writes to stderr
}
# JAX and TensorFlow would take most of a GPU as they begin, of which workers on this machine want their share.
AS_NEEDED = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "TF_FORCE_GPU_ALLOW_GROWTH": "true"}
ABSENT = (
    "Could not find any running Ray instance",
    "Failed to connect to GCS",
)  # none, or one that was killed
REFUSED = ("InvalidAuthToken", "UNAUTHENTICATED", "AuthenticationError")
OWN = "rightfit_own"  # a resource of a cluster that was begun for one command
PATIENCE = 30.0  # seconds for a cluster to answer
LOOKS, WAIT = 4, 2.0  # at what nodes see, so many seconds apart
SEEN = ".seen-"  # begins the name of a file that nodes are asked for
SILENCE = 6 * 3600.0  # seconds after which Ray Data gives up where nothing is done; a part may take an hour
PROBE = "import sys, ray; ray.init(sys.argv[1], log_to_driver=False, logging_level='ERROR')"
PASSED_ON = ("RIGHTFIT_CACHE", "JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS")


@contextmanager
def connected(address: str, console: Console) -> Iterator[None]:
    """To the cluster at `address`: "auto" is the one at RAY_ADDRESS if that is set, or one that runs on this machine,
    else as "local", one of this machine's own that ends with the body; else host:port or ray://host:port. One that this
    process is connected to already serves, and stays. UsageError where Ray is not installed, or no cluster answers."""
    check_installed()
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    with _memory_as_needed():
        yield from _connected(address, console)


@contextmanager
def _memory_as_needed() -> Iterator[None]:
    added = {name: value for name, value in AS_NEEDED.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


def _connected(address: str, console: Console) -> Iterator[None]:
    import ray

    if ray.is_initialized():
        yield
        return
    address = _resolved(address)
    begun: dict[str, Any] = {}
    if address == "local" or not _answers(address):
        if address == "auto":
            console.say("no Ray cluster runs here; one is begun on this machine for this command")
        address = "local"
        begun = {"include_dashboard": False, "num_cpus": cpu_count(), "resources": {OWN: 1}}
    try:
        with without_notices():
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **begun)
    except (ConnectionError, ValueError, RuntimeError, TimeoutError) as error:
        raise _unreachable(address, str(error).strip().splitlines()[0]) from None
    try:
        total, nodes = ray.cluster_resources(), len(_nodes())
        gpus = f", {total['GPU']:g} GPUs" if total.get("GPU") else ""
        console.say(f"on a Ray cluster of {counted(nodes, 'node')}: {total.get('CPU', 0):g} CPUs{gpus}")
        yield
    finally:
        ray.shutdown()


def is_own() -> bool:
    """Whether the cluster was begun for this command, and so does not grow."""
    import ray

    return OWN in ray.cluster_resources()


def check_installed() -> None:
    """UsageError where Ray is not installed, or not wholly."""
    try:
        import ray  # noqa: F401 - whether it can be
    except ImportError as error:
        why = "" if isinstance(error, ModuleNotFoundError) and error.name == "ray" else f" ({error})"
        raise UsageError(f"--ray needs Ray{why}: pip install 'rightfit[ray]'") from None


def _answers(address: str) -> bool:
    """False where "auto" finds no cluster; UsageError where `address` leads to none.

    Another process asks: where nothing listens, or no cluster does, Ray waits for minutes and then ends its own.
    """
    if address != "auto":
        _refuse_dashboard(address)
        host, _, port = address.removeprefix("ray://").rpartition(":")
        if not host or not port.isdecimal():
            raise UsageError(f"--ray {address}: give auto, local, HOST:PORT or ray://HOST:PORT")
        try:
            socket.create_connection((host, int(port)), timeout=5).close()
        except (OSError, OverflowError) as error:
            raise _unreachable(address, getattr(error, "strerror", None) or str(error)) from None
    patience = {"RAY_gcs_server_port_wait_time_s": "5", "RAY_gcs_rpc_server_reconnect_timeout_s": "5"}
    try:
        asked = subprocess.run(
            [sys.executable, "-c", PROBE, address],
            env={**os.environ, **patience},
            capture_output=True,
            text=True,
            errors="replace",
            timeout=PATIENCE,
        )
    except subprocess.TimeoutExpired:
        # Ray looks for a process of its own here, too, which a machine that never joined has not.
        plain = address != "auto" and not address.startswith("ray://")
        joins = f"; `ray start --address {address}` makes this machine one of its nodes" if plain else ""
        raise _unreachable(address, f"no answer within {PATIENCE:.0f} s{joins}") from None
    if asked.returncode == 0:
        return True
    if any(word in asked.stderr for word in REFUSED):
        where = "~/.ray/auth_token, or at RAY_AUTH_TOKEN_PATH"
        if os.environ.get("RAY_AUTH_MODE") == "token":
            raise UsageError(f"--ray {address}: no token, or not the cluster's, is in {where}")
        raise UsageError(
            f"--ray {address}: the cluster asks for a token; RAY_AUTH_MODE=token sends it the one in {where}"
        )
    if address == "auto" and any(word in asked.stderr for word in ABSENT):
        return False
    raise _unreachable(address, ([line for line in asked.stderr.splitlines() if line.strip()] or ["?"])[-1])


def _unreachable(address: str, reason: str) -> UsageError:
    return UsageError(
        f"--ray {address}: no cluster answers ({textwrap.shorten(reason, 160, placeholder=' ...')}); "
        "`ray start --head` begins one, and --ray local is one for this command alone"
    )


def _nodes() -> list[dict[str, float]]:
    """The resources of each node that is there, by name."""
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def refuse_unshared(folder: Path) -> None:
    """UsageError where a node of the cluster does not see what is written into `folder` here, naming those nodes: a
    shared disk may take a moment, so it is looked at more than once."""
    for leftover in folder.glob(f"{SEEN}*"):  # of a process that was killed here
        leftover.unlink(missing_ok=True)
    seen = folder.resolve() / f"{SEEN}{secrets.token_hex(8)}"
    write_text(seen, "")
    try:
        for look in range(LOOKS):
            time.sleep(WAIT if look else 0)
            if not (lacking := nodes_without(seen)):
                return
    finally:
        seen.unlink(missing_ok=True)
    names = " and ".join(dict.fromkeys(lacking))
    raise UsageError(f"{folder} is not there on {names}; it has to be on a disk that all nodes share")


def nodes_without(path: Path) -> list[str]:
    """For each node on which nothing is at `path`, its address; of one that gives no answer it is not known."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    look = ray.remote(num_cpus=0, max_retries=0)(os.path.exists)
    asked = {}
    for node in ray.nodes():
        if node["Alive"]:
            there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            asked[look.options(scheduling_strategy=there).remote(str(path))] = node["NodeManagerAddress"]
    answered, late = ray.wait(list(asked), num_returns=len(asked), timeout=PATIENCE)
    for answer in late:
        ray.cancel(answer)
    found = []
    for answer in answered:
        with suppress(ray.exceptions.RayError):  # of a node that was lost meanwhile
            if not ray.get(answer):
                found.append(asked[answer])
    return sorted(found)


def _cpus(nodes: list[dict[str, float]]) -> list[int]:
    """Of each node that has any."""
    return [int(node.get("CPU", 0)) for node in nodes if node.get("CPU", 0) >= 1] or [1]


class Room(NamedTuple):
    """How many workers a cluster has room for, and what each is given."""

    workers: int
    cpus: int
    gpus: int


def room(most_cpus: int) -> Room:
    """One worker a GPU, with its share of the CPUs; where there are none, as many as there is room for of `most_cpus`
    each, or of what the smallest node has."""
    nodes = _nodes()
    with_gpus = [node for node in nodes if node.get("GPU", 0) >= 1]
    if with_gpus:
        shares = [node.get("CPU", 0) // node["GPU"] for node in with_gpus]
        return Room(int(sum(node["GPU"] for node in with_gpus)), int(min(shares)), 1)
    cpus = _cpus(nodes)
    each = min(most_cpus, *cpus)
    return Room(sum(count // each for count in cpus), each, 0)


def places(cpus: int, gpus: int) -> int:
    """How many workers of this size the cluster holds now."""
    needs = {name: need for name, need in (("CPU", cpus), ("GPU", gpus)) if need}
    return sum(int(min(node.get(name, 0) // need for name, need in needs.items())) for node in _nodes())


@contextmanager
def quiet_data() -> Iterator[None]:
    """Ray Data without its bars and lines in the body, and with patience; failures are raised anyway."""
    from ray.data import DataContext

    context = DataContext.get_current()
    handlers = [h for h in logging.getLogger("ray.data").handlers if isinstance(h, logging.StreamHandler)]
    levels = [handler.level for handler in handlers]
    settings = {"enable_progress_bars": False, "execution_no_progress_timeout_s": SILENCE}
    before = {name: getattr(context, name) for name in settings if hasattr(context, name)}
    for name in before:
        setattr(context, name, settings[name])
    for handler in handlers:
        handler.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(context, name, value)
        for handler, level in zip(handlers, levels, strict=True):
            handler.setLevel(level)


def reason_of(error: BaseException) -> str:
    """The last line of what Ray says of a failure, which is the failure itself, without colours."""
    lines = [line.strip() for line in re.sub(r"\x1b\[[0-9;]*m", "", str(error)).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def share(workers: int) -> Room:
    """What each of so many workers is given that are spread over the nodes."""
    found = room(1)
    if found.gpus:
        return found._replace(workers=workers)
    cpus = _cpus(_nodes())
    return Room(workers, max(1, min(cpus) // -(-workers // len(cpus))), 0)


def _resolved(address: str) -> str:
    """For "auto" what RAY_ADDRESS says, where it is set."""
    return os.environ.get("RAY_ADDRESS") or address if address == "auto" else address


def _refuse_dashboard(address: str) -> None:
    if address.startswith(("http://", "https://")):
        raise UsageError(
            f"--ray {address}: this is the address of the cluster's dashboard, which takes jobs (`ray job submit`); "
            "give HOST:PORT of its head, whose port is 6379 unless it was begun with another (--ray auto is what "
            "RAY_ADDRESS says, where that is set)"
        )


def refuse_client(address: str) -> None:
    """UsageError for Ray's client, through which neither Ray Data nor Ray Train works, and for a dashboard."""
    address = _resolved(address)
    _refuse_dashboard(address)
    if address.startswith("ray://"):  # their schedulers need a driver that is a process of the cluster
        raise UsageError(
            f"--ray {address}: this does not work through Ray's client; run the command on a node of the cluster with "
            "--ray auto (and RAY_ADDRESS unset), or send it there with `ray job submit`"
        )


def threads(cpus: int) -> dict[str, str]:
    """Environment variables of a worker that has so many CPUs of its machine."""
    return dict.fromkeys((PROCESSORS, *THREADS), str(max(1, cpus)))


def environment(**more: str) -> dict[str, Any]:
    """Environment variables of a worker: `more`, and those of ours that are set here."""
    passed = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    return {"TF_CPP_MIN_LOG_LEVEL": "3", **passed, **more}
