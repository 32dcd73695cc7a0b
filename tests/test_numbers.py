"""The numbers as a user meets them: the table, probabilities and thresholds of validation, two runs compared."""

import json
import re
import shutil

import numpy as np
import pytest

import rightfit

# As in pyproject.toml, whose filters `-W error` overrides.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

TINY = ("--image-size", 8, "--model", "resnet8")


def succeeded(done):
    assert done.returncode == 0, done.stderr
    return done


def test_the_table_shows_each_number_with_its_interval_and_the_record_holds_more(copy_of_run, here):
    said = succeeded(here("evaluate", copy_of_run)).stdout
    for name in ("balanced accuracy", "log loss", "macro F1", "AUROC", "kappa", "MCC", "calibration error"):
        span = r"(-?\d\.\d{4} to -?\d|-$)" if name in ("kappa", "MCC") else r"\d\.\d{4} to \d"
        assert re.search(rf"^  {name} +-?\d\.\d{{4}}   {span}", said, re.MULTILINE), name
    assert "recall of blue" in said and "precision of red" in said
    tested = json.loads((copy_of_run / "metrics.json").read_text(encoding="utf-8"))["test"]
    assert sum(n for row in tested["confusion"].values() for n in row.values()) == 13
    assert set(tested["slices"]) == {"brightness"}  # all images have one size, and no groups


def test_the_temperature_is_applied_in_evaluate_and_predict_and_a_run_without_has_one_of_1(
    copy_of_run, here, rows_of
):
    """Probabilities are those of the saved temperature, and labels never change."""

    def measured():
        metrics = json.loads(succeeded(here("evaluate", copy_of_run, "--json")).stdout)
        paths = [row["path"] for row in rows_of(copy_of_run / "data.csv") if row["split"] == "test"]
        return metrics, rows_of(succeeded(here("predict", copy_of_run, *paths)).stdout)

    (copy_of_run / "calibration.json").write_text('{"temperature": 4.0, "points": {}}', encoding="utf-8")
    hot, hot_rows = measured()
    (copy_of_run / "calibration.json").unlink()
    raw, raw_rows = measured()
    assert (hot["temperature"], raw["temperature"]) == (4.0, 1.0)
    assert [row["label"] for row in hot_rows] == [row["label"] for row in raw_rows]
    assert hot["accuracy"] == raw["accuracy"] and hot["loss"] != raw["loss"]
    assert hot["ece_uncalibrated"] == raw["ece"] == raw["ece_uncalibrated"]
    names = ("probability_blue", "probability_green", "probability_red")
    odds = [np.log([[float(row[n]) for n in names] for row in rows]) for rows in (hot_rows, raw_rows)]
    hot_steps, raw_steps = (np.diff(o, axis=1) for o in odds)
    np.testing.assert_allclose(4 * hot_steps, raw_steps, rtol=1e-3, atol=1e-3)


def test_a_damaged_calibration_is_an_error_that_names_it(copy_of_run, here):
    (copy_of_run / "calibration.json").write_text('{"temperature": 0}', encoding="utf-8")
    done = here("evaluate", copy_of_run)
    assert done.returncode == 1 and "calibration.json" in done.stderr


def test_several_classes_have_no_operating_point(copy_of_run, photos, here):
    done = here("predict", copy_of_run, photos, "--operating-point", "youden")
    assert done.returncode == 2 and "no operating point 'youden'" in done.stderr


def test_two_classes_are_decided_at_the_threshold_of_validation(
    photos, tmp_path, here, rows_of, write_images
):
    two = write_images(tmp_path / "two", classes=("blue", "green"))
    run = tmp_path / "run"
    succeeded(here("train", two, *TINY, "--epochs", 1, "--output", run, "--ordinal"))
    threshold = json.loads((run / "calibration.json").read_text())["points"]["sensitivity-95"][0]
    rows = rows_of(succeeded(here("predict", run, two, "--operating-point", "sensitivity-95")).stdout)
    assert all((row["label"] == "green") == (float(row["probability_green"]) > threshold) for row in rows)
    tested = json.loads(succeeded(here("evaluate", run, "--json")).stdout)
    assert tested["operating_points"]["sensitivity-95"]["green"]["threshold"] == threshold
    assert tested["quadratic_kappa"]["value"] == pytest.approx(tested["kappa"]["value"])


def test_a_label_that_every_image_has_is_decided_at_a_half_and_that_is_said(photos, tmp_path, here, rows_of):
    table, run = tmp_path / "labels.csv", tmp_path / "run"
    files = sorted(photos.glob("*/*"))
    lines = [f"{file},{'a|b' if number % 2 else 'a'}" for number, file in enumerate(files)]
    table.write_text("\n".join(["path,label", *lines]) + "\n")
    done = succeeded(here("train", table, *TINY, "--epochs", 1, "--output", run))
    assert "no operating points of a: all validation images are of it, or none is" in done.stderr
    points = json.loads((run / "calibration.json").read_text())["points"]
    assert all(row[0] is None and 0 < row[1] < 1 for row in points.values())
    done = succeeded(here("predict", run, photos, "--operating-point", "sensitivity-95"))
    assert "a: decided at 1/2, for want of validation images with and without it" in done.stderr
    for row in rows_of(done.stdout):
        assert ("a" in row["label"].split("|")) == (float(row["probability_a"]) > 0.5)
        threshold = points["sensitivity-95"][1]
        assert ("b" in row["label"].split("|")) == (float(row["probability_b"]) > threshold)
    tested = json.loads(succeeded(here("evaluate", run, "--json")).stdout)
    assert all(set(labels) == {"b"} for labels in tested["operating_points"].values())


def test_answers_that_are_no_numbers_are_an_error_and_no_answer(copy_of_run, photos, tmp_path, here):
    """Weights that overflow on all images but the one that is kept with them."""
    from rightfit.saving import bundle

    other = shutil.copytree(copy_of_run, tmp_path / "other")
    run = rightfit.load(copy_of_run)
    images = run._data().images.gather(np.arange(60))
    kernel, bias = run.model.layers[-1].get_weights()
    run.model.layers[-1].set_weights([np.ones_like(kernel), 0 * bias])
    sums = np.asarray(run.model.predict_on_batch(images))[:, 0]
    least, second = np.sort(sums)[:2]
    largest = np.finfo(np.float32).max / np.sqrt(least * second)
    run.model.layers[-1].set_weights([np.full_like(kernel, largest), 0 * bias])
    bundle.save(copy_of_run, run.model, run.description, images[sums == least])
    output = tmp_path / "out.csv"
    for command in (
        ("evaluate", copy_of_run),
        ("predict", copy_of_run, photos, "--output", output),
        ("compare", copy_of_run, other),
    ):
        done = here(*command)
        assert done.returncode == 1 and "images are no finite numbers" in done.stderr, command
    assert not output.exists()


def test_grades_are_named_in_their_order_and_several_labels_have_none(photos, tmp_path, here):
    said = here("train", photos, "--ordinal", *TINY, "--epochs", 1, "--output", tmp_path / "run")
    assert "grades, in the order of their names: blue < green < red" in said.stderr
    assert "name the folders or labels so that they sort in it, such as 0_none" in said.stderr
    table = tmp_path / "labels.csv"
    files = sorted(photos.glob("*/*"))
    table.write_text(
        "path,label\n" + "".join(f"{f},{'a|b' if i % 2 else 'a'}\n" for i, f in enumerate(files))
    )
    refused = here("train", table, "--ordinal", *TINY, "--output", tmp_path / "other")
    assert refused.returncode == 2 and "several labels" in refused.stderr


# Compare --------------------------------------------------------------------------------------------


def test_a_run_cannot_be_told_from_itself(trained, copy_of_run, here):
    said = succeeded(here("compare", trained.folder, copy_of_run))
    assert "7 val images that both have" in said.stdout
    assert "cannot be told apart" in said.stdout.splitlines()[-1]
    assert not (copy_of_run / "test-ledger.jsonl").exists()


def test_comparing_on_the_test_images_opens_both_on_record(copy_of_run, tmp_path, here):
    other = shutil.copytree(copy_of_run, tmp_path / "other")
    found = json.loads(succeeded(here("compare", copy_of_run, other, "--split", "test", "--json")).stdout)
    assert found["images"] == 13 and found["mcnemar"]["p"] == 1 and not found["told_apart"]
    for run, its_other in ((copy_of_run, other), (other, copy_of_run)):
        (line,) = (run / "test-ledger.jsonl").read_text(encoding="utf-8").splitlines()
        assert json.loads(line)["purpose"] == f"compare with {its_other}"


def test_comparing_on_validation_needs_no_test_image(copy_of_run, photos, tmp_path, here, rows_of):
    shutil.copytree(photos, tmp_path / "photos")
    for name in ("data.csv", "config.yaml"):
        text = (copy_of_run / name).read_text(encoding="utf-8")
        (copy_of_run / name).write_text(text.replace(str(photos), str(tmp_path / "photos")), encoding="utf-8")
    other = shutil.copytree(copy_of_run, tmp_path / "other")
    for row in rows_of(copy_of_run / "data.csv"):
        if row["split"] == "test":
            (tmp_path / "photos").joinpath(*row["path"].split("/")[-2:]).unlink()
    assert json.loads(succeeded(here("compare", copy_of_run, other, "--json")).stdout)["images"] == 7
    refused = here("compare", copy_of_run, other, "--split", "test")
    assert refused.returncode == 3 and not (other / "test-ledger.jsonl").exists()


def test_groups_of_either_run_are_drawn_together(copy_of_run, tmp_path, here, rows_of):
    other = shutil.copytree(copy_of_run, tmp_path / "other")
    held_out = [row["path"] for row in rows_of(other / "data.csv") if row["split"] == "val"]
    text = (other / "data.csv").read_text(encoding="utf-8")
    for path in held_out[:3]:
        text = re.sub(rf'("{re.escape(path)}".*),""', r'\1,"one"', text)
    (other / "data.csv").write_text(text, encoding="utf-8")
    for pair in ((copy_of_run, other), (other, copy_of_run)):
        found = json.loads(succeeded(here("compare", *pair, "--json")).stdout)
        assert (found["images"], found["groups"]) == (7, 5)


def test_only_images_that_both_hold_back_are_compared(copy_of_run, tmp_path, here):
    other = shutil.copytree(copy_of_run, tmp_path / "other")
    lines = (other / "data.csv").read_text(encoding="utf-8").splitlines()
    first = next(i for i, line in enumerate(lines) if '"val"' in line)
    lines[first] = lines[first].replace('"val"', '"train"')
    (other / "data.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    done = succeeded(here("compare", copy_of_run, other, "--json"))
    assert "6 val images are in both runs (of 7 and 6)" in done.stderr
    found = json.loads(done.stdout)
    assert found["images"] == 6
    assert found["loss"]["a"] == pytest.approx(found["loss"]["b"]), "the same weights on the same images"
    (other / "data.csv").write_text("\n".join(lines).replace('"val"', '"train"') + "\n", encoding="utf-8")
    refused = here("compare", copy_of_run, copy_of_run / ".")
    assert refused.returncode == 2 and "are one run" in refused.stderr
    refused = here("compare", copy_of_run, other)
    assert refused.returncode == 2 and "hold no val images" in refused.stderr
