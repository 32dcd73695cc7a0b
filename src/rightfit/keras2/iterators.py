"""What ImageDataGenerator's flows return: endless iterators of batches, and Keras' PyDataset for `fit`.

Batch k of pass p is a pure function of (seed, p, k): the order of pass p is one permutation, and each image's
transform follows from the batch's place. So any number of workers gives the same batches.
"""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
from numpy.typing import NDArray

from rightfit.keras2 import folders, frames
from rightfit.keras2.pictures import KerasSpec, Pictures
from rightfit.runtime import cpu_count

if TYPE_CHECKING:
    from rightfit.keras2.image_data_generator import ImageDataGenerator

ORDER, TRANSFORM = 0, 1  # streams of random numbers
PARTS = ("categorical", "binary", "sparse", "input", None)
_POOL = ThreadPoolExecutor(cpu_count(), thread_name_prefix="ImageDataGenerator")


class Iterator(keras.utils.PyDataset):
    """n images in batches: by number, `next` or a `for` without end; `reset()` begins again."""

    white_list_formats = folders.SUFFIXES

    def __init__(
        self, generator: ImageDataGenerator, n: int, batch_size: int, shuffle: bool, seed: int | None
    ) -> None:
        super().__init__(workers=2)  # so that Keras makes a batch while it trains on another
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1. Received: {batch_size}")
        self.image_data_generator = generator
        self.n = self.samples = n
        self.batch_size, self.shuffle, self.seed = batch_size, shuffle, seed
        self.batch_index = 0
        self.total_batches_seen = 0
        self.served = 0  # batches of this pass and those after it that `fit_generator` has taken in steps
        self.lock = threading.RLock()
        drawn = np.random.randint(2**31) if seed is None else seed  # noqa: NPY002  (follows np.random.seed, as in Keras 2)
        self._coordinate = int(drawn)
        self._passes = 0
        self._begun = False

    def __len__(self) -> int:
        return -(-self.n // self.batch_size)

    def __getitem__(self, index: int) -> Any:
        """Batch `index` of the pass that goes on."""
        if not -len(self) <= index < len(self):
            raise ValueError(f"Asked to retrieve element {index}, but the Sequence has length {len(self)}")
        return self.batch(0, index % len(self))

    def __iter__(self) -> Iterator:
        return self

    def __next__(self) -> Any:
        with self.lock:
            if self.batch_index == 0 and self._begun:
                self.on_epoch_end()
            self._begun = True
            place = self.batch_index
            self.batch_index = (place + 1) % max(len(self), 1)
            number = self._passes
        if not self.n:
            raise StopIteration
        return self._batch_of(number, place)

    next = __next__

    def batch(self, ahead: int, place: int) -> Any:
        """Batch `place` of the pass that is `ahead` passes after the one that goes on."""
        return self._batch_of(self._passes + ahead, place)

    def _batch_of(self, number: int, place: int) -> Any:
        self.total_batches_seen += 1
        start = place * self.batch_size
        return self._batch(self._order(number)[start : start + self.batch_size], number, start)

    @property
    def index_array(self) -> NDArray[np.int64]:
        """(n,) the images' numbers in the order of this pass."""
        return self._order(self._passes)

    def _order(self, number: int) -> NDArray[np.int64]:
        if not self.shuffle:
            return np.arange(self.n)
        return np.random.default_rng([self._coordinate, ORDER, number]).permutation(self.n)

    def on_epoch_end(self) -> None:
        with self.lock:
            self._passes += 1

    def reset(self) -> None:
        """`next` begins a pass, and so does `fit_generator`."""
        self.batch_index = 0
        self.served = 0

    @property
    def nb_sample(self) -> int:
        """Keras 1's name."""
        return self.n

    def _batch(self, rows: NDArray[np.int64], number: int, start: int) -> Any:
        raise NotImplementedError  # abstract: each kind of flow has its own; a PyDataset cannot be an ABC as well

    def _finished(self, images: Any, number: int, start: int) -> NDArray[Any]:
        """Images (B, H, W, C) of a batch, or a list of them -> transformed, normalised, in the generator's order of
        axes and type."""
        generator = self.image_data_generator
        batch: NDArray[Any] = np.asarray(images).astype(generator.dtype)
        if generator.data_format == "channels_first":
            batch = np.ascontiguousarray(np.moveaxis(batch, -1, 1))
        if generator.is_random:
            coordinates = np.random.SeedSequence([self._coordinate, TRANSFORM, number, start])
            random = np.random.RandomState(np.random.MT19937(coordinates))
            drawn = [generator.drawn(batch.shape[1:], random) for _ in batch]

            def transform(place: int) -> None:
                batch[place] = generator.apply_transform(batch[place], drawn[place])

            list(_POOL.map(transform, range(len(batch))))
        if generator.is_of_each_image:
            batch = np.stack([generator.standardize(image) for image in batch])
        else:
            batch = generator.standardize(batch)
        return batch.astype(generator.dtype, copy=False)


class _Saving:
    """Writes what is yielded into a folder, to look at."""

    def __init__(self, folder: str | None, prefix: str, kind: str, data_format: str) -> None:
        self.folder, self.prefix, self.kind, self.data_format = folder, prefix, kind, data_format

    def save(self, batch: NDArray[Any], rows: NDArray[np.int64], number: int, start: int) -> None:
        if self.folder is None:
            return
        os.makedirs(self.folder, exist_ok=True)
        for place, (image, row) in enumerate(zip(batch, rows, strict=True)):
            name = f"{self.prefix}_{row}_{number}-{start + place}.{self.kind}"
            keras.utils.save_img(os.path.join(self.folder, name), image, data_format=self.data_format)


class _FromFiles(Iterator):
    """Images from files through the store; what its two kinds do not share is how files and labels are found."""

    filenames: list[str]
    sample_weight: NDArray[Any] | None = None
    labels: Any

    def __init__(
        self, generator: ImageDataGenerator, directory: str, found: list[str], options: dict[str, Any]
    ) -> None:
        size = options["target_size"]
        if np.shape(size) != (2,):
            raise ValueError(f"target_size is (height, width) in pixels, not {size}")
        spec = KerasSpec(
            int(size[0]),
            int(size[1]),
            options["color_mode"],
            options["interpolation"],
            options["keep_aspect_ratio"],
        )
        self.filenames = found
        self.filepaths = [os.path.join(directory, name) for name in found]
        self.directory, self.class_mode, self.subset = directory, options["class_mode"], options["subset"]
        self.target_size, self.color_mode = (spec.height, spec.width), spec.color_mode
        self.interpolation, self.data_format = spec.interpolation, generator.data_format
        self.dtype = generator.dtype
        rows, columns, channels = spec.shape
        first = self.data_format == "channels_first"
        self.image_shape = (channels, rows, columns) if first else spec.shape
        self._pictures = Pictures(self.filepaths, spec, os.path.abspath(directory or "."))
        self._saving = _Saving(
            options["save_to_dir"], options["save_prefix"], options["save_format"], self.data_format
        )
        super().__init__(generator, len(found), options["batch_size"], options["shuffle"], options["seed"])

    def _batch(self, rows: NDArray[np.int64], number: int, start: int) -> Any:
        images = self._pictures.gather(rows, _POOL)
        batch = self._finished(images, number, start)
        self._saving.save(batch, rows, number, start)
        if self.class_mode is None:
            return batch
        targets = batch.copy() if self.class_mode == "input" else self._targets(rows)
        if self.sample_weight is None:
            return batch, targets
        return batch, targets, self.sample_weight[rows]

    def _targets(self, rows: NDArray[np.int64]) -> Any:
        raise NotImplementedError


class DirectoryIterator(_FromFiles):
    """Images in class folders."""

    allowed_class_modes = PARTS

    def __init__(self, generator: ImageDataGenerator, directory: Any, **options: Any) -> None:
        directory = os.fspath(directory)
        if options["class_mode"] not in PARTS:
            raise ValueError(f"Invalid class_mode: {options['class_mode']}; expected one of: {PARTS}")
        part = folders.part_of(options["subset"], generator.validation_split)
        names = list(options["classes"] or folders.class_names(directory))
        found = [folders.filenames(directory, name, options["follow_links"], part) for name in names]
        self.class_indices = {name: number for number, name in enumerate(names)}
        self.num_classes = self.nb_class = len(names)
        self.classes = np.repeat(np.arange(len(names), dtype=np.int32), [len(files) for files in found])
        self.labels = self.classes
        super().__init__(generator, directory, [name for files in found for name in files], options)
        print(f"Found {self.samples} images belonging to {self.num_classes} classes.")

    def _targets(self, rows: NDArray[np.int64]) -> Any:
        return frames.encoded(self.classes[rows], self.num_classes, self.class_mode, self.dtype)


class DataFrameIterator(_FromFiles):
    """Images that a data frame names."""

    allowed_class_modes = (*PARTS, "multi_output", "raw")

    def __init__(self, generator: ImageDataGenerator, dataframe: Any, **options: Any) -> None:
        directory = os.fspath(options["directory"] or "")
        options["class_mode"] = "raw" if options["class_mode"] == "other" else options["class_mode"]
        part = folders.part_of(options["subset"], generator.validation_split)
        taken = frames.taken(dataframe, directory, options, self.allowed_class_modes, part)
        self.labels = taken.labels
        if taken.classes is not None:
            self.class_indices = {name: number for number, name in enumerate(taken.classes)}
            self.num_classes, self.classes = len(taken.classes), taken.labels
        self.sample_weight = taken.weights
        super().__init__(generator, directory, taken.filenames, options)
        validated = "validated" if options["validate_filenames"] else "non-validated"
        belonging = "." if taken.classes is None else f" belonging to {self.num_classes} classes."
        print(f"Found {self.samples} {validated} image filenames{belonging}")

    def _targets(self, rows: NDArray[np.int64]) -> Any:
        if self.class_mode == "multi_output":
            return tuple(column[rows] for column in self.labels)
        if self.class_mode == "raw":
            return self.labels[rows]
        labels = [self.classes[row] for row in rows.tolist()]
        return frames.encoded(labels, self.num_classes, self.class_mode, self.dtype)


class NumpyArrayIterator(Iterator):
    """Images in an array."""

    def __init__(
        self,
        generator: ImageDataGenerator,
        x: Any,
        y: Any,
        batch_size: int,
        shuffle: bool,
        sample_weight: Any,
        seed: int | None,
        save_to_dir: str | None,
        save_prefix: str,
        save_format: str,
        ignore_class_split: bool,
        subset: str | None,
    ) -> None:
        others: list[Any] = []
        if isinstance(x, (tuple, list)):
            x, more = x
            others = [np.asarray(each) for each in (more if isinstance(more, list) else [more])]
        x = np.asarray(x)
        y = None if y is None else np.asarray(y)
        weights = None if sample_weight is None else np.asarray(sample_weight)
        if x.ndim != 4:
            raise ValueError(f"Input data should have rank 4. You passed an array with shape {x.shape}")
        for name, each in (("x's others", others), ("y", [y]), ("sample_weight", [weights])):
            for array in each:
                if array is not None and len(array) != len(x):
                    raise ValueError(
                        f"`x` (images) and `{name}` should have the same length. Found: {len(x)} and {len(array)}"
                    )
        part = folders.part_of(subset, generator.validation_split)
        if part is not None:
            here, edge = folders.slice_of(len(x), part), int(len(x) * generator.validation_split)
            if y is not None and not ignore_class_split and not _same_classes(y[:edge], y[edge:]):
                raise ValueError(
                    "Training and validation subsets have different number of classes after the split. If your "
                    "numpy arrays are sorted by the label, you might want to shuffle them."
                )
            x, others = x[here], [array[here] for array in others]
            y, weights = (None if array is None else array[here] for array in (y, weights))
        self.x, self.x_misc, self.y, self.sample_weight = x, others, y, weights
        self._saving = _Saving(save_to_dir, save_prefix, save_format, generator.data_format)
        super().__init__(generator, len(x), batch_size, shuffle, seed)

    def _batch(self, rows: NDArray[np.int64], number: int, start: int) -> Any:
        images = list(self.x[rows])
        if self.image_data_generator.data_format == "channels_first":
            images = [np.moveaxis(image, 0, -1) for image in images]
        batch: Any = self._finished(images, number, start)
        self._saving.save(batch, rows, number, start)
        if self.x_misc:
            batch = (batch, *(array[rows] for array in self.x_misc))
        if self.y is None:
            return batch
        parts = (batch, self.y[rows])
        return parts if self.sample_weight is None else (*parts, self.sample_weight[rows])


def _same_classes(first: NDArray[Any], second: NDArray[Any]) -> bool:
    return np.array_equal(np.unique(first), np.unique(second))
