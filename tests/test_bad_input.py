"""What cannot work ends with the documented exit code and one message that names the thing: never a traceback.

0 done, 1 the work failed, 2 wrong use, 3 the data is unusable.
"""

import json
import os
import struct
import subprocess
import sys
import zlib

import pytest

# As in pyproject.toml, whose filters `-W error` overrides.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

FAILED, WRONG_USE, UNUSABLE = 1, 2, 3
ONE_EPOCH = ("--image-size", 8, "--epochs", 1)


def message(done, code):
    """The one message of a command that ended with `code` and gave no result."""
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    before, said, text = done.stderr.partition("rightfit: ")
    assert said and (before == "" or before.endswith("\n")) and "rightfit: " not in text, done.stderr
    return text


@pytest.fixture
def refused(here, tmp_path):
    """refused(code, *arguments): the message of `rightfit train ARGUMENTS`, which leaves no run behind."""

    def train(code, *arguments):
        said = message(here("train", *arguments, *ONE_EPOCH, "--output", tmp_path / "refused"), code)
        assert not (tmp_path / "refused").exists()
        return said

    return train


@pytest.fixture
def forty(tmp_path, write_images):
    """Forty pictures of two colours, for tests that spoil some."""
    return write_images(tmp_path / "photos", classes=("blue", "red"))


# Folders --------------------------------------------------------------------------------------------


def test_a_folder_that_is_not_there(refused, tmp_path):
    assert f"{tmp_path / 'nowhere'}: no such file or folder" in refused(UNUSABLE, tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("code", "arguments"),
    [
        (UNUSABLE, ("{nowhere}",)),
        (WRONG_USE, ("{photos}", "--model", "resnt18")),
        (WRONG_USE, ("{photos}", "--weights", "none", "--finetune", "head")),
        (FAILED, ("{photos}", "--weights", "{nowhere}.pt")),
        (WRONG_USE, ("{photos}", "--output", "{photos}/red/00.png")),
    ],
    ids=["data", "model", "fine-tuning", "weights", "output"],
)
def test_what_is_known_at_once_is_said_before_keras_is_imported(tmp_path, photos, code, arguments):
    """Which takes seconds; and where several backends are installed, these are measured first, for a minute."""
    arguments = [text.format(nowhere=tmp_path / "nowhere", photos=photos) for text in arguments]
    script = (
        "import sys; from rightfit.cli import main\n"
        f"sys.argv = {['rightfit', 'train', *arguments]!r}\n"
        "try: main()\n"
        "except SystemExit as end: print(end.code, 'keras' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.split() == [str(code), "False"], done.stderr


def test_an_empty_folder_says_what_a_full_one_looks_like(refused, tmp_path):
    (tmp_path / "empty").mkdir()
    said = refused(UNUSABLE, tmp_path / "empty")
    assert str(tmp_path / "empty") in said and "ROOT/class/image.jpg" in said and ".csv" in said


def test_one_class_is_nothing_to_learn(refused, tmp_path, write_images):
    said = refused(UNUSABLE, write_images(tmp_path / "photos", classes=("red",)))
    assert "one class only" in said and "'red'" in said


def test_a_class_of_one_image_trains_and_says_which_splits_miss_it(here, tmp_path, write_images):
    photos = write_images(tmp_path / "photos", classes=("blue", "red"))
    write_images(photos, classes=("green",), count=1)
    done = here("train", photos, *ONE_EPOCH, "--output", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    missing = [
        line for line in done.stderr.splitlines() if "holds no image of 1 of the classes: green" in line
    ]
    assert len(missing) == 2, done.stderr  # one image is in one split, the two others miss it


def open_to_all(folder):
    folder.mkdir()
    folder.chmod(0o777)
    return folder


@pytest.mark.skipif(os.name == "nt", reason="Windows has other permissions")
def test_a_folder_without_read_permission(here, without_rights, write_images):
    folder, as_nobody = without_rights
    write_images(folder / "photos")
    (folder / "photos" / "red").chmod(0)
    open_to_all(folder / "runs")
    with as_nobody():
        done = here("train", folder / "photos", *ONE_EPOCH, "--output", folder / "runs" / "mine")
    assert f"{folder / 'photos' / 'red'}: no permission to read this folder" in message(done, UNUSABLE)


@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
def test_a_link_loop_ends_and_is_named(here, forty, tmp_path):
    (forty / "red" / "loop").symlink_to(forty)
    (forty / "blue" / "itself.png").symlink_to("itself.png")
    done = here("train", forty, *ONE_EPOCH, "--output", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert "2 links lead nowhere or back to a folder above and were left out" in done.stderr
    assert "left out: blue/itself.png, red/loop.\n" in done.stderr
    assert "\n40 images of 2 classes" in done.stderr  # each once


# Files that are no good images ----------------------------------------------------------------------


def test_unreadable_files_are_left_out_and_each_is_listed_with_its_reason(
    here, tmp_path, write_images, picture, rows_of
):
    photos = write_images(tmp_path / "photos", classes=("blue", "red"), count=50)
    spoilt = {
        "text.png": (b"Dear all, this is a letter.", "not an image: the content is none of JPEG, PNG"),
        "cut.jpg": (picture(64, ".jpg")[:-500], "truncated JPEG"),
        "nothing.jpg": (b"", "empty file"),
        "huge.png": (png_header(50_000, 50_000), "50000 x 50000 pixels, more than 178,956,970"),
    }
    for name, (data, _) in spoilt.items():
        (photos / "blue" / name).write_bytes(data)
    done = here("train", photos, *ONE_EPOCH, "--output", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert "4 unreadable files are left out: the run's quarantine.csv lists them" in done.stderr
    listed = {row["path"]: row["reason"] for row in rows_of(tmp_path / "run" / "quarantine.csv")}
    assert set(listed) == {str(photos / "blue" / name) for name in spoilt}
    for name, (_, reason) in spoilt.items():
        assert listed[str(photos / "blue" / name)].startswith(reason)
    used = {row["path"] for row in rows_of(tmp_path / "run" / "data.csv")}
    assert len(used) == 100 and used.isdisjoint(listed)


def png_header(width, height):
    """A PNG that claims its size and holds no pixels: 2.5 billion pixels would be 7.5 GB."""
    ihdr = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    idat = b"IDAT" + zlib.compress(b"")
    chunks = [
        struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in (ihdr, idat, b"IEND")
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def test_more_than_five_percent_unreadable_is_refused_unless_allowed(here, refused, forty, tmp_path, rows_of):
    for number in range(3):  # 3 of 40 are 7.5 %
        (forty / "red" / f"{number:02d}.{'jpg' if number % 2 else 'png'}").write_bytes(b"no image")
    said = refused(UNUSABLE, forty)
    assert "3 of 40 images cannot be read (more than 5%)" in said and "--allow-bad" in said
    assert all(f"red/{name} (red): not an image" in said for name in ("00.png", "01.jpg", "02.png"))

    done = here("train", forty, *ONE_EPOCH, "--output", tmp_path / "run", "--allow-bad")
    assert done.returncode == 0, done.stderr
    assert len(rows_of(tmp_path / "run" / "quarantine.csv")) == 3


def test_five_percent_unreadable_is_not_more_than_five_percent(here, forty, tmp_path):
    for name in ("00.png", "01.jpg"):  # 2 of 40
        (forty / "red" / name).write_bytes(b"no image")
    done = here("train", forty, *ONE_EPOCH, "--output", tmp_path / "run")
    assert done.returncode == 0, done.stderr


# Tables ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "change", "code", "said"),
    [
        ("path,label", lambda rows: [*rows, "red/gone.png,red"], UNUSABLE, "1 of 41 files do not exist: "),
        ("path,label", lambda rows: [*rows, rows[0]], UNUSABLE, "1 paths are repeated: "),
        (
            "path,label,split",
            lambda rows: [f"{rows[0]},tain", *(f"{row}," for row in rows[1:])],
            UNUSABLE,
            "line 2: unknown split 'tain'; use train, training, val, valid, validation, dev, test, testing or leave",
        ),
        ("path,kind", lambda rows: rows, WRONG_USE, "no label column 'label'; the columns are path, kind"),
        ("file,label", lambda rows: rows, UNUSABLE, "no column path; the columns are file, label"),
        ("path,label", lambda rows: [], UNUSABLE, "the table has no rows"),
    ],
    ids=[
        "a missing file",
        "a repeated path",
        "an unknown split",
        "no label column",
        "no path column",
        "no rows",
    ],
)
def test_a_table_that_is_wrong(refused, forty, header, change, code, said):
    rows = [f"{path.parent.name}/{path.name},{path.parent.name}" for path in sorted(forty.glob("*/*"))]
    (forty / "table.csv").write_text("\n".join([header, *change(rows)]) + "\n", encoding="utf-8")
    assert said in refused(code, forty / "table.csv")


# Wrong use ------------------------------------------------------------------------------------------


def test_training_on_nothing_says_what_to_give(refused):
    assert "give a folder of class folders, a table" in refused(WRONG_USE)


def test_a_run_folder_that_exists_is_left_alone(here, photos, trained):
    def content():
        return {path: path.read_bytes() for path in trained.folder.rglob("*") if path.is_file()}

    before = content()
    said = message(here("train", photos, *ONE_EPOCH, "--output", trained.folder), WRONG_USE)
    assert f"{trained.folder} exists and is not empty; choose another --output" in said
    assert content() == before


def test_an_unknown_model_names_the_near_ones(refused, photos):
    said = refused(WRONG_USE, photos, "--model", "resnet51")
    assert "unknown model 'resnet51'" in said and "resnet50" in said and "`rightfit models`" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--split", "6-1-2"), "split '6-1-2' is not numbers with colons between, as in 6:1:2"),
        (("--split", "0:1:1"), "split 0:1:1 must be train:val:test, none negative and train above 0"),
        (("--time-limit", "soon"), "time 'soon' is not a length such as 90s, 10m or 2h"),
        (("--batch-size", 0), "batch_size: Input should be greater than or equal to 1, not 0"),
        (
            ("--augment", "wild"),
            "augment: Input should be 'auto', 'none', 'light', 'medium' or 'strong', not 'wild'",
        ),
        (
            ("--backend", "theano"),
            "backend: Input should be 'auto', 'tensorflow', 'jax' or 'torch', not 'theano'",
        ),
        (("--group-by", "("), "group_by '(' is not a regular expression"),
        (("--group-by", "(z)"), "group_by '(z)' matches none of 60 file names, such as 00.png"),
        (("--positive", "red"), "positive 'red' needs two classes, of which an image has one; these are 3"),
        (("--warmup-epochs", 1), "warmup_epochs 1 must be less than epochs (1); 0 is none"),
        (("--group-by", "a+"), "group_by 'a+' captures nothing; put brackets around the group"),
        (
            ("--label-mode", "binary"),
            "binary needs two classes, these are 3: blue, green, red; use categorical",
        ),
    ],
)
def test_a_value_that_is_wrong(refused, photos, arguments, said):
    assert said in refused(WRONG_USE, photos, *arguments)


@pytest.mark.parametrize("size", ["12px", "7", "12x", "x12", "4097", "-12"])
def test_an_image_size_that_is_wrong(here, photos, tmp_path, size):
    done = here("train", photos, "--image-size", size, "--output", tmp_path / "run")
    assert f"image size {size!r}" in message(done, WRONG_USE)


def test_an_unknown_setting_in_a_config_names_the_near_ones(refused, photos, tmp_path):
    (tmp_path / "config.yaml").write_text("epoch: 3\n", encoding="utf-8")
    said = refused(WRONG_USE, photos, "--config", tmp_path / "config.yaml")
    assert "unknown setting 'epoch'; did you mean epochs" in said


def test_all_unknown_settings_in_a_config_are_named(refused, photos, tmp_path):
    (tmp_path / "config.yaml").write_text("epoch: 3\nxyzzy: 1\nseed: 2\n", encoding="utf-8")
    said = refused(WRONG_USE, photos, "--config", tmp_path / "config.yaml")
    assert "unknown setting 'epoch'" in said and "unknown setting 'xyzzy'" in said and "'seed'" not in said


def test_a_setting_that_a_config_sets_twice_is_refused(refused, photos, tmp_path):
    (tmp_path / "config.yaml").write_text("seed: 1\nviews: 0\nseed: 2\n", encoding="utf-8")
    said = refused(WRONG_USE, photos, "--config", tmp_path / "config.yaml")
    assert f"{tmp_path / 'config.yaml'}: seed is set twice, in lines 1 and 3" in said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "No such file or directory"),
        ("epochs: [", "is not YAML"),
        ("- epochs\n", "holds no settings"),
        ("epochs: !!python/object/apply:os.system ['touch ran']\n", "is not YAML"),
    ],
    ids=["missing", "broken", "a list", "a tag that would run code"],
)
def test_a_config_that_is_no_config(refused, photos, tmp_path, monkeypatch, text, said):
    monkeypatch.chdir(tmp_path)
    if text is not None:
        (tmp_path / "mine.yaml").write_text(text, encoding="utf-8")
    answer = refused(WRONG_USE, photos, "--config", "mine.yaml")
    assert "mine.yaml" in answer and said in answer
    assert not (tmp_path / "ran").exists()


def test_an_unknown_flag_names_the_near_ones(here, photos):
    done = here("train", photos, "--epoch", 3)
    assert done.returncode == WRONG_USE and done.stdout == ""
    assert "--epoch" in done.stderr and "--epochs" in done.stderr and "Traceback" not in done.stderr


def test_a_backend_that_is_not_installed_gives_the_line_that_installs_it(photos, tmp_path, process):
    """A real process in which `import jax` finds nothing, as where it was never installed."""
    script = (
        "import importlib.util, sys\n"
        "class Without:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] in ('jax', 'jaxlib'): raise ModuleNotFoundError(name=name)\n"
        "real = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *rest: None if name == 'jax' else real(name, *rest)\n"
        "sys.meta_path.insert(0, Without())\n"
        "from rightfit.cli import main\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, "train", photos, "--backend", "jax", "--output", tmp_path / "run"],
        env=process.environment(),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "the jax backend is not installed; `pip install 'rightfit[jax]'` brings it" in message(
        done, WRONG_USE
    )


def test_a_backend_that_keras_does_not_have(here, photos, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "theano")
    assert "unknown backend 'theano'; there are tensorflow, jax, torch" in message(
        here("train", photos), WRONG_USE
    )


# Runs -----------------------------------------------------------------------------------------------


def test_predicting_a_path_that_is_not_there_comes_before_any_work(here, trained, photos, tmp_path):
    gone = tmp_path / "nowhere.jpg"
    said = message(here("predict", trained.folder, photos / "red", gone, "--batch-size", 4), WRONG_USE)
    assert said == f"{gone} does not exist; give image files or folders\n"
    output = tmp_path / "predictions.csv"
    message(here("predict", trained.folder, photos / "red", gone, "--output", output), WRONG_USE)
    assert not output.exists()


def test_predicting_a_folder_without_images(here, trained, tmp_path):
    (tmp_path / "empty").mkdir()
    said = message(here("predict", trained.folder, tmp_path / "empty"), WRONG_USE)
    assert said == f"no images in {tmp_path / 'empty'}\n"


def test_predicting_into_a_folder_that_is_not_there(here, trained, photos, tmp_path):
    output = tmp_path / "nowhere" / "predictions.csv"
    said = message(here("predict", trained.folder, photos / "red", "--output", output), FAILED)
    assert said == f"{output}: cannot be written: No such file or directory\n"


@pytest.mark.parametrize(
    "command",
    ["predict {run} {photos}/red -o", "suspects {run} -o", "neighbours {run} {photos}/red -o", "report {run} -o",
     "check {photos} --html", "import-weights {run}/weights.safetensors --model resnet8 -o"],
    ids=lambda command: command.split()[0],
)  # fmt: skip
def test_no_result_is_written_over_somebody_s_file_or_a_run_s(here, copy_of_run, photos, tmp_path, command):
    table = tmp_path / "labels.csv"
    table.write_text("path,label,eye\na.png,ill,left\n")
    of_run = copy_of_run / "weights.safetensors"
    before = of_run.read_bytes()
    arguments = command.format(run=copy_of_run, photos=photos).split()
    for place in (table, of_run, tmp_path):
        said = message(here(*arguments, place), WRONG_USE)
        words = {table: "no earlier result", of_run: "a file of the run", tmp_path: "is a folder"}
        assert str(place) in said and words[place] in said
    assert table.read_text() == "path,label,eye\na.png,ill,left\n" and of_run.read_bytes() == before


def test_a_result_is_written_over_the_one_before(here, trained, photos, tmp_path):
    for name, arguments in {
        "labels.csv": ("predict", trained.folder, photos / "red", "--output"),
        "page.html": ("report", trained.folder, "--output"),
        "check.html": ("check", photos, "--html"),
    }.items():
        for _ in range(2):
            assert here(*arguments, tmp_path / name).returncode == 0


def test_a_spreadsheet_is_not_what_is_written(here, trained, photos, tmp_path):
    said = message(here("predict", trained.folder, photos / "red", "-o", tmp_path / "a.xlsx"), WRONG_USE)
    assert "this writes CSV, which spreadsheets open; name it .csv" in said


@pytest.mark.parametrize("command", ["predict", "evaluate"])
def test_an_unknown_precision(here, trained, photos, command):
    paths = [photos / "red"] if command == "predict" else []
    said = message(here(command, trained.folder, *paths, "--precision", "float8"), WRONG_USE)
    assert said == "unknown precision 'float8'; there are auto, float32, bfloat16\n"


def test_evaluating_a_run_without_test_images_opens_nothing(here, copy_of_run):
    table = copy_of_run / "data.csv"
    table.write_text(table.read_text(encoding="utf-8").replace('"test"', '"val"'), encoding="utf-8")
    said = message(here("evaluate", copy_of_run), WRONG_USE)
    assert f"{copy_of_run}: the data hold no test images" in said
    assert not (copy_of_run / "test-ledger.jsonl").exists()


def test_evaluating_when_an_image_of_the_run_is_gone(here, copy_of_run, photos, tmp_path, rows_of):
    table = copy_of_run / "data.csv"
    gone = photos / "red" / "gone.png"
    with table.open("a", encoding="utf-8") as file:
        file.write(f'"{gone}","red","train",""\n')
    said = message(here("evaluate", copy_of_run), UNUSABLE)
    assert "1 of 61 images of the run is gone: " in said and str(gone) in said
    assert not (copy_of_run / "test-ledger.jsonl").exists()


def test_evaluating_a_run_whose_labels_are_not_the_models(here, copy_of_run):
    table = copy_of_run / "data.csv"
    table.write_text(table.read_text(encoding="utf-8").replace('"red"', '"rust"'), encoding="utf-8")
    said = message(here("evaluate", copy_of_run), FAILED)
    assert "data.csv: 'rust' is no class of the model; the run is incomplete or damaged" in said


@pytest.mark.parametrize("command", ["predict", "evaluate"])
def test_a_folder_that_is_no_run(here, photos, tmp_path, command):
    paths = [photos / "red"] if command == "predict" else []
    said = message(here(command, photos, *paths), FAILED)
    assert f"{photos} is no run folder: there is no architecture.json in it" in said
    assert f"{tmp_path / 'no'} is no folder" in message(here(command, tmp_path / "no", *paths), FAILED)


def cut(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def negate_logits(file):
    """A valid file of valid weights: only what the model says can tell."""
    from safetensors.numpy import load_file, save_file

    tensors = load_file(file)
    save_file(tensors | {"logits/kernel": -tensors["logits/kernel"]}, file)


def foreign_layer(file):
    content = json.loads(file.read_text(encoding="utf-8"))
    content["keras"]["config"]["layers"][1]["class_name"] = "Lambda"
    file.write_text(json.dumps(content), encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "damage", "said"),
    [
        ("weights.safetensors", cut, "the file is not whole"),
        ("weights.safetensors", os.remove, "weights.safetensors is not there"),
        ("weights.safetensors", negate_logits, "the weights give other logits than when they were saved"),
        ("architecture.json", cut, "architecture.json: no JSON: Unterminated string"),
        ("architecture.json", foreign_layer, "the architecture asks for 'Lambda'"),
        ("golden.npz", cut, "golden.npz: damaged (File is not a zip file)"),
    ],
    ids=[
        "half weights",
        "no weights",
        "other weights",
        "half an architecture",
        "foreign layer",
        "half a golden",
    ],
)
def test_a_damaged_model_is_refused(here, copy_of_run, photos, name, damage, said):
    damage(copy_of_run / name)
    assert said in message(here("predict", copy_of_run, photos / "red"), FAILED)


def garble(file):
    file.write_bytes(b"\xff\xfe\x00")


@pytest.mark.parametrize(
    ("name", "damage"),
    # half of config.yaml is a valid one: the other settings are at their defaults
    [
        ("data.csv", os.remove),
        ("data.csv", garble),
        ("data.csv", cut),
        ("config.yaml", os.remove),
        ("config.yaml", garble),
    ],
)
def test_damaged_records_are_no_ground_to_evaluate_on(here, copy_of_run, name, damage):
    damage(copy_of_run / name)
    said = message(here("evaluate", copy_of_run), FAILED)
    assert str(copy_of_run / name) in said and "incomplete or damaged" in said
    assert not (copy_of_run / "test-ledger.jsonl").exists()


# Places that cannot be written ----------------------------------------------------------------------


@pytest.mark.skipif(os.name == "nt", reason="Windows has other permissions")
def test_a_read_only_output_folder(here, write_images, without_rights):
    folder, as_nobody = without_rights
    write_images(folder / "photos")
    (folder / "runs").mkdir(mode=0o555)
    cache = open_to_all(folder / "cache")
    with as_nobody():
        done = here(
            "train",
            folder / "photos",
            *ONE_EPOCH,
            "--cache-folder",
            cache,
            "--output",
            folder / "runs" / "mine",
        )
    said = message(done, FAILED)
    assert f"{folder / 'runs' / 'mine'} cannot be written: Permission denied in {folder / 'runs'}" in said
    assert not list(cache.iterdir()), "said before any work"


@pytest.mark.skipif(os.name == "nt", reason="Windows has other permissions")
def test_a_cache_that_cannot_be_written_says_how_to_choose_another(here, write_images, without_rights):
    folder, as_nobody = without_rights
    write_images(folder / "photos")
    (folder / "cache").mkdir(mode=0o555)
    output = open_to_all(folder / "runs") / "mine"
    with as_nobody():
        done = here(
            "train", folder / "photos", *ONE_EPOCH, "--cache-folder", folder / "cache", "--output", output
        )
    said = message(done, FAILED)
    assert (
        str(folder / "cache") in said
        and "set --cache-folder or RIGHTFIT_CACHE to a folder you can write to" in said
    )
