"""The door for scripts of Keras 1 and 2: import from here what they imported from keras, and leave the rest.

from rightfit.keras2 import ImageDataGenerator, SGD, load_model, model_from_json, model_from_yaml

ImageDataGenerator reads folders through rightfit's store of decoded images. Importing this module also gives
keras.Model what it had in Keras 2 and lacks in 3: `rightfit.keras2.old_methods`.
"""

from rightfit.runtime import choose_backend

choose_backend()

# ruff: noqa: E402  (what follows imports Keras, for which the backend has to be chosen before)

from rightfit.keras2 import old_methods
from rightfit.keras2.image_data_generator import ImageDataGenerator
from rightfit.keras2.iterators import (
    DataFrameIterator,
    DirectoryIterator,
    Iterator,
    NumpyArrayIterator,
)
from rightfit.keras2.models import load_model, model_from_json, model_from_yaml
from rightfit.keras2.optimizers import SGD, Adadelta, Adagrad, Adam, Adamax, Nadam, RMSprop

__all__ = [
    "SGD", "Adadelta", "Adagrad", "Adam", "Adamax", "DataFrameIterator", "DirectoryIterator", "ImageDataGenerator",
    "Iterator", "Nadam", "NumpyArrayIterator", "RMSprop", "load_model", "model_from_json", "model_from_yaml",
]  # fmt: skip

old_methods.install()
