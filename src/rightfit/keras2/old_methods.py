"""Gives keras.Model, of this process, what it had in Keras 2 and lacks in 3; nothing that Keras 3 calls is replaced."""

from __future__ import annotations

import keras

from rightfit.keras2 import generator_methods, models


def install() -> None:
    """Once: fit_generator, evaluate_generator, predict_generator, to_yaml; metrics_names as `evaluate` lists its
    numbers; save_weights and load_weights that take the old suffixes too."""
    if hasattr(keras.Model, "fit_generator"):
        return
    for method in (
        generator_methods.fit_generator,
        generator_methods.evaluate_generator,
        generator_methods.predict_generator,
        models.to_yaml,
    ):
        setattr(keras.Model, method.__name__, method)
    keras.Model.metrics_names = property(generator_methods.metrics_names)
    keras.Model.save_weights = models.saving_weights(keras.Model.save_weights)
    keras.Model.load_weights = models.loading_weights(keras.Model.load_weights)
