"""Keras 2's ImageDataGenerator: random transforms and normalisation of images, and where the images come from."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
from keras import config
from numpy.typing import NDArray

from rightfit.keras2 import transforms
from rightfit.keras2.iterators import DataFrameIterator, DirectoryIterator, NumpyArrayIterator

UNFITTED = (
    "This ImageDataGenerator specifies `{}`, but it hasn't been fit on any training data. Fit it first by "
)
UNFITTED += "calling `.fit(numpy_data)`."


class ImageDataGenerator:
    """All arguments, methods and definitions of `keras.preprocessing.image.ImageDataGenerator` of Keras 2.

    rotation_range and shear_range in degrees; width_shift_range and height_shift_range as a share of the side
    below 1, in pixels from 1 on, or a list of pixels to choose from; zoom_range as z for 1-z..1+z or (low,
    high); channel_shift_range in grey levels; brightness_range (low, high) as factors; fill_mode one of
    constant, nearest, reflect, wrap; `validation_split` the first share of each class. `dim_ordering` is Keras
    1's name for data_format: "tf" or "th".

    Differs on purpose: what is random follows from (seed, pass, place) and not from NumPy's global state, so it
    is the same with any number of workers. Every difference is in docs/how-to/old-scripts.md.
    """

    def __init__(
        self,
        featurewise_center: bool = False,
        samplewise_center: bool = False,
        featurewise_std_normalization: bool = False,
        samplewise_std_normalization: bool = False,
        zca_whitening: bool = False,
        zca_epsilon: float = 1e-6,
        rotation_range: float = 0,
        width_shift_range: Any = 0.0,
        height_shift_range: Any = 0.0,
        brightness_range: Any = None,
        shear_range: float = 0.0,
        zoom_range: Any = 0.0,
        channel_shift_range: float = 0.0,
        fill_mode: str = "nearest",
        cval: float = 0.0,
        horizontal_flip: bool = False,
        vertical_flip: bool = False,
        rescale: float | None = None,
        preprocessing_function: Any = None,
        data_format: str | None = None,
        validation_split: float = 0.0,
        interpolation_order: int = 1,
        dtype: str | None = None,
        dim_ordering: str | None = None,
    ) -> None:
        self.featurewise_center = featurewise_center
        self.samplewise_center = samplewise_center
        self.featurewise_std_normalization = featurewise_std_normalization
        self.samplewise_std_normalization = samplewise_std_normalization
        self.zca_whitening = zca_whitening
        self.zca_epsilon = zca_epsilon
        self.rotation_range = rotation_range
        self.width_shift_range = width_shift_range
        self.height_shift_range = height_shift_range
        self.brightness_range = brightness_range
        self.shear_range = shear_range
        single = isinstance(zoom_range, (int, float))
        self.zoom_range: list[float] = [1 - zoom_range, 1 + zoom_range] if single else list(zoom_range)
        self.channel_shift_range = channel_shift_range
        self.fill_mode = fill_mode
        self.cval = cval
        self.horizontal_flip = horizontal_flip
        self.vertical_flip = vertical_flip
        self.rescale = rescale
        self.preprocessing_function = preprocessing_function
        if dim_ordering is not None:
            data_format = {"tf": "channels_last", "th": "channels_first"}.get(dim_ordering, dim_ordering)
        self.data_format = data_format or config.image_data_format()
        self.validation_split = validation_split
        self.interpolation_order = interpolation_order
        self.dtype = dtype or config.floatx()
        self.mean: NDArray[Any] | None = None
        self.std: NDArray[Any] | None = None
        self.zca_whitening_matrix: NDArray[Any] | None = None
        self._check()
        self._imply("zca_whitening", "featurewise_center", True)
        self._imply("zca_whitening", "featurewise_std_normalization", False)
        self._imply("featurewise_std_normalization", "featurewise_center", True)
        self._imply("samplewise_std_normalization", "samplewise_center", True)

    def _check(self) -> None:
        if self.data_format not in ("channels_last", "channels_first"):
            raise ValueError(
                f"`data_format` is channels_last or channels_first. Received: {self.data_format}"
            )
        if self.validation_split and not 0 < self.validation_split < 1:
            raise ValueError(
                f"`validation_split` must be strictly between 0 and 1. Received: {self.validation_split}"
            )
        if len(self.zoom_range) != 2 or not all(isinstance(v, (int, float)) for v in self.zoom_range):
            raise ValueError(f"`zoom_range` should be a float or two floats. Received: {self.zoom_range}")
        if self.brightness_range is not None and (
            not isinstance(self.brightness_range, (tuple, list)) or len(self.brightness_range) != 2
        ):
            raise ValueError(f"`brightness_range` should be two floats. Received: {self.brightness_range}")
        if self.fill_mode not in transforms.FILL_MODES:
            raise ValueError(
                f"`fill_mode` is one of {', '.join(transforms.FILL_MODES)}. Received: {self.fill_mode}"
            )

        if 0 < self.shear_range < 1:
            warnings.warn(
                f"`shear_range` is in degrees. Keras 1 and early Keras 2 took radians: if {self.shear_range} is of a "
                f"script of theirs, it is shear_range={math.degrees(self.shear_range):.3g} here",
                stacklevel=3,
            )

    def _imply(self, given: str, implied: str, value: bool) -> None:
        if getattr(self, given) and getattr(self, implied) is not value:
            setattr(self, implied, value)
            warnings.warn(
                f"This ImageDataGenerator specifies `{given}`, which overrides setting of `{implied}`.",
                stacklevel=4,
            )

    @property
    def is_random(self) -> bool:
        """Whether any transform is asked for."""
        ranges = (self.rotation_range, self.shear_range, self.channel_shift_range)
        shifts = (self.width_shift_range, self.height_shift_range)
        return bool(
            any(ranges)
            or any(np.any(shift) for shift in shifts)
            or self.zoom_range != [1, 1]
            or self.brightness_range is not None
            or self.horizontal_flip
            or self.vertical_flip
        )

    @property
    def is_of_each_image(self) -> bool:
        """Whether normalisation looks at one image at a time; else a whole batch is done at once."""
        return bool(
            self.preprocessing_function or self.samplewise_center or self.samplewise_std_normalization
        )

    # Where images come from -------------------------------------------------------------------------

    def flow(
        self,
        x: Any,
        y: Any = None,
        batch_size: int = 32,
        shuffle: bool = True,
        sample_weight: Any = None,
        seed: int | None = None,
        save_to_dir: str | None = None,
        save_prefix: str = "",
        save_format: str = "png",
        ignore_class_split: bool = False,
        subset: str | None = None,
    ) -> NumpyArrayIterator:
        """Batches of arrays: x (N, H, W, C), or (x, others) whose rows go along; y (N, ...)."""
        options = dict(locals())
        del options["self"]
        return NumpyArrayIterator(self, **options)

    def flow_from_directory(
        self,
        directory: Any,
        target_size: tuple[int, int] = (256, 256),
        color_mode: str = "rgb",
        classes: list[str] | None = None,
        class_mode: str | None = "categorical",
        batch_size: int = 32,
        shuffle: bool = True,
        seed: int | None = None,
        save_to_dir: str | None = None,
        save_prefix: str = "",
        save_format: str = "png",
        follow_links: bool = False,
        subset: str | None = None,
        interpolation: str = "nearest",
        keep_aspect_ratio: bool = False,
    ) -> DirectoryIterator:
        """Batches of the images in the class folders of `directory`, (B, *target_size, C) and their labels."""
        options = dict(locals())
        del options["self"]
        return DirectoryIterator(self, **options)

    def flow_from_dataframe(
        self,
        dataframe: Any,
        directory: Any = None,
        x_col: str = "filename",
        y_col: Any = "class",
        weight_col: str | None = None,
        target_size: tuple[int, int] = (256, 256),
        color_mode: str = "rgb",
        classes: list[str] | None = None,
        class_mode: str | None = "categorical",
        batch_size: int = 32,
        shuffle: bool = True,
        seed: int | None = None,
        save_to_dir: str | None = None,
        save_prefix: str = "",
        save_format: str = "png",
        subset: str | None = None,
        interpolation: str = "nearest",
        validate_filenames: bool = True,
        keep_aspect_ratio: bool = False,
    ) -> DataFrameIterator:
        """Batches of the images that a data frame names in `x_col`, with labels from `y_col`."""
        options = dict(locals())
        del options["self"]
        return DataFrameIterator(self, **options)

    # One image --------------------------------------------------------------------------------------

    def get_random_transform(self, img_shape: tuple[int, ...], seed: int | None = None) -> dict[str, Any]:
        """Parameters for `apply_transform`, those that Keras 2 draws: with the seed, or of NumPy's global state."""
        return self.drawn(img_shape, _random(seed))

    def drawn(self, img_shape: tuple[int, ...], random: Any) -> dict[str, Any]:
        """The parameters from `random`, drawn in Keras 2's order."""
        rows, columns = img_shape[:2] if self.data_format == "channels_last" else img_shape[1:3]
        theta = random.uniform(-self.rotation_range, self.rotation_range) if self.rotation_range else 0
        tx = _shift(self.height_shift_range, rows, random)
        ty = _shift(self.width_shift_range, columns, random)
        shear = random.uniform(-self.shear_range, self.shear_range) if self.shear_range else 0
        zx, zy = (
            (1, 1) if self.zoom_range == [1, 1] else random.uniform(self.zoom_range[0], self.zoom_range[1], 2)
        )
        horizontal = (random.random_sample() < 0.5) * self.horizontal_flip
        vertical = (random.random_sample() < 0.5) * self.vertical_flip
        shift, light = self.channel_shift_range, self.brightness_range
        return {
            "theta": theta,
            "tx": tx,
            "ty": ty,
            "shear": shear,
            "zx": zx,
            "zy": zy,
            "flip_horizontal": horizontal,
            "flip_vertical": vertical,
            "channel_shift_intensity": random.uniform(-shift, shift) if shift else None,
            "brightness": None if light is None else random.uniform(light[0], light[1]),
        }

    def apply_transform(self, x: NDArray[Any], transform_parameters: dict[str, Any]) -> NDArray[Any]:
        """One image, transformed: the same shape; `transform_parameters` as of `get_random_transform`."""
        given = transform_parameters
        image = np.asarray(x, np.float32)
        if self.data_format == "channels_first":
            image = np.moveaxis(image, 0, -1)
        image = np.ascontiguousarray(image)
        affine = (given.get(name, default) for name, default in AS_IT_IS.items())
        matrix = transforms.affine_matrix(*image.shape[:2], *affine)
        if matrix is not None:
            image = transforms.affine(image, matrix, self.fill_mode, self.cval, self.interpolation_order)
        if given.get("channel_shift_intensity") is not None:
            image = transforms.channel_shift(image, given["channel_shift_intensity"])
        image = transforms.flipped(
            image, bool(given.get("flip_horizontal")), bool(given.get("flip_vertical"))
        )
        if given.get("brightness") is not None:
            image = transforms.brightness_shift(image, given["brightness"])
        image = np.moveaxis(image, -1, 0) if self.data_format == "channels_first" else image
        return image.astype(self.dtype, copy=False)

    def random_transform(self, x: NDArray[Any], seed: int | None = None) -> NDArray[Any]:
        """One image, randomly transformed."""
        return self.apply_transform(x, self.get_random_transform(x.shape, seed))

    def standardize(self, x: NDArray[Any]) -> NDArray[Any]:
        """One image or a batch of float, normalised as asked, in place where that can be."""
        if self.preprocessing_function:
            x = self.preprocessing_function(x)
        if self.rescale:
            x *= self.rescale
        if self.samplewise_center:
            x -= np.mean(x, keepdims=True)
        if self.samplewise_std_normalization:
            x /= np.std(x, keepdims=True) + 1e-6
        if self.featurewise_center and (mean := _fitted(self.mean, "featurewise_center")) is not None:
            x -= mean
        if self.featurewise_std_normalization:
            std = _fitted(self.std, "featurewise_std_normalization")
            x /= 1 if std is None else std + 1e-6
        if self.zca_whitening:
            matrix = _fitted(self.zca_whitening_matrix, "zca_whitening")
            if matrix is not None:
                x = (x.reshape(-1, math.prod(x.shape[-3:])) @ matrix).reshape(x.shape)
        return x

    def fit(self, x: Any, augment: bool = False, rounds: int = 1, seed: int | None = None) -> None:
        """Mean, deviation and whitening matrix of x (N, H, W, C); with `augment` of `rounds` transforms of it."""
        x = np.array(x, dtype=self.dtype)
        if x.ndim != 4:
            raise ValueError(f"Input to `.fit()` should have rank 4. Got array with shape: {x.shape}")
        if self.rescale:
            x *= self.rescale
        if augment:
            random = _random(seed)
            images = [image for _ in range(rounds) for image in x]
            x = np.stack([self.apply_transform(image, self.drawn(image.shape, random)) for image in images])
        channels = 3 if self.data_format == "channels_last" else 1
        others = tuple(axis for axis in range(4) if axis != channels)
        if self.featurewise_center:
            self.mean = np.mean(x, axis=others, keepdims=True)[0]
            x -= self.mean
        if self.featurewise_std_normalization:
            self.std = np.std(x, axis=others, keepdims=True)[0]
            x /= self.std + 1e-6
        if self.zca_whitening:
            u, s, _ = np.linalg.svd(x.reshape(len(x), -1).T, full_matrices=False)
            self.zca_whitening_matrix = (u * (np.sqrt(len(x)) / (s + self.zca_epsilon))) @ u.T


def _fitted(statistic: NDArray[Any] | None, name: str) -> NDArray[Any] | None:
    if statistic is None:
        warnings.warn(UNFITTED.format(name), stacklevel=3)
    return statistic


AS_IT_IS = {"theta": 0, "tx": 0, "ty": 0, "shear": 0, "zx": 1, "zy": 1}


def _random(seed: int | None) -> Any:
    """A RandomState of the seed, or NumPy's global one."""
    return np.random if seed is None else np.random.RandomState(seed)


def _shift(asked: Any, length: int, random: Any) -> float:
    """In pixels; `asked` is a share below 1, pixels, or a list of them to choose from."""
    if not np.any(asked):
        return 0
    try:
        shift = random.choice(asked) * random.choice([-1, 1])
    except ValueError:  # no list and no whole number
        shift = random.uniform(-asked, asked)
    return float(shift * length if np.max(asked) < 1 else shift)
