"""Where images are kept decides nothing about the weights, and a run that lost a file goes on once it is back."""

import json

import pytest

import rightfit
from rightfit.data import uncached
from rightfit.data.loader import TrainLoader
from rightfit.training import interrupt

MODES = ("disk", "memory", "none")
TINY = {
    "image_size": 8,
    "model": "resnet8",
    "batch_size": 16,
    "epochs": 4,
    "precision": "float32",
    "quiet": True,
    "report": "none",
}


@pytest.fixture(scope="module")
def runs(photos, tmp_path_factory):
    """One run in each mode, with a cache folder each."""
    place = tmp_path_factory.mktemp("modes")
    settings = {mode: {"cache": mode, "cache_folder": place / f"cache-{mode}"} for mode in MODES}
    return {m: rightfit.train(photos, output=place / m, **TINY, **s) for m, s in settings.items()}


def weights(run):
    return (run.path / "weights.safetensors").read_bytes()


def test_the_three_modes_give_equal_weights_and_measurements(runs):
    for mode in MODES[1:]:
        assert weights(runs[mode]) == weights(runs["disk"]), mode
        loaded = rightfit.load(runs[mode].path)
        assert loaded.evaluate(quiet=True) == runs["disk"].evaluate(quiet=True), mode
        written = {path.name for path in (runs[mode].path.parent / f"cache-{mode}").iterdir()}
        assert written <= {"splits", "machine.json"}


@pytest.mark.parametrize("mode, then", [("memory", "memory"), ("none", "none"), ("memory", "none")])
def test_stopped_and_resumed_the_result_is_that_of_the_undisturbed_run(
    mode, then, runs, photos, tmp_path, monkeypatch
):
    """The mode may be changed in config.yaml."""
    checks = []

    def stop_at_the_fifth(self, *given):
        checks.append(None)
        if len(checks) == 5:
            raise interrupt.Stop

    with monkeypatch.context() as patch:
        patch.setattr(interrupt.Interrupt, "check", stop_at_the_fifth)
        stopped = rightfit.train(photos, output=tmp_path / "run", cache=mode, **TINY)
    assert "unfinished" in stopped.metrics
    config = stopped.path / "config.yaml"
    changed = config.read_text(encoding="utf-8").replace(f"cache: {mode} ", f"cache: {then} ")
    config.write_text(changed, encoding="utf-8")
    assert weights(rightfit.resume(tmp_path / "run", quiet=True)) == weights(runs["disk"])


@pytest.mark.parametrize("when", ["in the third epoch", "while the head is fitted"])
def test_a_file_that_vanishes_is_named_and_the_run_goes_on_once_it_is_back(
    when, runs, write_images, tmp_path, monkeypatch
):
    photos = write_images(tmp_path / "photos")
    fitted = when == "while the head is fitted"
    more = {"weights": str(runs["disk"].path / "weights.safetensors")} if fitted else {}
    whole = rightfit.train(photos, output=tmp_path / "whole", **TINY, **more)
    lost, aside = photos / "red" / "00.png", tmp_path / "aside.png"
    batches = []
    real = uncached.Files.gather

    def gather(self, rows):
        batches.append(None)
        if len(batches) == (3 if fitted else 12) and lost.exists():  # the first two looked for duplicates
            lost.rename(aside)
        return real(self, rows)

    monkeypatch.setattr(uncached.Files, "gather", gather)
    run = tmp_path / "run"
    with pytest.raises(rightfit.DataError, match=f"{lost} can no longer be read: .*rightfit resume {run}"):
        rightfit.train(photos, output=run, cache="none", cache_folder=tmp_path / "new", **TINY, **more)
    if not fitted:  # before the first checkpoint a run begins again, with the images that are there
        with pytest.raises(rightfit.DataError, match=f"is gone: {lost}; put them back"):
            rightfit.resume(run, quiet=True)
    aside.rename(lost)
    assert weights(rightfit.resume(run, quiet=True)) == weights(whole)


def test_what_was_done_before_an_image_was_lost_is_kept(photos, tmp_path, monkeypatch):
    real = TrainLoader.batch

    def batch(self, epoch, step):
        if (epoch, step) == (2, 1):
            raise rightfit.DataError("gone")
        return real(self, epoch, step)

    monkeypatch.setattr(TrainLoader, "batch", batch)
    with pytest.raises(rightfit.DataError, match="gone; put it back"):
        rightfit.train(photos, output=tmp_path / "run", cache="none", **TINY)
    names = [path.name for path in (tmp_path / "run" / "checkpoints").glob("step-*")]
    assert max(names) == "step-00000007.safetensors", "two epochs of three steps, and one"


def test_resume_of_images_that_are_not_kept_names_those_that_changed(runs, write_images, tmp_path, picture):
    photos = write_images(tmp_path / "photos")
    run = rightfit.train(photos, output=tmp_path / "run", cache="none", **TINY).path
    (photos / "blue" / "01.jpg").write_bytes(picture(suffix=".jpg"))
    with pytest.raises(rightfit.DataError, match=r"images were changed .*1: .*01\.jpg"):
        rightfit.resume(run, epochs=5, quiet=True)
    rightfit.resume(run, epochs=5, accept_data_changes=True, quiet=True)
    lines = (run / "decisions.jsonl").read_text(encoding="utf-8").splitlines()
    assert "accepted as they are" in [json.loads(line)["value"] for line in lines]


def test_changes_are_accepted_once_also_where_training_had_ended_and_none_is_named_wrongly(
    write_images, tmp_path, picture
):
    photos = write_images(tmp_path / "photos")
    run = rightfit.train(photos, output=tmp_path / "run", **TINY).path
    finished = run / "checkpoints" / "finished.json"
    finished.rename(tmp_path / "aside.json")  # as if it had been killed before that
    (photos / "blue" / "01.jpg").write_bytes(picture(suffix=".jpg"))
    rightfit.resume(run, accept_data_changes=True, quiet=True)
    before = (run / "decisions.jsonl").read_text(encoding="utf-8")
    assert before.count("accepted as they are") == 1
    (photos / "blue" / "03.jpg").write_bytes(picture(suffix=".jpg"))
    with pytest.raises(rightfit.UsageError, match="must be more than that"):
        rightfit.resume(run, epochs=4, accept_data_changes=True, quiet=True)
    assert (run / "decisions.jsonl").read_text(encoding="utf-8") == before, "nothing was done with them"
    with pytest.raises(rightfit.DataError, match=r"images were changed .*\(1: .*03\.jpg\)"):
        rightfit.resume(run, epochs=5, quiet=True)
    digests = run / "checkpoints" / "images.safetensors"
    other = rightfit.train(photos, output=tmp_path / "other", **TINY | {"epochs": 1}).path
    digests.write_bytes((other / "checkpoints" / digests.name).read_bytes())  # of the images as they are now
    with pytest.raises(rightfit.DataError, match=r"images were changed .*which, is not known any more"):
        rightfit.resume(run, epochs=5, quiet=True)


def test_a_store_that_is_cut_short_ends_the_run_and_is_made_anew(photos, runs, tmp_path, monkeypatch):
    real = TrainLoader.batch
    cache = tmp_path / "cache"

    def batch(self, epoch, step):
        if (epoch, step) == (2, 1):
            for path in cache.rglob("images.u8"):
                path.write_bytes(b"")
        return real(self, epoch, step)

    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(TrainLoader, "batch", batch)
        with pytest.raises(
            rightfit.DataError, match=r"images\.u8: was cut short .*decodes anew; `rightfit resume"
        ):
            rightfit.train(photos, output=run, cache_folder=cache, **TINY)
    assert weights(rightfit.resume(run, quiet=True)) == weights(runs["disk"])


def test_weights_that_are_not_measured_yet_are_not_used_without_their_calibration(
    photos, tmp_path, monkeypatch
):
    def killed(*given, **how):
        raise KeyboardInterrupt

    run, image = tmp_path / "run", photos / "red" / "00.png"
    with monkeypatch.context() as patch:
        patch.setattr(rightfit.Run, "measure", killed)
        with pytest.raises(KeyboardInterrupt):
            rightfit.train(photos, output=run, **TINY)
    with pytest.raises(rightfit.RunError, match=f"not measured yet; .*`rightfit resume {run}`"):
        rightfit.load(run).predict([image], quiet=True)
    measured = rightfit.resume(run, quiet=True)
    assert measured.calibration.temperature != 1 and len(measured.predict([image], quiet=True)) == 1
    with monkeypatch.context() as patch:
        patch.setattr(rightfit.Run, "measure", killed)
        with pytest.raises(KeyboardInterrupt):
            rightfit.resume(run, epochs=5, quiet=True)
    with pytest.raises(rightfit.RunError, match="not measured yet"):
        rightfit.load(run).predict([image], quiet=True)
