"""Files, order, labels and pixels are those of the original flows: tf-keras' ImageDataGenerator on the same folders."""

import warnings

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from rightfit.errors import DataError
from rightfit.keras2 import ImageDataGenerator

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from tf_keras.preprocessing.image import ImageDataGenerator as Original

COUNTS = {"b": 7, "a10": 5, "a9": 4}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Three class folders, nested and mixed files, of sizes and modes that differ."""
    root = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    for name, count in COUNTS.items():
        (root / name / "more").mkdir(parents=True)
        for number in range(count):
            pixels = random.integers(0, 256, (20 + number, 31, 3), np.uint8)
            folder = root / name / ("more" if number % 3 == 2 else "")
            Image.fromarray(pixels).save(folder / f"{number}.{('png', 'jpg', 'BMP')[number % 3]}")
        (root / name / "notes.txt").write_text("no image")
    Image.fromarray(random.integers(0, 256, (9, 9), np.uint8)).save(root / "b" / "grey.png")
    Image.fromarray(random.integers(0, 256, (9, 9, 4), np.uint8)).save(root / "b" / "alpha.png")
    (root / "loose.png").write_bytes((root / "b" / "grey.png").read_bytes())
    return root


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RIGHTFIT_CACHE", str(tmp_path / "cache"))


def both(photos, options=None, **flow):
    options, flow = options or {}, {"target_size": (12, 14), "batch_size": 5, "seed": 3} | flow
    return (
        ImageDataGenerator(**options).flow_from_directory(photos, **flow),
        Original(**options).flow_from_directory(str(photos), **flow),
    )


def batches(flow):
    return [flow[number] for number in range(len(flow))]


def assert_same(ours, theirs, atol=0.0):
    for one, other in zip(ours, theirs, strict=True):
        if isinstance(other, (tuple, list)):
            assert_same(one, other, atol)
        else:
            assert one.dtype == other.dtype
            np.testing.assert_allclose(one, other, rtol=0, atol=atol)


@pytest.mark.parametrize("class_mode", ["categorical", "binary", "sparse", "input", None])
def test_files_labels_and_pixels_are_the_originals(photos, class_mode, capfd):
    ours, theirs = both(photos, class_mode=class_mode, shuffle=False)
    said = capfd.readouterr().out.splitlines()
    assert said == ["Found 18 images belonging to 3 classes."] * 2
    for name in ("filenames", "class_indices", "samples", "n", "num_classes", "image_shape", "batch_size"):
        assert getattr(ours, name) == getattr(theirs, name), name
    assert ours.classes.tolist() == theirs.classes.tolist() and len(ours) == len(theirs) == 4
    assert_same(batches(ours), batches(theirs))


@pytest.mark.parametrize("subset", ["training", "validation"])
@pytest.mark.parametrize("share", [0.2, 0.34, 0.5])
def test_a_validation_split_has_the_originals_edges(photos, subset, share):
    ours, theirs = both(photos, {"validation_split": share}, subset=subset)
    assert ours.filenames == theirs.filenames


@pytest.mark.parametrize("color_mode", ["rgb", "rgba", "grayscale"])
@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "lanczos"])
def test_colour_modes_and_resampling_are_the_originals(photos, color_mode, interpolation):
    ours, theirs = both(photos, color_mode=color_mode, interpolation=interpolation, shuffle=False)
    assert_same(batches(ours), batches(theirs))


def test_an_aspect_is_kept_as_the_original_keeps_it(photos):
    ours, theirs = both(photos, keep_aspect_ratio=True, shuffle=False, target_size=(10, 30))
    assert_same(batches(ours), batches(theirs))


def test_named_classes_keep_their_order_and_leave_the_others_out(photos):
    ours, theirs = both(photos, classes=["b", "a9"], shuffle=False)
    assert ours.class_indices == theirs.class_indices == {"b": 0, "a9": 1}
    assert ours.filenames == theirs.filenames


def test_sixteen_bit_grey_keeps_its_levels_as_in_the_original(tmp_path):
    (tmp_path / "photos" / "a").mkdir(parents=True)
    Image.fromarray(np.arange(400, dtype=np.uint16).reshape(20, 20) * 160).save(tmp_path / "photos/a/0.png")
    ours, theirs = both(tmp_path / "photos", color_mode="grayscale", target_size=(20, 20))
    assert ours[0][0].max() > 255
    assert_same(batches(ours), batches(theirs))


def test_shuffled_passes_hold_every_image_once_each_in_another_order(photos):
    ours, _ = both(photos, class_mode="sparse")
    found = []
    for _ in range(2):
        found.append(ours.index_array.tolist())
        labels = np.concatenate([y for _, y in batches(ours)])
        assert sorted(labels.tolist()) == sorted(ours.classes.tolist())
        ours.on_epoch_end()
    assert found[0] != found[1] and sorted(found[0]) == sorted(found[1]) == list(range(18))


def test_a_seed_repeats_everything_and_workers_change_nothing(photos):
    options = {"rotation_range": 30, "zoom_range": 0.3, "horizontal_flip": True}
    one, two = (both(photos, options)[0] for _ in range(2))
    forward = batches(one)
    backward = [two[number] for number in reversed(range(len(two)))][::-1]
    assert_same(forward, backward)
    other = both(photos, options, seed=4)[0]
    assert not np.array_equal(other[0][0], forward[0][0])


def test_next_goes_on_without_end_and_reset_begins_again(photos):
    ours, _ = both(photos, shuffle=False, class_mode=None)
    sizes = [len(next(ours)) for _ in range(6)]
    assert sizes == [5, 5, 5, 3, 5, 5]
    ours.reset()
    np.testing.assert_array_equal(next(ours), ours[0])
    assert next(iter(ours)).shape == (5, 12, 14, 3)
    assert [len(ours.next()) for _ in range(3)] == [5, 3, 5]


def test_a_second_flow_decodes_nothing(photos, monkeypatch):
    first, _ = both(photos, shuffle=False)
    expected = batches(first)
    monkeypatch.setattr("rightfit.keras2.pictures.load", lambda *_: pytest.fail("decoded again"))
    assert_same(batches(both(photos, shuffle=False)[0]), expected)


def test_without_room_for_the_cache_images_are_decoded_in_each_pass(photos, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RIGHTFIT_CACHE", str(tmp_path / "file"))
    ours, theirs = both(photos, shuffle=False)
    with pytest.warns(UserWarning, match="decoded in each epoch"):
        found = batches(ours)
    assert_same(found, batches(theirs))


def test_a_file_that_is_no_image_is_named_when_it_is_met(photos, tmp_path):
    (tmp_path / "photos" / "a").mkdir(parents=True)
    (tmp_path / "photos" / "a" / "broken.jpg").write_bytes(b"\xff\xd8\xff not more")
    flow = ImageDataGenerator().flow_from_directory(tmp_path / "photos")
    with pytest.raises(DataError, match=r"broken\.jpg cannot be read as an image.*rightfit check"):
        flow[0]


def test_an_empty_folder_is_no_images_and_a_missing_one_is_not_found(tmp_path, capsys):
    flow = ImageDataGenerator().flow_from_directory(tmp_path)
    assert capsys.readouterr().out == "Found 0 images belonging to 0 classes.\n" and len(flow) == 0
    with pytest.raises(FileNotFoundError):
        ImageDataGenerator().flow_from_directory(tmp_path / "gone")


@pytest.mark.parametrize(
    ("flow", "said"),
    [
        ({"class_mode": "many"}, "class_mode"),
        ({"color_mode": "cmyk"}, "color mode"),
        ({"interpolation": "magic"}, "interpolation"),
        ({"subset": "test"}, "subset"),
        ({"target_size": (0, 5)}, "target_size"),
        ({"target_size": 150}, "target_size"),
        ({"target_size": (150, 150, 3)}, "target_size"),
        ({"batch_size": 0}, "batch_size"),
    ],
)
def test_wrong_arguments_are_value_errors(photos, flow, said):
    with pytest.raises(ValueError, match=said):
        both(photos, **flow)


def test_what_is_yielded_is_saved_to_look_at(photos, tmp_path):
    ours, _ = both(photos, save_to_dir=str(tmp_path / "seen"), save_prefix="p", save_format="jpeg")
    ours[0]
    assert len(list((tmp_path / "seen").glob("p_*.jpeg"))) == 5


# Data frames ----------------------------------------------------------------------------------------


@pytest.fixture
def frame(photos):
    names = sorted(
        str(path.relative_to(photos)) for path in photos.rglob("*") if path.suffix.lower() in (".png", ".jpg")
    )
    return pd.DataFrame(
        {
            "filename": [*names, "gone.png"],
            "class": [name[0] for name in names] + ["b"],
            "size": np.arange(len(names) + 1) / 7,
            "weight": np.arange(len(names) + 1) % 3,
        }
    )


def both_frames(frame, photos, **flow):
    flow = {"target_size": (8, 8), "batch_size": 4, "shuffle": False} | flow
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return (
            ImageDataGenerator(validation_split=0.3).flow_from_dataframe(frame, photos, **flow),
            Original(validation_split=0.3).flow_from_dataframe(frame, str(photos), **flow),
        )


@pytest.mark.parametrize(
    "flow",
    [
        {},
        {"class_mode": "binary", "classes": ["b", "a"]},
        {"class_mode": "sparse", "weight_col": "weight"},
        {"class_mode": "raw", "y_col": "size"},
        {"class_mode": "raw", "y_col": ["size", "weight"]},
        {"class_mode": "multi_output", "y_col": ["size", "weight"]},
        {"class_mode": "input"},
        {"class_mode": None},
        {"classes": ["b"]},
        {"subset": "validation"},
        {"subset": "training"},
    ],
    ids=str,
)
def test_a_data_frame_gives_what_the_original_gives(frame, photos, flow, capfd):
    ours, theirs = both_frames(frame, photos, **flow)
    first, second = capfd.readouterr().out.splitlines()
    assert first == second
    assert ours.filenames == theirs.filenames
    assert getattr(ours, "class_indices", None) == getattr(theirs, "class_indices", None)
    assert_same(batches(ours), batches(theirs))


def test_rows_of_several_classes_are_multi_hot(frame, photos):
    frame["class"] = [["x", "y"] if number % 2 else ["y"] for number in range(len(frame))]
    assert_same(*(batches(flow) for flow in both_frames(frame, photos)))
    assert_same(*(batches(flow) for flow in both_frames(frame, photos, classes=["x"])))


def test_files_that_are_missing_are_left_out_and_counted(frame, photos):
    with pytest.warns(UserWarning, match="Found 1 invalid image filename"):
        ImageDataGenerator().flow_from_dataframe(frame, photos)


@pytest.mark.parametrize(
    ("flow", "kind"),
    [
        ({"x_col": "nowhere"}, KeyError),
        ({"class_mode": "multi_output", "y_col": "size"}, TypeError),
        ({"class_mode": "sparse", "y_col": "size"}, TypeError),
        ({"class_mode": "binary", "classes": ["a"]}, ValueError),
        ({"weight_col": "class"}, TypeError),
        ({"x_col": "size"}, TypeError),
    ],
    ids=str,
)
def test_what_is_wrong_with_a_data_frame_has_the_originals_type(frame, photos, flow, kind):
    for generator in (ImageDataGenerator(), Original()):
        with pytest.raises(kind):
            generator.flow_from_dataframe(frame, str(photos), **flow)


# Arrays ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "flow",
    [
        {},
        {"sample_weight": np.arange(10) / 10},
        {"subset": "validation", "ignore_class_split": True},
        {"subset": "training"},
    ],
    ids=str,
)
def test_arrays_give_what_the_original_gives(flow):
    x = np.random.default_rng(0).integers(0, 256, (10, 6, 5, 3)).astype("float32")
    y = np.tile([0, 1], 5)
    options = {"validation_split": 0.2, "rescale": 1 / 255}
    ours = ImageDataGenerator(**options).flow(x, y, batch_size=4, shuffle=False, **flow)
    theirs = Original(**options).flow(x, y, batch_size=4, shuffle=False, **flow)
    assert_same(batches(ours), batches(theirs), atol=1e-6)


def test_batches_are_of_the_generators_type_whatever_a_function_returns():
    x = np.ones((3, 4, 4, 3), np.uint8)
    for dtype in ("float32", "float16"):
        options = {"preprocessing_function": lambda image: image.astype("float64") / 2, "dtype": dtype}
        ours, theirs = (kind(**options).flow(x, batch_size=3)[0] for kind in (ImageDataGenerator, Original))
        assert ours.dtype == theirs.dtype == np.dtype(dtype)


def test_arrays_beside_the_images_go_along():
    x, others = np.zeros((6, 4, 4, 1), np.uint8), np.arange(6)
    (images, beside), labels = ImageDataGenerator().flow(
        (x, others), np.arange(6) * 10, batch_size=6, seed=1
    )[0]
    assert images.dtype == np.float32 and (beside * 10 == labels).all() and sorted(beside) == list(range(6))


@pytest.mark.parametrize(
    ("x", "y", "flow", "said"),
    [
        (np.zeros((4, 5, 5)), None, {}, "rank 4"),
        (np.zeros((4, 5, 5, 3)), np.zeros(3), {}, "same length"),
        (
            np.zeros((4, 5, 5, 3)),
            np.array([0, 0, 1, 1]),
            {"subset": "training"},
            "different number of classes",
        ),
    ],
)
def test_arrays_that_do_not_fit_are_refused(x, y, flow, said):
    with pytest.raises(ValueError, match=said):
        ImageDataGenerator(validation_split=0.5).flow(x, y, **flow)
