"""What a file says of optimizer and metrics becomes a compiled model that can be measured and trained."""

import keras
import numpy as np
import pytest

from rightfit.saving.training_state import compiled

OLD_SGD = {"class_name": "SGD", "config": {"lr": 0.1, "momentum": 0.0, "decay": 0.0, "nesterov": False}}
NEW_SGD = {"module": "keras.optimizers", "class_name": "SGD", "config": {"name": "SGD", "learning_rate": 0.1}}
WRAPPED = {"class_name": "MeanMetricWrapper", "config": {"name": "right", "fn": "categorical_accuracy"}}


def two_ends():
    image = keras.Input((4,))
    ends = [keras.layers.Dense(2, name=name, activation="softmax")(image) for name in "ab"]
    return keras.Model(image, ends)


@pytest.mark.parametrize(
    ("optimizer", "metrics", "measured"),
    [
        (OLD_SGD, ["accuracy"], {"a_accuracy", "b_accuracy"}),
        (OLD_SGD, ["acc", "poisson"], {"a_acc", "a_poisson", "b_acc", "b_poisson"}),
        (OLD_SGD, [[WRAPPED], [None]], {"a_right"}),  # tf-keras, metrics={"a": "accuracy"}
        (OLD_SGD, [[WRAPPED], [WRAPPED, None]], {"a_right", "b_right"}),
        (OLD_SGD, {"b": "accuracy"}, {"b_accuracy"}),
        (NEW_SGD, ["accuracy", "poisson"], {"a_accuracy", "b_poisson"}),  # Keras 3: one for each
        (NEW_SGD, [None, ["acc"]], {"b_acc"}),
        (OLD_SGD, None, set()),
    ],
    ids=lambda part: str(sorted(part) if isinstance(part, set) else part),
)
def test_each_of_several_outputs_is_measured_as_it_was(optimizer, metrics, measured):
    model, notes = two_ends(), []
    training = {"optimizer_config": optimizer, "loss": "categorical_crossentropy", "metrics": metrics}
    assert compiled(model, training, notes) and notes == []
    model.run_eagerly = True  # faster, for one batch
    x, y = np.zeros((6, 4), "float32"), np.eye(2)[np.arange(6) % 2]
    found = model.evaluate(x, [y, y], verbose=0, return_dict=True)
    assert {name for name in found if not name.endswith("loss")} == measured


def test_a_metric_that_keras_3_does_not_choose_is_named():
    training, notes = {"optimizer_config": OLD_SGD, "loss": "mse", "metrics": ["ce"]}, []
    assert not compiled(two_ends(), training, notes) and "the metric ce is not carried" in notes[0]


@pytest.mark.parametrize("more", [{"lr": 0.1}, {"learning_rate": 0.1}])
def test_keras_before_tensorflows_clipped_by_the_norm_of_all_gradients(more):
    model = two_ends()
    optimizer = {"class_name": "SGD", "config": {"clipnorm": 1.0, **more}}
    compiled(model, {"optimizer_config": optimizer, "loss": "mse"}, [])
    assert (model.optimizer.clipnorm, model.optimizer.global_clipnorm) == (None, 1.0)
    optimizer = {"class_name": "SGD", "config": {"clipnorm": 1.0, "name": "SGD", "learning_rate": 0.1}}
    compiled(model, {"optimizer_config": optimizer, "loss": "mse"}, [])
    assert (model.optimizer.clipnorm, model.optimizer.global_clipnorm) == (1.0, None)
