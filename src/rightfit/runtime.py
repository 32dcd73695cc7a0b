"""Choose the backend before Keras is first imported; say what the machine can do and where the cache is."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import json
import logging
import math
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

from rightfit.errors import BackendError

BACKENDS = ("tensorflow", "jax", "torch")
ENGINES = ("onnxruntime", "openvino")  # predict without Keras
INSTALL = {
    "tensorflow": "pip install tensorflow-cpu",
    "jax": "pip install 'rightfit[jax]'",
    "torch": "pip install 'rightfit[torch]'",
    "onnxruntime": "pip install 'rightfit[onnx]'",
    "openvino": "pip install 'rightfit[openvino]'",
}
DISTRIBUTIONS = {
    "tensorflow": ("tensorflow-cpu", "tensorflow"),
    "onnxruntime": ("onnxruntime", "onnxruntime-gpu"),
}
PROCESSORS = "RIGHTFIT_PROCESSORS"
THREADS = ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS")
PROGRAMS = 2**31  # bytes of JAX's compiled programs in the cache
SPEEDS = "backends.json"  # in the cache folder: how fast each backend trains, by hardware and versions


def installed_backends() -> dict[str, str]:
    """Backend name -> version, of those that are installed, without importing any."""
    return {name: version_of(name) for name in BACKENDS if importlib.util.find_spec(name) is not None}


def version_of(name: str) -> str:
    """Of an installed backend or engine."""
    return next((v for d in DISTRIBUTIONS.get(name, (name,)) if (v := _version(d))), "unknown")


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def choose_backend(backend: str = "auto", cache: Path | None = None) -> str:
    """Settle Keras' backend and return its name; must come before `import keras`.

    "auto" is KERAS_BACKEND if set, else the one that trains fastest here, where `cache` (the default one) knows it,
    else with an NVIDIA GPU the first of jax and torch that is installed with GPU support, else the first of
    tensorflow, torch and jax (docs/benchmarks.md). Raises BackendError when it is not installed or Keras
    already runs another.
    """
    installed = installed_backends()
    wanted = backend if backend != "auto" else os.environ.get("KERAS_BACKEND") or _fastest(installed, cache)
    if wanted not in BACKENDS:
        also = f", and to predict with {', '.join(ENGINES)}"
        raise BackendError(f"unknown backend {wanted!r}; there are {', '.join(BACKENDS)}{also}")
    if wanted not in installed:
        raise BackendError(f"the {wanted} backend is not installed; `{INSTALL[wanted]}` brings it")
    if "keras" in sys.modules:
        running: str = sys.modules["keras"].backend.backend()
        if running != wanted:
            if backend == "auto":
                os.environ["KERAS_BACKEND"] = running
                return running
            raise BackendError(
                f"Keras already runs on {running} in this process; start a new one for {wanted}"
            )
    os.environ["KERAS_BACKEND"] = wanted
    _import_keras(wanted)
    return wanted


def choose_engine(engine: str, precision: str) -> str:
    """The engine to predict with; BackendError when it is not installed, or asked for another format than float32."""
    missing = [name for name in (engine, "onnx") if importlib.util.find_spec(name) is None]
    if missing:
        raise BackendError(f"{' and '.join(missing)} is not installed; `{INSTALL[engine]}` brings it")
    if precision not in ("auto", "float32"):
        raise BackendError(f"{engine} predicts in float32 here, not in {precision}; leave --precision away")
    return engine


def _import_keras(backend: str) -> None:
    """Import Keras and wake the backend without its C++ notices; a failure brings them back."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    logging.getLogger("tensorflow").addFilter(_of_one_net)
    if "keras" in sys.modules:
        return
    try:
        with without_notices():
            if backend == "jax":
                _keep_programs()
            import keras

            keras.ops.zeros(1)
            if importlib.util.find_spec("tensorflow"):
                # Keras imports it on any backend when it first reads a layer's configuration.
                importlib.import_module("tensorflow")
    except ImportError as error:
        raise BackendError(f"the {backend} backend is installed but does not import: {error}") from error


def _of_one_net(record: logging.LogRecord) -> bool:
    """TensorFlow takes the fifth net that predicts in a process for one that is compiled for the fifth time."""
    return "make_predict_function" not in record.getMessage()


def _keep_programs() -> None:
    """What JAX compiles is kept in the cache, for processes on the same hardware with the same versions; whoever has
    chosen a place for it, or none (JAX_COMPILATION_CACHE_DIR, JAX_ENABLE_COMPILATION_CACHE), has it their way."""
    import jax

    if jax.config.jax_compilation_cache_dir or not jax.config.jax_enable_compilation_cache:
        return
    digest = hashlib.sha256(hardware_and_versions().encode()).hexdigest()[:16]
    folder = cache_folder() / "jax" / digest
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:  # compiled anew each time, then
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_compilation_cache_max_size", PROGRAMS)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)


@contextmanager
def without_notices() -> Iterator[None]:
    """What the body writes to stderr, in whatever language, is dropped; unless it fails."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with tempfile.TemporaryFile() as notices:
            os.dup2(notices.fileno(), 2)
            try:
                yield
            except Exception:  # whatever it is, its notices belong to it
                notices.seek(0)
                os.write(kept, notices.read())
                raise
            finally:
                os.dup2(kept, 2)
    finally:
        os.close(kept)


def _fastest(installed: dict[str, str], cache: Path | None) -> str:
    if speeds := known_speeds(cache or cache_folder()):
        return max(speeds, key=lambda name: speeds[name])
    if has_nvidia_gpu():
        if "jax" in installed and any(_version(f"jax-cuda{v}-plugin") for v in (12, 13)):
            return "jax"
        if "torch" in installed and "+cpu" not in installed["torch"]:
            return "torch"
    for backend in ("tensorflow", "torch", "jax"):
        if backend in installed:
            return backend
    raise BackendError(f"no backend is installed; `{INSTALL['tensorflow']}` brings the default")


def known_speeds(cache: Path) -> dict[str, float]:
    """Backend -> training images/s as measured on this hardware with these versions; empty where that is not known."""
    try:
        return speeds_of(json.loads((cache / SPEEDS).read_text(encoding="utf-8"))[hardware_and_versions()])
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def speeds_of(rows: Any) -> dict[str, float]:
    """The speeds in what was measured of each backend; empty unless there is a row for each that is installed."""
    try:
        speeds = {name: float(rows[name].get("images_per_second", 0)) for name in installed_backends()}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}
    return {name: speed for name, speed in speeds.items() if math.isfinite(speed) and speed > 0}


def hardware_and_versions() -> str:
    """What the speeds of backends depend on, in a line."""
    threads = [f"{name}={os.environ[name]}" for name in THREADS if name in os.environ]
    versions = [f"{name} {version}" for name, version in installed_backends().items()]
    versions += [f"{name} {_version(name)}" for name in ("keras", "rightfit")]
    return ", ".join([cpu_name(), f"{cpu_count()} processors", *threads, *_gpus(), *versions])


def _gpus() -> list[str]:
    if not has_nvidia_gpu():
        return []
    found = sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
    names = [line for path in found for line in path.read_text().splitlines() if line.startswith("Model")]
    return [" ".join(name.split()) for name in names] + [os.environ.get("CUDA_VISIBLE_DEVICES", "all")]


@contextmanager
def exact_float32() -> Iterator[None]:
    """float32 means float32 within: GPUs would round to TF32's ten bits (NVIDIA Ampere and later)."""
    running = os.environ.get("KERAS_BACKEND", "tensorflow")
    if running not in sys.modules:  # no backend runs in this process
        yield
    elif running == "jax":
        import jax

        with jax.default_matmul_precision("highest"):
            yield
    elif running == "torch":
        import torch

        switches = (torch.backends.cuda.matmul, torch.backends.cudnn)
        before = [switch.allow_tf32 for switch in switches]
        try:
            for switch in switches:
                switch.allow_tf32 = False
            yield
        finally:
            for switch, value in zip(switches, before, strict=True):
                switch.allow_tf32 = value
    else:
        import tensorflow as tf

        allowed = tf.config.experimental.tensor_float_32_execution_enabled()
        tf.config.experimental.enable_tensor_float_32_execution(False)
        try:
            yield
        finally:
            tf.config.experimental.enable_tensor_float_32_execution(allowed)


def has_nvidia_gpu() -> bool:
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    return Path("/proc/driver/nvidia/version").exists() and not hidden


def cpu_flags() -> frozenset[str]:
    """The processor's feature flags as Linux prints them; empty elsewhere."""
    return frozenset(_cpuinfo("flags").split())


def cpu_name() -> str:
    import platform

    return _cpuinfo("model name") or platform.processor() or platform.machine()


def _cpuinfo(key: str) -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.split(":")[0].strip() == key), "")


def cpu_count() -> int:
    """Processors this process may use: RIGHTFIT_PROCESSORS at most, where it shares the machine with others."""
    own = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    share = os.environ.get(PROCESSORS, "")
    return max(1, min(own, int(share))) if share.isdecimal() else own


def cache_folder(setting: str | None = None) -> Path:
    """The argument, else RIGHTFIT_CACHE, else the platform's folder for a user's caches."""
    chosen = setting or os.environ.get("RIGHTFIT_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    import platformdirs

    return platformdirs.user_cache_path("rightfit")
