"""Where labels are wrong at random, what is learnt of the images in doubt is the net's own answer, and nowhere else."""

import shutil
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rightfit
from rightfit.console import Console
from rightfit.errors import DataError
from rightfit.records import DOUBTS, objects_of
from rightfit.training import loop, running, treatment
from rightfit.training.checkpoints import Checkpoints
from rightfit.training.doctor import Condition
from rightfit.training.doubt import bootstrapped, in_doubt
from rightfit.training.judging import Judged, Validation
from rightfit.training.state import Progress

COUNT, CLASSES, EPOCHS = 600, 10, 40
TINY = {
    "image_size": 8,
    "model": "resnet8",
    "batch_size": 16,
    "precision": "float32",
    "report": "none",
    "doctor": "act",
}


def judged(wrong, classes=CLASSES, hard=False):
    """What a net that knows nearly all of the truth says, where a share of the labels is `wrong`; and the truth. `hard`
    images have the label as second answer instead."""
    generator = np.random.default_rng(2)
    truth = generator.integers(0, classes, COUNT)
    logits = generator.normal(0, 1, (COUNT, classes))
    logits[np.arange(COUNT), truth] += 7
    labels = np.where(generator.random(COUNT) < wrong, generator.integers(0, classes, COUNT), truth)
    if hard:
        logits[np.arange(COUNT), labels] += 5 * (labels != truth)
    targets = np.eye(classes, dtype=np.float32)[labels]
    return Judged(
        logits.astype(np.float32), Validation(None, np.arange(COUNT), targets, None), "categorical"
    ), truth


@pytest.mark.parametrize("wrong", [0.2, 0.5])
def test_images_with_wrong_labels_are_in_doubt_and_others_are_not(wrong):
    seen, truth = judged(wrong)
    false = seen.images.targets.argmax(axis=1) != truth
    doubts = in_doubt(seen.losses())
    assert doubts[false].mean() > 0.95 and doubts[~false].mean() < 0.05


@given(st.lists(st.floats(0, 20), min_size=20, max_size=200), st.integers(0, 2))
@settings(deadline=None, max_examples=40)
def test_doubts_are_shares_least_of_the_lowest_loss_and_most_of_the_highest(losses, seed):
    losses = np.array(losses) + 0.01 * np.random.default_rng(seed).random(len(losses))
    doubts = in_doubt(losses)
    assert ((doubts >= 0) & (doubts <= 1)).all()
    assert doubts[losses.argmin()] == doubts.min() and doubts[losses.argmax()] == doubts.max()


def test_what_is_learnt_is_the_label_where_there_is_no_doubt_and_the_answer_where_there_is():
    seen, truth = judged(0.5)
    targets, share = bootstrapped(seen, 1.0)
    assert targets.dtype == np.float32 and np.allclose(targets.sum(axis=1), 1, atol=1e-5)
    labels = seen.images.targets
    false = labels.argmax(axis=1) != truth
    assert share == pytest.approx(false.mean(), abs=0.05)
    assert np.abs(targets - labels)[~false].mean() < 0.01
    assert (targets.argmax(axis=1) == truth).mean() > 0.97 > 0.6 > (labels.argmax(axis=1) == truth).mean()


def progress(**changed):
    return Progress(epochs=EPOCHS, doctor=asdict(Condition(0.3, 0.2)), **changed)


def doubted(own, epoch, train, seen, stale=0, **how):
    """Decisions after one look, where all training images are `train`."""
    return treatment.doubt(own, epoch, train, seen, stale, 0.1, lambda kept: (train, 1.0), **how)


def doubts(seen, train=None, epochs=range(1, EPOCHS + 1), **changed):
    """Epochs after which labels are doubted, and where that leads."""
    own, found, train = progress(**changed), [], train or judged(0.4)[0]
    for epoch in epochs:
        for decision in doubted(own, epoch, train, seen):
            assert decision.epoch == epoch and own.doctor["changed"] == epoch
            found.append(epoch)
    return found, own


def test_labels_that_are_wrong_at_random_are_doubted_once_the_net_knows_something_again_and_again():
    found, own = doubts(judged(0.4)[0])
    assert found == [12, 18, 24, 30, 36]
    assert own.arrays["targets"].shape == (COUNT, CLASSES)


@pytest.mark.parametrize(
    "seen",
    [judged(0.0)[0], judged(0.4, hard=True)[0], judged(0.4, classes=3)[0]],
    ids=["clean", "hard", "three"],
)
def test_no_label_is_doubted_without_evidence(seen):
    found, own = doubts(seen)
    assert found == [] and own.arrays == {}


def test_once_doubted_they_stay_so_whatever_validation_says():
    own, noisy = progress(), judged(0.4)[0]
    assert doubted(own, 12, noisy, noisy)
    assert doubted(own, 18, noisy, judged(0.0)[0])


def test_none_is_doubted_once_labels_are_learnt_by_heart_late_or_on_the_last_descent():
    noisy = judged(0.4)[0]
    assert doubts(noisy, train=judged(0.0)[0])[0] == []
    assert doubts(noisy, epochs=range(31, EPOCHS + 1))[0] == []
    assert doubts(noisy, annealed=0.5)[0] == []


@pytest.mark.parametrize(
    ("stale", "epochs", "rate", "back"),
    [
        (2, 40, 0.08, True),
        (1, 40, 0.08, False),
        (5, 160, 0.08, True),
        (4, 160, 0.08, False),
        (9, 40, 0.004, False),
    ],
    ids=["two at least", "just now", "3 %", "less", "the rate was nearly zero anyway"],
)
def test_where_no_epoch_is_as_good_as_the_kept_one_for_a_while_it_goes_back(stale, epochs, rate, back):
    noisy, asked, epoch = judged(0.4)[0], [], 3 * epochs // 10
    history = [{"epoch": epoch - stale, "learning_rate": rate}]
    own = progress(best_epoch=epoch - stale, history=history, weights=[np.ones(1)])
    own.epochs = epochs
    found = treatment.doubt(
        own, epoch, noisy, noisy, stale, 0.1, lambda kept: (asked.append(kept) or noisy, noisy.temperature)
    )
    assert asked == [back] and [decision.setting for decision in found] == [DOUBTS, "epochs"][: 1 + back]
    assert (f"the answers of epoch {epoch - stale}," in found[0].because) == back
    assert own.restarts == [epoch] * back and own.annealed == pytest.approx(0.8 if back else 0)
    assert own.epochs == (epoch + 0.15 * epochs if back else epochs)


def test_going_back_is_to_the_weights_that_were_kept_and_down_to_zero(write_images, tmp_path, monkeypatch):
    monkeypatch.setattr(treatment, "at_random", lambda *seen: True)
    monkeypatch.setattr(treatment, "MISSED", -1.0)
    monkeypatch.setattr(running, "is_kept", lambda progress, losses, groups: progress.epoch + 1 not in (8, 9))
    asked_by, made_of, kept = [], [], []
    judge, make = running.Training._all_judged, running.Training._made

    def all_judged(self, of_kept):
        found = judge(self, of_kept)
        asked_by.append((of_kept, self.judge.get_weights()))
        kept.extend(self.progress.weights)
        return found

    def made(self, phase, weights):
        made_of.append(weights)
        return make(self, phase, weights)

    monkeypatch.setattr(running.Training, "_all_judged", all_judged)
    monkeypatch.setattr(running.Training, "_made", made)
    photos = write_images(tmp_path / "photos")
    run = rightfit.train(photos, output=tmp_path / "run", epochs=16, quiet=True, **TINY)
    reached = Checkpoints(run.path, Console(quiet=True)).newest().progress
    assert reached.restarts == [9] and reached.doctor["doubted"] == 9
    assert reached.epochs == reached.epoch == 12
    assert [of_kept for of_kept, _ in asked_by] == [True] and len(made_of) == 2
    for weights in (asked_by[0][1], made_of[1]):
        assert all(np.array_equal(mine, theirs) for mine, theirs in zip(weights, kept, strict=True))
    settings = [decision["setting"] for decision in objects_of(run.path / "decisions.jsonl")]
    assert settings[-4:] == [DOUBTS, "epochs", "epoch", "diagnosis"]
    rates = [float(row["learning_rate"]) for row in reached.history]
    assert rates[6] >= rates[9] > rates[10] > rates[11] and rates[11] < 0.2 * rates[6]


@pytest.mark.parametrize("after", [9, 10], ids=["as it turns", "on the way down"])
def test_killed_where_it_goes_back_and_resumed_it_is_the_run_that_nobody_disturbed(
    after, write_images, tmp_path, monkeypatch
):
    monkeypatch.setattr(treatment, "at_random", lambda *seen: True)
    monkeypatch.setattr(treatment, "MISSED", -1.0)
    monkeypatch.setattr(running, "is_kept", lambda progress, losses, groups: progress.epoch + 1 not in (8, 9))
    whole, killed, save = tmp_path / "whole", tmp_path / "killed", Checkpoints.save

    def save_and_copy(self, progress, tensors, steps):
        save(self, progress, tensors, steps)
        if (progress.epoch, progress.step) == (after, 0) and not killed.exists():
            self.wait()
            shutil.copytree(whole, killed)

    monkeypatch.setattr(Checkpoints, "save", save_and_copy)
    rightfit.train(write_images(tmp_path / "photos"), output=whole, epochs=16, quiet=True, **TINY)
    rightfit.resume(killed, quiet=True)
    reached = [Checkpoints(run, Console(quiet=True)).newest().progress for run in (whole, killed)]
    assert [progress.restarts for progress in reached] == [[9], [9]]
    for name in ("weights.safetensors", "golden.npz"):
        assert (whole / name).read_bytes() == (killed / name).read_bytes(), name


def test_a_look_that_is_broken_off_changes_nothing():
    def stopped(kept):
        raise KeyboardInterrupt

    own, noisy = progress(), judged(0.4)[0]
    with pytest.raises(KeyboardInterrupt):
        treatment.doubt(own, 12, noisy, noisy, 0, 0.1, stopped)
    assert own.arrays == {} and own.doctor == progress().doctor


def test_doubts_of_data_that_have_changed_are_forgotten(write_images, picture, tmp_path, monkeypatch):
    """Targets were made from labels and images as they were; who corrects them wants the new ones learnt."""
    monkeypatch.setattr(treatment, "at_random", lambda *seen: True)
    monkeypatch.setattr(treatment, "MISSED", -1.0)
    photos = write_images(tmp_path / "photos")
    run = rightfit.train(photos, output=tmp_path / "run", epochs=12, patience=12, quiet=True, **TINY).path
    before = Checkpoints(run, Console(quiet=True)).newest().progress
    assert before.doctor["doubted"] and before.arrays["targets"].shape == (40, 3)
    (photos / "blue" / "01.jpg").write_bytes(picture(suffix=".jpg"))

    def gone_on(*given, saved, **how):
        assert saved.progress.doctor["doubted"] == 0 and "targets" not in saved.progress.arrays
        raise DataError("seen")

    monkeypatch.setattr(loop, "train", gone_on)
    with pytest.raises(DataError, match="seen"):
        rightfit.resume(run, epochs=15, accept_data_changes=True, quiet=True)


def test_of_several_workers_all_do_what_the_first_says():
    noisy, clean = judged(0.4)[0], judged(0.0)[0]
    assert doubted(progress(), 12, noisy, noisy, agreed=lambda mine: 0.0) == []
    assert doubted(progress(), 12, noisy, clean, agreed=lambda mine: 1.0)
