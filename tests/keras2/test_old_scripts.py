"""Methods, names and arguments of Keras 1 and 2 do what they did, on Keras 3."""

import keras
import numpy as np
import pytest

from rightfit.keras2 import SGD, Adam, ImageDataGenerator, RMSprop


@pytest.fixture(scope="module")
def images():
    """24 pictures (6, 6, 3) of two classes, told apart by their brightness, and their labels."""
    labels = np.arange(24) % 2
    pixels = np.random.default_rng(0).integers(0, 60, (24, 6, 6, 3)) + 120 * labels[:, None, None, None]
    return pixels.astype(np.uint8), keras.utils.to_categorical(labels)


@pytest.fixture
def model():
    keras.utils.set_random_seed(0)
    made = keras.Sequential(
        [keras.Input((6, 6, 3)), keras.layers.Flatten(), keras.layers.Dense(2, activation="softmax")]
    )
    made.compile(SGD(lr=0.05, momentum=0.9, decay=1e-4), "categorical_crossentropy", metrics=["accuracy"])
    return made


@pytest.fixture
def flow(images):
    return ImageDataGenerator(rescale=1 / 255).flow(*images, batch_size=10, seed=0)


class Watcher(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.steps, self.logs = 0, []

    def on_train_batch_end(self, batch, logs=None):
        self.steps += 1

    def on_epoch_end(self, epoch, logs=None):
        self.logs.append(dict(logs))


def test_a_model_learns_from_a_generator_and_is_measured_by_the_old_names(model, images, flow):
    watcher = Watcher()
    still = ImageDataGenerator(rescale=1 / 255).flow(*images, batch_size=10, shuffle=False)
    stop = keras.callbacks.EarlyStopping(monitor="val_acc", patience=30)
    done = model.fit_generator(
        flow,
        steps_per_epoch=3,
        epochs=12,
        validation_data=still,
        validation_steps=3,
        verbose=0,
        callbacks=[stop, watcher],
    )
    assert done.history["acc"] == done.history["accuracy"] and done.history["val_acc"][-1] == 1
    assert watcher.steps == 36 and "val_acc" in watcher.logs[0]
    scores = model.evaluate_generator(still, 3)
    assert model.metrics_names == ["loss", "acc"] and len(scores) == 2
    assert scores == pytest.approx(model.evaluate(images[0] / 255, images[1], verbose=0), abs=1e-5)
    said = model.predict_generator(still, 3)
    np.testing.assert_allclose(said, model.predict(images[0] / 255, verbose=0), atol=1e-5)


def test_more_steps_than_batches_begin_anew_and_fewer_go_on(model, flow):
    watcher = Watcher()
    model.fit_generator(flow, steps_per_epoch=8, epochs=2, verbose=0, callbacks=[watcher])
    assert watcher.steps == 16
    model.fit_generator(flow, steps_per_epoch=2, epochs=3, verbose=0, callbacks=[watcher])
    assert watcher.steps == 22
    # What comes next is neither what was learnt from first nor begun again.
    assert flow.served == 22 and not np.array_equal(
        flow.batch(*divmod(flow.served, len(flow)))[0], flow.batch(0, 0)[0]
    )


def test_any_generator_will_do(model, images):
    def endless():
        while True:
            for start in range(0, 24, 10):
                yield images[0][start : start + 10] / 255, images[1][start : start + 10]

    done = model.fit_generator(
        endless(), steps_per_epoch=3, epochs=2, verbose=0, validation_data=(images[0] / 255, images[1])
    )
    assert len(done.history["val_loss"]) == 2
    assert len(model.evaluate_generator(endless(), steps=3)) == 2


def test_the_arguments_of_keras_1_count_images(model, images, flow):
    watcher = Watcher()
    still = ImageDataGenerator(rescale=1 / 255).flow(*images, batch_size=8, shuffle=False)
    model.fit_generator(
        flow, samples_per_epoch=24, nb_epoch=2, validation_data=still, nb_val_samples=24, verbose=0,
        callbacks=[watcher], max_q_size=2, nb_worker=1, pickle_safe=False,
    )  # fmt: skip
    assert watcher.steps == 6 and len(watcher.logs) == 2
    assert len(model.predict_generator(still, val_samples=24)) == 24
    with pytest.raises(TypeError, match="epoch_count"):
        model.fit_generator(flow, epoch_count=3)
    with pytest.raises(ValueError, match="give steps_per_epoch"):
        model.fit_generator(iter([]), samples_per_epoch=24)


def test_classes_are_weighted_whatever_yields_them(images, flow):
    def endless():
        while True:
            yield images[0] / 255, images[1]

    def first_bias(source, weights, steps):
        keras.utils.set_random_seed(0)
        made = keras.Sequential([keras.Input((6, 6, 3)), keras.layers.Flatten(), keras.layers.Dense(2)])
        made.compile(SGD(lr=0.1), keras.losses.CategoricalCrossentropy(from_logits=True))
        made.fit_generator(source, steps, class_weight=weights, verbose=0)
        return keras.ops.convert_to_numpy(made.layers[-1].bias)[0]

    def weighted():
        while True:
            yield images[0] / 255, images[1], np.ones(24, np.float32)

    for source, steps in ((flow, None), (flow, 5), (endless(), 2), (weighted(), 2)):
        heavy, even = (first_bias(source, weights, steps) for weights in ({0: 20.0, 1: 1.0}, None))
        assert heavy > even + 0.01


def test_old_optimizers_are_keras_own_with_the_old_arguments():
    assert isinstance(SGD(lr=0.1), keras.optimizers.SGD)
    assert float(SGD(0.2, 0.9).momentum) == 0.9 and float(
        SGD(learning_rate=0.3).learning_rate
    ) == pytest.approx(0.3)
    lowered = SGD(lr=0.1, decay=0.5).get_config()["learning_rate"]["config"]
    assert (lowered["initial_learning_rate"], lowered["decay_steps"], lowered["decay_rate"]) == (0.1, 1, 0.5)
    assert Adam(lr=1e-4, epsilon=None, amsgrad=True).get_config()["amsgrad"]
    assert RMSprop(lr=0.01, clipnorm=1.0).get_config()["clipnorm"] == 1.0
    with pytest.raises(TypeError, match="at most 4"):
        SGD(1, 2, 3, 4, 5)


def test_a_decayed_rate_is_keras_2s():
    variable = keras.Variable(np.ones(1, np.float32))
    optimizer = SGD(lr=1.0, decay=0.5)
    for _ in range(3):
        optimizer.apply([keras.ops.ones(1)], [variable])
    assert keras.ops.convert_to_numpy(variable)[0] == pytest.approx(1 - (1 + 1 / 1.5 + 1 / 2))
