"""Every transform is the original's within a grey level: tf-keras' ImageDataGenerator, image by image."""

import warnings

import numpy as np
import pytest

from rightfit.keras2 import ImageDataGenerator

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from tf_keras.preprocessing.image import ImageDataGenerator as Original

# The original calls SciPy by a name of its own time.
pytestmark = pytest.mark.filterwarnings("ignore:Please import `affine_transform`:DeprecationWarning")

GREY_LEVEL = 1.0


@pytest.fixture(scope="module")
def image():
    """(37, 50, 3), every value 0..255: noise is the hardest picture to interpolate."""
    return np.random.default_rng(0).integers(0, 256, (37, 50, 3)).astype("float32")


MOVES = {
    "rotation": {"theta": 33.0},
    "shift": {"tx": 5.5, "ty": -7.25},
    "far shift": {"tx": -60.0, "ty": 75.0},
    "shear": {"shear": 21.0},
    "zoom in": {"zx": 0.7, "zy": 0.6},
    "zoom out": {"zx": 1.9, "zy": 2.4},
    "all": {"theta": -70.0, "tx": 3.2, "ty": 9.9, "shear": -12.0, "zx": 1.3, "zy": 0.8},
}


@pytest.mark.parametrize("fill_mode", ["nearest", "constant", "reflect", "wrap"])
@pytest.mark.parametrize("move", MOVES)
def test_affine_maps_are_the_originals(image, fill_mode, move):
    options = {"fill_mode": fill_mode, "cval": 77.0}
    expected = Original(**options).apply_transform(image.copy(), MOVES[move])
    found = ImageDataGenerator(**options).apply_transform(image.copy(), MOVES[move])
    assert found.shape == expected.shape and found.dtype == expected.dtype
    # Where a place falls on the very edge, rounding decides on which side of it.
    apart = np.abs(found - expected).max(axis=-1)
    assert (apart > GREY_LEVEL).mean() < 0.002
    assert apart[apart <= GREY_LEVEL].max() < 0.05


@pytest.mark.parametrize("channels", [2, 5])
@pytest.mark.parametrize("fill_mode", ["nearest", "constant", "wrap"])
def test_any_number_of_channels_is_mapped_as_one_is(image, channels, fill_mode):
    picture = np.concatenate([image, image / 2], axis=-1)[..., :channels]
    generator = ImageDataGenerator(fill_mode=fill_mode)
    found = generator.apply_transform(picture, MOVES["all"])
    for channel in range(channels):
        alone = generator.apply_transform(picture[..., channel : channel + 1], MOVES["all"])
        np.testing.assert_array_equal(found[..., channel], alone[..., 0])


@pytest.mark.parametrize("order", [0, 3])
def test_other_orders_of_interpolation_are_the_originals(image, order):
    expected = Original(interpolation_order=order).apply_transform(image.copy(), MOVES["all"])
    found = ImageDataGenerator(interpolation_order=order).apply_transform(image.copy(), MOVES["all"])
    np.testing.assert_allclose(found, expected, rtol=0, atol=0.05)


@pytest.mark.parametrize(
    "change",
    [
        {"channel_shift_intensity": 40.0},
        {"brightness": 0.4},
        {"brightness": 1.7},
        {"flip_horizontal": True},
        {"flip_vertical": True},
        {"flip_horizontal": True, "brightness": 1.2, "channel_shift_intensity": -30.0, "theta": 10.0},
    ],
)
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_colours_and_flips_are_the_originals(image, change, channels):
    picture = np.concatenate([image, image[..., :1] / 2], axis=-1)[..., :channels]
    expected = Original().apply_transform(picture.copy(), change)
    found = ImageDataGenerator().apply_transform(picture.copy(), change)
    np.testing.assert_allclose(found, expected, rtol=0, atol=GREY_LEVEL)


def test_brightness_of_values_beyond_the_grey_levels_is_the_originals(image):
    wide = image * 3 - 200
    expected = Original().apply_transform(wide.copy(), {"brightness": 0.6})
    found = ImageDataGenerator().apply_transform(wide.copy(), {"brightness": 0.6})
    np.testing.assert_allclose(
        found, expected, rtol=0, atol=3 * GREY_LEVEL
    )  # a level is three of them wide here


RANDOM = {
    "rotation_range": 40,
    "width_shift_range": 0.2,
    "height_shift_range": [-3, 2, 5],
    "shear_range": 15.0,
    "zoom_range": (0.8, 1.3),
    "channel_shift_range": 20.0,
    "brightness_range": (0.5, 1.5),
    "horizontal_flip": True,
    "vertical_flip": True,
}


@pytest.mark.parametrize("left_out", ["", "height_shift_range", "zoom_range", "brightness_range"])
def test_a_seed_draws_what_the_original_draws(left_out):
    options = {name: value for name, value in RANDOM.items() if name != left_out}
    for seed in range(5):
        expected = Original(**options).get_random_transform((37, 50, 3), seed)
        found = ImageDataGenerator(**options).get_random_transform((37, 50, 3), seed)
        assert found == pytest.approx(expected)


def test_without_a_seed_numpys_own_is_followed(image):
    ours, theirs = ImageDataGenerator(**RANDOM), Original(**RANDOM)
    drawn, means = [], []
    for generator in (ours, theirs, ours):
        np.random.seed(7)  # noqa: NPY002  (what old scripts call)
        drawn.append([generator.get_random_transform((37, 50, 3)) for _ in range(2)])
    for generator in (ImageDataGenerator(True, horizontal_flip=True, rotation_range=90) for _ in range(2)):
        np.random.seed(7)  # noqa: NPY002
        generator.fit(image[None], augment=True)
        means.append(generator.mean)
    assert drawn[0] == drawn[2] and drawn[0][0] != drawn[0][1]
    assert all(one == pytest.approx(other) for one, other in zip(drawn[0], drawn[1], strict=True))
    np.testing.assert_array_equal(*means)


def test_a_shear_that_was_meant_in_radians_is_said():
    with pytest.warns(UserWarning, match=r"shear_range=11\.5 here"):
        ImageDataGenerator(shear_range=0.2)


def test_channels_first_is_the_same_picture(image):
    first = ImageDataGenerator(data_format="channels_first", fill_mode="reflect")
    last = ImageDataGenerator(fill_mode="reflect")
    found = first.apply_transform(image.transpose(2, 0, 1), MOVES["all"])
    np.testing.assert_array_equal(found.transpose(1, 2, 0), last.apply_transform(image, MOVES["all"]))
    assert ImageDataGenerator(dim_ordering="th").data_format == "channels_first"


@pytest.mark.parametrize(
    "options",
    [
        {"rescale": 1 / 255},
        {"samplewise_center": True, "samplewise_std_normalization": True},
        {"featurewise_center": True, "featurewise_std_normalization": True, "rescale": 1 / 255},
        {"featurewise_center": True, "zca_whitening": True},
        {"preprocessing_function": lambda x: x[..., ::-1] - 100.0},
    ],
)
def test_normalisation_is_the_originals(options):
    images = np.random.default_rng(1).integers(0, 256, (12, 6, 6, 3)).astype("float32")
    theirs, ours = Original(**options), ImageDataGenerator(**options)
    theirs.fit(images)
    ours.fit(images)
    for image in images[:3]:
        np.testing.assert_allclose(
            ours.standardize(image.copy()), theirs.standardize(image.copy()), rtol=1e-4, atol=1e-4
        )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"validation_split": 1.5}, "validation_split"),
        ({"zoom_range": (1, 2, 3)}, "zoom_range"),
        ({"brightness_range": 0.2}, "brightness_range"),
        ({"fill_mode": "mirror"}, "fill_mode"),
        ({"data_format": "NCHW"}, "data_format"),
    ],
)
def test_wrong_arguments_are_refused_by_name(options, said):
    with pytest.raises(ValueError, match=said):
        ImageDataGenerator(**options)


def test_what_implies_another_setting_says_so():
    with pytest.warns(UserWarning, match="`samplewise_std_normalization`, which overrides"):
        assert ImageDataGenerator(samplewise_std_normalization=True).samplewise_center
    generator = ImageDataGenerator(featurewise_center=True)
    with pytest.warns(UserWarning, match="hasn't been fit"):
        generator.standardize(np.ones((2, 2, 3), "float32"))
