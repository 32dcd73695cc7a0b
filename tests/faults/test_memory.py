"""Memory that runs short: the batch in parts, the same gradient, and a run that goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import weakref
from pathlib import Path

import keras
import numpy as np
import pytest

from rightfit.errors import RightfitError
from rightfit.evaluation import infer
from rightfit.memory import is_short, words
from rightfit.training import checkpoints as files

STEPS, BATCH = 6, 16
SPARE = 1000  # MB that a process may take besides what its imports took
BACKENDS = ("tensorflow", "jax", "torch")


# The gradient of a batch in parts -------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_step_in_parts_is_the_whole_step_to_rounding_where_nothing_is_normalised_by_the_batch(
    backend, process
):
    script = Path(__file__).with_name("parts.py")
    done = subprocess.run(
        [sys.executable, script],
        env=process.environment(KERAS_BACKEND=backend),
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["backend"] == backend
    assert [run["parts"] for run in said["runs"]] == [2, 2, 3, 4, 10] * 2
    for run in said["runs"]:
        assert run["images"] == run["whole_images"] == 30 and run["hits"] == run["whole_hits"]
        assert run["moved"] > 0.01, "three steps that change something"
        assert run["apart"] < 2e-5 * run["largest"], run


# A backend that has no more memory ------------------------------------------------------------------


@pytest.fixture
def starved(after_steps):
    """starved(at, enough): from the `at`-th step on, one with parts of more than `enough` images asks the
    backend for more memory than there is, once it has changed what a step changes."""

    def starve(at, enough):
        def ask(step, batch, number):
            if number >= at and (step.micro or len(batch.images)) > enough:
                keras.ops.zeros((2**42,)) + 1

        after_steps(ask)

    return starve


def same(first, second):
    return all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def losses(run):
    return [(row["epoch"], row["steps"], row["loss"], row["val_loss"]) for row in run.progress.history]


def test_a_batch_too_large_for_memory_from_the_start_is_as_if_the_parts_had_been_asked_for(
    training, starved, tmp_path
):
    starved(1, enough=5)
    found = training()
    assert [(d.setting, d.value) for d in found.decisions] == [("micro_batch", 8), ("micro_batch", 4)]
    for decision in found.decisions:
        assert "memory ran short (" in decision.because and "OOM when allocating" in decision.because
        assert f"from step 0 of epoch 1 on the gradient of a batch of {BATCH} is summed" in decision.because
    saved = files.read(training.folder / "step-00000024.safetensors")[1]
    assert saved["progress"]["micro"] == 4
    training.folder = tmp_path / "asked" / "checkpoints"
    asked = training(micro_batch=4)
    assert asked.decisions == []
    assert same(found.progress.weights, asked.progress.weights)
    assert losses(found) == losses(asked)


def test_memory_that_runs_short_later_costs_the_steps_since_the_last_checkpoint_and_resumes_alike(
    training, starved, tmp_path, monkeypatch
):
    """As a run that was stopped at that checkpoint and gone on with in parts: nothing of the failed step is left."""
    starved(2 * STEPS + 3, enough=8)
    found = training()
    monkeypatch.undo()
    (decision,) = found.decisions
    assert "from step 0 of epoch 3 on" in decision.because
    training.folder = tmp_path / "stopped" / "checkpoints"
    handler = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    training(lambda progress: os.kill(os.getpid(), signal.SIGTERM) if progress.epoch == 2 else None)
    signal.signal(signal.SIGTERM, handler)

    def in_parts(saved):
        assert (saved.progress.epoch, saved.progress.step) == (2, 0)
        saved.progress.micro = 8

    resumed = training(go_on=True, change=in_parts)
    assert same(found.progress.weights, resumed.progress.weights)
    assert losses(found) == losses(resumed)
    assert len(found.progress.history) == 4


def test_when_not_even_one_image_fits_there_is_one_typed_error(training, starved):
    starved(1, enough=0)
    with pytest.raises(RightfitError, match=r"too short for a gradient of 1 image: .*OOM.*--image-size"):
        training(micro_batch=2)
    assert [decision.value for decision in training.decisions] == [1]


def test_a_setback_keeps_the_parts(training, starved):
    """Also from an epoch's end at which memory had not run short yet: there is a later checkpoint by then."""
    weights = np.ones(96, np.float32)
    culprit = training.loader(weights).positions(2, STEPS - 1)[0]
    starved(2 * STEPS + 4, enough=8)

    def spoil(progress):
        for thread in threading.enumerate():
            if thread.name == "rightfit-checkpoint":
                thread.join()  # so that one is due after the next step
        weights[culprit] = np.nan if progress.epoch == 2 else 1

    def mend(decision):
        if decision.setting == "learning_rate factor":
            weights[culprit] = 1

    found = training(spoil, weights=weights, on_decision=mend, every=0.0)
    assert not found.decisions[0].because.count("from step 0 of")
    assert [d.setting for d in found.decisions] == ["micro_batch", "learning_rate factor"]
    assert found.progress.micro == 8 and len(found.progress.history) == 4


# Words ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "short"),
    [
        (MemoryError(), True),
        (OSError(12, "Cannot allocate memory"), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 64 bytes"), True),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 64 bytes"), True),
        (RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 3489785808 bytes."), True),
        (RuntimeError("Exception encountered\n\n\x1b[1mcould not create a primitive\x1b[0m\n"), True),
        (RuntimeError("could not execute a primitive"), True),
        (RuntimeError("could not create a primitive descriptor for a convolution"), False),
        (ValueError("shapes (2,) and (3,)"), False),
        (OSError(28, "No space left on device"), False),
        (RightfitError("out of memory"), False),
    ],
)
def test_a_shortage_of_memory_is_known_by_its_type_or_its_words(error, short):
    assert is_short(error) == short


def test_what_is_put_on_record_is_the_line_that_says_what_was_asked_for():
    said = "Exception encountered\n\n\x1b[1mCUDA out of memory. Tried to allocate 2 GiB\x1b[0m\n  inputs=..."
    assert words(RuntimeError(said)) == "CUDA out of memory. Tried to allocate 2 GiB"
    assert words(MemoryError()) == "memory is short"


def test_predicting_takes_a_batch_in_halves_where_memory_is_short():
    seen = []

    class Narrow:
        def predict_on_batch(self, batch):
            seen.append(len(batch))
            if len(batch) > 3:
                raise MemoryError
            return batch.reshape(len(batch), -1)[:, :2].astype(np.float32)

    batch = np.random.default_rng(0).integers(0, 256, (11, 4, 4, 3), np.uint8)
    found = infer.logits_of(Narrow(), batch, 16)
    assert np.array_equal(found, batch.reshape(11, -1)[:, :2])
    assert max(seen) == 16 and {n for n in seen if n <= 3} == {2}


def test_what_a_batch_that_failed_held_is_free_before_the_halves_are_tried():
    """Frameworks leave an error, its frames and their arrays in a cycle, which no count of references ends."""

    class Held:
        pass

    alive = []

    class Narrow:
        def predict_on_batch(self, batch):
            assert not any(reference() for reference in alive)
            if len(batch) > 2:
                held = Held()
                held.itself, held.arrays = held, batch.copy()
                alive.append(weakref.ref(held))
                raise MemoryError
            return np.zeros((len(batch), 2), np.float32)

    assert infer.logits_of(Narrow(), np.zeros((16, 2, 2, 3), np.uint8), 16).shape == (16, 2)
    assert len(alive) == 1 + 2 + 4


# Real limits ----------------------------------------------------------------------------------------


@pytest.fixture
def large(tmp_path, write_images):
    """Arguments of a run whose batch of 32 takes over 1 GB a step."""
    photos = write_images(tmp_path / "photos", count=12, side=256)
    run = tmp_path / "run"
    sizes = ("--image-size", 256, "--model", "resnet8", "--batch-size", 32, "--epochs", 1)
    chosen = ("--split", "8:1:0", "--precision", "float32", "--weights", "none")
    return run, ("train", photos, *sizes, *chosen, "--output", run)


def limited(process, backend, spare, *arguments):
    """The command with so many MB more than it takes to begin; what it frees goes back to the system at once."""
    script = Path(__file__).with_name("limited.py")
    allocator = {"MALLOC_MMAP_THRESHOLD_": "262144"}
    return subprocess.run(
        [sys.executable, script, str(spare), *map(str, arguments)],
        env=process.environment(KERAS_BACKEND=backend, TF_CPP_MIN_LOG_LEVEL="3", **allocator),
        capture_output=True,
        text=True,
        timeout=240,
    )


def decisions(run):
    lines = (run / "decisions.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA holds on Linux only")
def test_a_process_under_a_limit_of_the_system_halves_its_batch_and_ends_well(large, process):
    """torch, which raises; JAX raises where a computation asks for too much, and may end the process elsewhere."""
    run, arguments = large
    done = limited(process, "torch", SPARE, *arguments)
    assert done.returncode == 0, done.stderr
    found = [d for d in decisions(run) if d["setting"] == "micro_batch"]
    assert [d["value"] for d in found] == [16, 8, 4, 2, 1][: len(found)] != []
    assert "memory ran short (" in found[0]["evidence"] and "memory ran short (" in done.stderr
    assert (run / "model.keras").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA holds on Linux only")
def test_where_the_process_is_ended_instead_resume_takes_smaller_parts(large, process):
    """TensorFlow on a processor does not raise: its kernels end the process, as the system does in a container."""
    run, arguments = large
    done = limited(process, "tensorflow", SPARE, *arguments)
    assert done.returncode < 0, "ended by a signal"
    resumed = limited(process, "tensorflow", SPARE, "resume", run, "--micro-batch", 2)
    assert resumed.returncode == 0, resumed.stderr
    (found,) = [d for d in decisions(run) if d["setting"] == "micro_batch"]
    assert (found["value"], found["evidence"]) == (2, "asked of resume: from step 0 of epoch 1 on")
    assert (run / "model.keras").exists()
