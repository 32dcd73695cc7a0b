"""The door for scripts of Keras 1 and 2: import from here what they imported from keras, and leave the rest.

from rightfit.keras2 import ImageDataGenerator, SGD, load_model, model_from_json, model_from_yaml

ImageDataGenerator reads folders through rightfit's store of decoded images. Importing this module also gives
keras.Model the methods fit_generator, evaluate_generator, predict_generator and to_yaml, which Keras 3 lacks.
"""

from rightfit.runtime import choose_backend

choose_backend()  # before Keras is first imported

from rightfit.keras2 import generator_methods  # noqa: E402
from rightfit.keras2.image_data_generator import ImageDataGenerator  # noqa: E402
from rightfit.keras2.iterators import (  # noqa: E402
    DataFrameIterator,
    DirectoryIterator,
    Iterator,
    NumpyArrayIterator,
)
from rightfit.keras2.optimizers import SGD, Adadelta, Adagrad, Adam, Adamax, Nadam, RMSprop  # noqa: E402

__all__ = [
    "SGD", "Adadelta", "Adagrad", "Adam", "Adamax", "DataFrameIterator", "DirectoryIterator", "ImageDataGenerator",
    "Iterator", "Nadam", "NumpyArrayIterator", "RMSprop",
]  # fmt: skip

generator_methods.install()
