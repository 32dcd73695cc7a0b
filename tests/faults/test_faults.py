"""What a machine does to a run: full disks, flipped bits, lost numbers, folders that cannot be written."""

from __future__ import annotations

import resource
import shutil
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from types import SimpleNamespace

import keras
import numpy as np
import pytest

from rightfit.console import Console
from rightfit.errors import DataError, RightfitError, RunError, WriteError
from rightfit.saving.folder import remove_half_written
from rightfit.training import checkpoints as files
from rightfit.training.safety import SETBACKS, highest
from rightfit.training.state import Progress

STEPS = 6
FLIPS = 400


def same(first, second):
    return all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def names(folder):
    return sorted(path.name for path in folder.iterdir())


# Damaged files --------------------------------------------------------------------------------------


def test_no_flipped_bit_passes_and_none_ends_in_anything_but_a_typed_error(training, tmp_path):
    training(epochs=1)
    path = training.folder / "step-00000006.safetensors"
    whole = path.read_bytes()
    tensors, content, digest = files.read(path)
    header = 8 + int.from_bytes(whole[:8], "little")
    chance = np.random.default_rng(0)
    bits = np.concatenate([np.arange(64), chance.integers(64, 8 * header, FLIPS // 2)])
    bits = np.concatenate([bits, chance.integers(8 * header, 8 * len(whole), FLIPS // 2)])
    refused = 0
    for bit in bits.tolist():
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        try:
            found = files.read(path)
        except RunError:
            refused += 1
            continue
        assert found[1:] == (content, digest) and sorted(found[0]) == sorted(tensors)
        assert all(
            np.array_equal(found[0][n], v) and found[0][n].dtype == v.dtype for n, v in tensors.items()
        )
    assert refused > 0.99 * len(bits)
    for length in (0, 7, 100, header, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(RunError, match="is damaged"):
            files.read(path)


def test_a_damaged_checkpoint_gives_way_to_the_one_before_and_says_so(training):
    whole = training()
    newest = training.folder / "step-00000024.safetensors"
    newest.write_bytes(newest.read_bytes()[:-9] + b"different")
    again = training(go_on=True)
    assert f"{newest} is damaged" in again.said and "going back to the checkpoint before it" in again.said
    assert same(again.progress.weights, whole.progress.weights)
    assert len(again.progress.history) == 4
    assert files.read(newest)[1]["progress"]["ended"] == "all 4 epochs done"


def test_damaged_weights_of_the_kept_epoch_are_noticed_too(training):
    whole = training()
    best = training.folder / f"best-{whole.progress.best_epoch:05d}.safetensors"
    older = training.folder / "step-00000018.safetensors"
    kept_by_older = set(files.glance(older)["best"])
    assert best.name not in kept_by_older
    data = bytearray(best.read_bytes())
    data[-5] ^= 4
    best.write_bytes(data)
    again = training(go_on=True)
    assert f"{best} is damaged" in again.said
    assert same(again.progress.weights, whole.progress.weights)


def test_when_no_checkpoint_is_whole_the_command_says_so_and_what_to_do(copy_of_run, here):
    for path in (copy_of_run / "checkpoints").glob("step-*"):
        path.write_bytes(b"nothing of use")
    done = here("resume", copy_of_run)
    assert done.returncode == 1
    assert "none of its checkpoints is whole" in done.stderr and "--output NEW` repeats" in done.stderr


def test_a_run_keeps_the_last_two_checkpoints_and_what_they_name(training):
    training()
    assert [n for n in names(training.folder) if n.startswith("step")] == [
        "step-00000018.safetensors",
        "step-00000024.safetensors",
    ]
    named = set()
    for name in ("step-00000018.safetensors", "step-00000024.safetensors"):
        named |= set(files.glance(training.folder / name)["best"])
    assert {n for n in names(training.folder) if n.startswith("best")} == named


def test_a_checkpoint_that_may_not_be_read_is_not_taken_for_a_damaged_one(training, without_rights):
    training(epochs=1)
    place, as_nobody = without_rights
    shutil.copytree(training.folder, place / "checkpoints")
    newest = place / "checkpoints" / "step-00000006.safetensors"
    newest.chmod(0)
    kept = files.Checkpoints(place, Console(quiet=True))
    with (
        as_nobody(),
        pytest.raises(RightfitError, match=r"00006\.safetensors: cannot be read now: .*denied") as error,
    ):
        kept.newest()
    assert not isinstance(error.value, RunError), "which would mean the one before it"
    newest.chmod(0o644)
    assert kept.newest().name == newest.name


READ = """
import resource, sys
from pathlib import Path
import numpy, safetensors.numpy
from rightfit.errors import RightfitError, RunError
from rightfit.training import checkpoints
resource.setrlimit(resource.RLIMIT_AS, (int(open("/proc/self/statm").read().split()[0]) * 4096 + int(sys.argv[2]),) * 2)
try:
    checkpoints.read(Path(sys.argv[1]))
except RunError as error:
    print("damaged", error)
except RightfitError as error:
    print("now", error)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux's limit of memory")
@pytest.mark.parametrize("spare", [20, 100], ids=["to map the file", "to read what is in it"])
def test_short_memory_is_not_taken_for_damage(spare, tmp_path, process):
    path = tmp_path / "step-00000001.safetensors"
    files.write(path, {"x": np.zeros(18 * 2**20, np.float32)}, {})
    given = [sys.executable, "-c", READ, path, str(spare * 2**20)]
    quiet = process.environment(RUST_BACKTRACE="0")  # it takes memory, too
    done = subprocess.run(given, env=quiet, capture_output=True, text=True, timeout=60)
    assert done.stdout.startswith(f"now {path}: cannot be read now: "), done.stderr


KILLED = """
import resource, signal, sys
from pathlib import Path
import numpy
from rightfit.training import checkpoints
signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # the system kills who writes more than this
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
checkpoints.write(Path(sys.argv[1]) / "step-00000099.safetensors", {"x": numpy.zeros(5000)}, {})
"""


def test_what_a_kill_leaves_of_a_save_goes_when_the_run_is_written_again_and_not_before(
    training, tmp_path, process
):
    """Before, it may be what another process is writing."""
    training(epochs=1)
    for place in (training.folder, tmp_path / "run"):
        done = subprocess.run([sys.executable, "-c", KILLED, place], env=process.environment(), timeout=60)
        assert done.returncode < 0
    half = [name for name in names(training.folder) if name.startswith(".")]
    assert len(half) == 2, "ours and the library's own"
    kept = files.Checkpoints(tmp_path / "run", Console(quiet=True))
    assert kept.newest() and kept.identity()
    assert set(half) <= set(names(training.folder))
    remove_half_written(tmp_path / "run")
    assert not [name for name in names(tmp_path / "run") if name.startswith(".tmp")]
    kept.save(Progress(), {}, 100)
    kept.wait()
    assert not [name for name in names(training.folder) if name.startswith(".")]


def test_an_image_that_is_lost_at_the_end_costs_no_checkpoint(training, monkeypatch):
    toy, write = training.toy(), files.write

    def lose(progress):
        if progress.epoch == 4:
            toy.gather = lost

    def lost(rows):
        raise DataError("gone")

    def slowly(*given):
        time.sleep(0.3)
        return write(*given)

    monkeypatch.setattr(files, "write", slowly)
    with pytest.raises(DataError, match="gone"):
        training(lose, toy=toy)
    assert "step-00000024.safetensors" in names(training.folder)


# A full disk ----------------------------------------------------------------------------------------


@contextmanager
def no_file_larger_than(size):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("size", [0, 1, 700, 5000])
def test_a_disk_that_is_full_for_a_while_costs_checkpoints_and_nothing_else(size, training, tmp_path):
    undisturbed = training()
    shutil.rmtree(tmp_path / "run")
    full = no_file_larger_than(size)
    seen = []

    def after_epoch(progress):
        for thread in threading.enumerate():
            if thread.name == "rightfit-checkpoint":
                thread.join()
        if progress.epoch == 1:
            full.__enter__()
        seen.append(names(training.folder))
        if progress.epoch == 3:
            full.__exit__(None, None, None)

    found = training(after_epoch)
    assert found.said.count("checkpoint not saved") == 2  # of epochs 2 and 3
    assert "step-00000006.safetensors stays, and training goes on" in found.said
    assert "step-00000006.safetensors" in seen[-1], "the last good one is kept until there is another"
    assert same(found.progress.weights, undisturbed.progress.weights)
    assert "step-00000024.safetensors" in names(training.folder)
    assert not [name for name in names(training.folder) if name.startswith(".")]


def test_imported_weights_that_the_disk_does_not_take_are_a_typed_error(copy_of_run, tmp_path):
    import rightfit

    model = rightfit.Run(copy_of_run, backend=None).settings.model
    weights, output = copy_of_run / "weights.safetensors", tmp_path / "out.safetensors"
    with no_file_larger_than(5000), pytest.raises(WriteError, match=r"out\.safetensors: cannot be written"):
        rightfit.api.import_weights(weights, model, output)
    assert not output.exists()


# Lost numbers ---------------------------------------------------------------------------------------


@pytest.fixture
def struck(after_steps):
    """struck(n): in the n-th step weights become no number, once, as by a fault of the hardware; or in each
    step from there on."""

    def strike(at, again=False):
        def spoil(step, batch, number):
            if number == at or (again and number > at):
                kernel = step.model.get_layer("logits").kernel
                kernel.assign(np.full(kernel.shape, np.nan))

        after_steps(spoil)

    return strike


def test_a_lost_loss_sends_training_back_to_the_last_whole_epoch_at_half_the_rate(training, struck):
    struck(2 * STEPS + 2)
    found = training()
    assert [row["epoch"] for row in found.progress.history] == [1, 2, 3, 4]
    assert all(np.isfinite(row["loss"]) for row in found.progress.history)
    (decision,) = found.decisions
    assert (decision.setting, decision.value) == ("learning_rate factor", 0.5)
    assert "loss became nan in epoch 3; training returned to the end of epoch 2" in decision.because
    assert found.progress.rate_factor == 0.5 and found.progress.ended == "all 4 epochs done"
    undisturbed = training()
    rates = [[row["learning_rate"] for row in run.progress.history] for run in (found, undisturbed)]
    assert rates[0] == [*rates[1][:2], *(0.5 * rate for rate in rates[1][2:])]


def test_images_that_lose_the_loss_each_time_are_named_and_training_ends_with_what_it_has(training):
    weights = np.ones(96, np.float32)
    weights[7] = np.nan  # no number, once it meets the gradient
    loader = training.loader(weights)
    met = next(step for step in range(STEPS) if 7 in loader.positions(0, step))
    with pytest.raises(RightfitError, match=r"became .* in epoch 1.*; try --learning-rate 0\.01"):
        training(weights=weights)
    assert len(training.decisions) == SETBACKS
    for decision in training.decisions:
        named = [f"{position}.png" for position in loader.positions(0, met)[:5]]
        assert ", ".join(named) + " and 11 more" in decision.because
    assert files.read(training.folder / "step-00000000.safetensors")[1]["progress"]["epoch"] == 0


def test_training_gives_up_after_three_setbacks_and_keeps_the_best_epoch(training, struck):
    struck(STEPS + 2, again=True)
    found = training()
    assert [decision.value for decision in found.decisions] == [0.5, 0.25, 0.125]
    assert found.progress.ended.startswith("loss became nan in epoch 2; try --learning-rate")
    assert found.progress.best_epoch == 1 and len(found.progress.weights) > 0
    assert len(found.progress.history) == 1


@pytest.fixture
def spoilt(training):
    """A toy of one's own, which may be spoilt and mended while a run on it goes on; and its steps' images."""
    toy = training.toy()
    return SimpleNamespace(
        toy=toy, batch=lambda epoch, step: training.loader(None, toy).positions(epoch, step)
    )


def test_a_loss_that_explodes_sends_training_back_and_the_images_of_its_first_step_are_named(
    training, spoilt
):
    """One image that weighs ten thousand times too much throws the weights far away in the third of six steps."""
    weights = np.ones(96, np.float32)
    culprit = spoilt.batch(2, 2)[0]

    def spoil(progress):
        weights[culprit] = 1e4 if progress.epoch == 2 else 1

    def mend(decision):
        weights[culprit] = 1

    found = training(spoil, weights=weights, on_decision=mend)
    (decision,) = found.decisions
    assert (decision.setting, decision.value) == ("learning_rate factor", 0.5)
    assert "in epoch 3; training returned to the end of epoch 2 at half" in decision.because
    rose = float(decision.because.partition("loss rose to ")[2].split()[0])
    assert rose > 10 * min(row["loss"] for row in found.progress.history[:2])
    next_step = ", ".join(f"{position}.png" for position in spoilt.batch(2, 3)[:5])
    assert f"it was first seen in the step with the images {next_step}" in decision.because
    assert [row["epoch"] for row in found.progress.history] == [1, 2, 3, 4]
    assert max(row["loss"] for row in found.progress.history) == found.progress.history[0]["loss"]


def test_a_loss_that_rises_less_than_that_is_noise(training):
    progress = training(epochs=2).progress
    first, second = (row["loss"] for row in progress.history)
    assert highest(progress) == max(10 * second, first)
    progress.history[1]["loss"] = first / 1000
    assert highest(progress) == first
    assert highest(Progress()) == np.inf


class Lengths(keras.layers.Layer):
    """(B, H, W, C) -> (B, C), each channel's length; its gradient at zero, which only a black image has, is
    no number."""

    def call(self, x):
        return keras.ops.sqrt(keras.ops.mean(keras.ops.square(x), axis=(1, 2)))


def net_of_lengths():
    layers = keras.layers
    inputs = keras.Input((8, 8, 3), name="image")
    x = layers.Rescaling(1 / 64, name="normalise")(inputs)
    x = layers.Conv2D(4, 3, use_bias=False, name="conv")(x)
    return keras.Model(inputs, layers.Dense(3, name="logits")(Lengths(name="lengths")(x)))


def test_a_gradient_that_is_lost_in_the_last_step_is_noticed_though_no_loss_shows_it(training, spoilt):
    culprit = spoilt.batch(3, STEPS - 1)[0]
    pixels = spoilt.toy.images[culprit].copy()

    def spoil(progress):
        spoilt.toy.images[culprit] = 0 if progress.epoch == 3 else pixels

    def mend(decision):
        spoilt.toy.images[culprit] = pixels

    found = training(
        spoil, toy=spoilt.toy, model=net_of_lengths(), held=(), on_decision=mend, learning_rate=0.01
    )
    (decision,) = found.decisions
    assert "a weight became no number in epoch 4, though the loss is" in decision.because
    assert f"in the step with the images {culprit}.png, " in decision.because
    assert [row["epoch"] for row in found.progress.history] == [1, 2, 3, 4]
    assert all(np.isfinite(weight).all() for weight in found.progress.weights)


# Folders that cannot be written ---------------------------------------------------------------------


def test_an_output_that_cannot_be_written_is_said_before_training(without_rights, photos, here):
    folder, as_nobody = without_rights
    (folder / "closed").mkdir()
    (folder / "closed").chmod(0o555)
    with as_nobody():
        done = here("train", photos, "--image-size", 8, "--output", folder / "closed" / "run")
    assert done.returncode == 1
    assert "cannot be" in done.stderr and "Epoch" not in done.stderr
    with as_nobody():
        done = here("train", photos, "--image-size", 8, "--output", folder / "closed")
    assert done.returncode == 1
    assert "cannot be" in done.stderr and "Epoch" not in done.stderr
