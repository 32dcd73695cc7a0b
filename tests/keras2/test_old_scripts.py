"""Methods, names and arguments of Keras 1 and 2 do what they did, on Keras 3."""

import keras
import numpy as np
import pytest

from rightfit.keras2 import SGD, Adagrad, Adam, ImageDataGenerator, Nadam, RMSprop, load_model


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
    assert RMSprop(lr=0.01, clipvalue=1.0).get_config()["clipvalue"] == 1.0
    with pytest.raises(TypeError, match="at most 4"):
        SGD(1, 2, 3, 4, 5)


def test_a_decayed_rate_is_keras_2s():
    variable = keras.Variable(np.ones(1, np.float32))
    optimizer = SGD(lr=1.0, decay=0.5)
    for _ in range(3):
        optimizer.apply([keras.ops.ones(1)], [variable])
    assert keras.ops.convert_to_numpy(variable)[0] == pytest.approx(1 - (1 + 1 / 1.5 + 1 / 2))


def steps_of(optimizer, gradients):
    """Where a weight that began at 0 stands after each gradient."""
    variable, places = keras.Variable(np.zeros(1, np.float32)), []
    for gradient in gradients:
        optimizer.apply([keras.ops.convert_to_tensor(np.array([gradient], np.float32))], [variable])
        places.append(float(keras.ops.convert_to_numpy(variable)[0]))
    return places


def adagrad(gradients, rate, epsilon):
    place = squares = 0.0
    for g in gradients:
        squares += g * g
        place -= rate * g / (np.sqrt(squares) + epsilon)
        yield place


def rmsprop(gradients, rate, epsilon):
    place = squares = 0.0
    for g in gradients:
        squares = 0.9 * squares + 0.1 * g * g
        place -= rate * g / (np.sqrt(squares) + epsilon)
        yield place


def nadam(gradients, rate, epsilon, decay):
    place = m = v = 0.0
    product = 1.0
    for t, g in enumerate(gradients, 1):
        now, then = (0.9 * (1 - 0.5 * 0.96 ** (step * decay)) for step in (t, t + 1))
        product *= now
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        mean = (1 - now) * g / (1 - product) + then * m / (1 - product * then)
        place -= rate * mean / (np.sqrt(v / (1 - 0.999**t)) + epsilon)
        yield place


@pytest.mark.parametrize(("size", "epsilon"), [(1e-1, 1e-4), (1e-1, None), (1e-3, None), (1e-4, None)])
def test_optimizers_take_the_steps_of_keras_2_unless_gradients_are_near_epsilon(size, epsilon):
    random = np.random.default_rng(0)
    gradients = list(size * random.uniform(0.5, 1.5, 60) * random.choice([-1, 1, 1], 60))
    added = 1e-7 if epsilon is None else epsilon
    for maker, rule, rate, more in (
        (Adagrad, adagrad, 0.01, {}),
        (RMSprop, rmsprop, 0.001, {}),
        (Nadam, nadam, 0.002, {"decay": 0.004}),
        (Nadam, nadam, 0.002, {"decay": 0.5}),
    ):
        given = {"schedule_decay": more["decay"]} if more else {}
        found = steps_of(maker(epsilon=epsilon, **given), gradients)
        expected = list(rule(gradients, rate, added, **more))
        np.testing.assert_allclose(found, expected, rtol=5e-3, atol=1e-5)


def test_a_model_trains_with_nadam_and_its_file_names_it_as_not_carried(model, flow, tmp_path, capfd):
    model.compile(Nadam(lr=0.01, schedule_decay=0.01), "categorical_crossentropy")
    losses = model.fit_generator(flow, epochs=5, verbose=0).history["loss"]
    assert losses[-1] < losses[0] and Nadam().get_config()["schedule_decay"] == 0.004
    model.save(tmp_path / "m.keras")
    assert not load_model(tmp_path / "m.keras").compiled
    assert "the optimizer OldNadam is not carried" in capfd.readouterr().err


def test_gradients_are_clipped_by_the_norm_of_them_all():
    variables = [keras.Variable(np.zeros(1, np.float32)) for _ in range(2)]
    SGD(lr=1.0, clipnorm=1.0).apply([keras.ops.ones(1) * 3, keras.ops.ones(1) * 4], variables)
    moved = [float(keras.ops.convert_to_numpy(variable)[0]) for variable in variables]
    assert moved == pytest.approx([-0.6, -0.8])


@pytest.fixture
def two_ends():
    """Outputs of two and three classes; the accuracies of its random images differ."""
    keras.utils.set_random_seed(0)
    image = keras.Input((4,))
    ends = [keras.layers.Dense(n, name=name, activation="softmax")(image) for name, n in (("b", 2), ("a", 3))]
    made = keras.Model(image, ends)
    made.compile(SGD(lr=0.1), "categorical_crossentropy", metrics=[["accuracy"], ["accuracy", "mae"]])
    x = np.random.default_rng(0).random((9, 4)).astype("float32")
    return made, x, [np.eye(2)[np.arange(9) % 2], np.eye(3)[np.arange(9) % 3]]


def test_the_numbers_of_several_outputs_have_their_names(two_ends):
    made, x, y = two_ends
    assert made.metrics_names[0] == "loss"  # before anything was measured
    listed = made.evaluate(x, y, verbose=0)
    by_name = made.evaluate(x, y, verbose=0, return_dict=True)
    assert by_name["a_accuracy"] != by_name["b_accuracy"]
    by_name |= {"a_acc": by_name.pop("a_accuracy"), "b_acc": by_name.pop("b_accuracy")}
    assert dict(zip(made.metrics_names, listed, strict=True)) == by_name


def test_each_output_has_its_accuracy_in_the_history_by_its_old_name(two_ends):
    made, x, y = two_ends

    def endless():
        while True:
            yield x, tuple(y)

    stop = keras.callbacks.EarlyStopping(monitor="val_a_acc", patience=9)
    done = made.fit_generator(
        endless(), 2, epochs=2, validation_data=(x, tuple(y)), callbacks=stop, verbose=0
    )
    assert done.history["a_acc"] == done.history["a_accuracy"] and len(done.history["val_b_acc"]) == 2


@pytest.fixture
def numbered():
    """Ten pictures, each of its own number, in batches of four; and a model that says the number."""
    numbers = np.arange(10, dtype=np.float32)
    flow = ImageDataGenerator().flow(
        np.ones((10, 2, 2, 1), np.float32) * numbers[:, None, None, None],
        numbers,
        batch_size=4,
        shuffle=False,
    )
    pool = keras.layers.GlobalAveragePooling2D()
    says = keras.layers.Dense(1, use_bias=False, kernel_initializer="ones")
    made = keras.Sequential([keras.Input((2, 2, 1)), pool, says])
    made.compile(SGD(lr=0.0), "mse")
    return flow, made


def test_predictions_begin_with_the_first_image_however_far_training_got(numbered):
    flow, made = numbered
    made.fit_generator(flow, steps_per_epoch=2, epochs=1, verbose=0)
    for steps, expected in ((2, range(8)), (3, range(10)), (4, [*range(10), *range(4)])):
        assert made.predict_generator(flow, steps).ravel() == pytest.approx(list(expected))
    wrong = ImageDataGenerator().flow(flow.x, flow.y + (flow.y > 3), batch_size=4, shuffle=False)
    made.fit_generator(wrong, steps_per_epoch=2, epochs=1, verbose=0)
    assert made.evaluate_generator(wrong, 1) == pytest.approx(0)  # of the first four


def test_reset_has_training_begin_again_too(numbered):
    flow, made = numbered
    made.fit_generator(flow, steps_per_epoch=2, epochs=1, verbose=0)
    assert flow.served == 2
    flow.reset()
    assert flow.served == 0


def test_classes_are_weighted_beside_the_weights_of_images():
    x, y = np.ones((8, 2, 2, 1), np.float32), keras.utils.to_categorical(np.arange(8) % 2)

    def loss(weights, steps):
        made = keras.Sequential([keras.Input((2, 2, 1)), keras.layers.Flatten(), keras.layers.Dense(2)])
        made.layers[-1].set_weights([np.zeros((4, 2)), np.array([1.0, 0.0])])
        made.compile(SGD(lr=0.0), keras.losses.CategoricalCrossentropy(from_logits=True))
        flow = ImageDataGenerator().flow(x, y, batch_size=4, sample_weight=weights, shuffle=False)
        done = made.fit_generator(flow, steps, class_weight={0: 2.0, 1: 1.0}, verbose=0)
        return done.history["loss"][0]

    for steps in (None, 3):
        assert loss(np.full(8, 3.0), steps) == pytest.approx(3 * loss(None, steps), rel=1e-5)
