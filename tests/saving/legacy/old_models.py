"""Run with a folder: tf-keras (Keras 2) writes a dozen and a half models into it, with what they predict.

NAME.h5 is the model, NAME.npz its inputs (in0, in1, ...), outputs (out0, ...) and, of those that were trained, the
weights after three more steps (after0, ...). It runs in a process of its own: tf-keras warns a lot.
"""

import sys
from pathlib import Path

import numpy as np
import tensorflow as tf
import tf_keras as keras
from tf_keras import layers

GENERATOR = np.random.default_rng(7)


def image(name=None):
    return keras.Input((12, 12, 3), name=name)


def mlp():
    return keras.Sequential(
        [
            layers.Dense(
                16, activation="relu", input_shape=(10,), kernel_regularizer=keras.regularizers.l2(1e-4)
            ),
            layers.BatchNormalization(),
            layers.Dropout(0.3),
            layers.Dense(8, activation="hard_sigmoid", kernel_constraint=keras.constraints.MaxNorm(3)),
            layers.Dense(3, activation="softmax"),
        ]
    )


def cnn():
    return keras.Sequential(
        [
            layers.Conv2D(8, 3, padding="same", input_shape=(12, 12, 3)),
            layers.BatchNormalization(axis=-1),
            layers.LeakyReLU(alpha=0.2),
            layers.MaxPooling2D(),
            layers.Conv2D(6, 3, strides=2, activation="relu", dilation_rate=1),
            layers.ThresholdedReLU(theta=0.4),
            layers.Flatten(),
            layers.Dense(4, activation="sigmoid"),
        ]
    )


def residual():
    inputs = image()
    x = layers.Conv2D(8, 3, padding="same", use_bias=False)(inputs)
    x = layers.Activation("relu")(layers.BatchNormalization()(x))
    y = layers.BatchNormalization(scale=False)(layers.Conv2D(8, 3, padding="same")(x))
    x = layers.Activation("swish")(layers.add([x, y]))
    return keras.Model(inputs, layers.Dense(5)(layers.GlobalAveragePooling2D()(x)))


def squeeze_and_excite():
    inputs = image()
    x = layers.Conv2D(8, 3, activation="elu")(inputs)
    s = layers.Reshape((1, 1, 8))(layers.GlobalAveragePooling2D()(x))
    s = layers.Conv2D(8, 1, activation="hard_sigmoid")(layers.Conv2D(2, 1, activation="relu")(s))
    x = layers.Multiply()([x, s])
    return keras.Model(inputs, layers.Activation("hard_sigmoid")(layers.Dense(3)(layers.Flatten()(x))))


def separable():
    inputs = image()
    x = layers.SeparableConv2D(8, 3, depth_multiplier=2, activation="hard_sigmoid")(inputs)
    x = layers.DepthwiseConv2D(3, strides=2, padding="same", activation="relu")(x)
    x = layers.ReLU(max_value=6.0)(layers.BatchNormalization(center=False)(x))
    return keras.Model(inputs, layers.Softmax()(layers.Dense(4)(layers.GlobalMaxPooling2D()(x))))


def nested():
    """A model in a model, and a chain in it, each with a batch norm: their weights lie flat in the file."""
    body = residual()
    body._name = "body"
    head = keras.Sequential(
        [layers.Dense(6, activation="tanh", input_shape=(5,)), layers.BatchNormalization()], "head"
    )
    inputs = image()
    outer = layers.BatchNormalization(name="first")(inputs)
    return keras.Model(inputs, layers.Dense(2)(head(body(outer))))


def transfer():
    """A frozen body at the start of a chain, as transfer learning has it."""
    body = residual()
    body.trainable = False
    return keras.Sequential([body, layers.Dense(4, activation="relu"), layers.Dense(2)])


def siamese():
    """One model called twice, and one layer shared by both branches."""
    inputs = image()
    body = keras.Model(inputs, layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3)(inputs)), name="eye")
    left, right = image(), image()
    shared = layers.Dense(5, activation="tanh")
    a, b = shared(body(left)), shared(body(right))
    near = layers.Dot(axes=1, normalize=True)([a, b])
    far = layers.Subtract()([a, b])
    return keras.Model([left, right], [near, layers.Dense(2)(far)])


def two_ends():
    picture, facts = image("picture"), keras.Input((4,), name="facts")
    x = layers.Flatten()(layers.AveragePooling2D(3)(picture))
    x = layers.Concatenate()([x, layers.Dense(4, activation="gelu")(facts)])
    x = layers.Dense(8, activation="selu")(x)
    return keras.Model({"picture": picture, "facts": facts}, [layers.Dense(2)(x), layers.Dense(1)(x)])


def lstm():
    return keras.Sequential(
        [
            layers.Embedding(20, 6, input_length=9, mask_zero=True),
            layers.LSTM(5, return_sequences=True, recurrent_activation="hard_sigmoid"),
            layers.Bidirectional(layers.GRU(4, reset_after=False, return_sequences=True)),
            layers.Bidirectional(layers.GRU(4, recurrent_activation="hard_sigmoid"), merge_mode="sum"),
            layers.Dense(2),
        ]
    )


def translator():
    """Encoder and decoder: states are handed on."""
    source, target = keras.Input((5, 3)), keras.Input((4, 3))
    _, h, c = layers.LSTM(6, return_state=True, unroll=True)(source)
    x = layers.LSTM(6, return_sequences=True)(target, initial_state=[h, c])
    return keras.Model([source, target], layers.TimeDistributed(layers.Dense(3))(x))


def cells():
    inputs = keras.Input((6, 4))
    x = layers.RNN([layers.LSTMCell(5), layers.GRUCell(3)], return_sequences=True)(inputs)
    return keras.Model(inputs, layers.SimpleRNN(2, go_backwards=True)(x))


def film():
    inputs = keras.Input((3, 8, 8, 2))
    x = layers.ConvLSTM2D(4, 3, padding="same", return_sequences=True)(inputs)
    x = layers.TimeDistributed(layers.Conv2D(3, 3))(x)
    return keras.Model(inputs, layers.GlobalAveragePooling3D()(layers.Conv3D(2, (1, 3, 3))(x)))


def row():
    inputs = keras.Input((20, 3))
    x = layers.Conv1D(6, 3, padding="causal", dilation_rate=2, activation="relu")(inputs)
    x = layers.SeparableConv1D(5, 3)(layers.MaxPooling1D()(x))
    return keras.Model(
        inputs, layers.Dense(2)(layers.GlobalAveragePooling1D()(layers.LayerNormalization()(x)))
    )


def attention():
    inputs = keras.Input((7, 8))
    x = layers.LayerNormalization(epsilon=1e-6)(inputs)
    x = layers.MultiHeadAttention(2, 4)(x, x) + inputs
    y = layers.Attention()([x, layers.Dense(8)(x)])
    return keras.Model(inputs, layers.GlobalMaxPooling1D()(layers.Concatenate()([x, y])))


def operators():
    """What tf.keras made of plain TensorFlow between its layers."""
    inputs = image()
    x = layers.Conv2D(4, 3)(inputs / 255.0 - 0.5)
    x = tf.nn.relu(x) * 2.0 + 1.0 - x
    y = tf.reduce_mean(x, axis=[1, 2], keepdims=False)
    z = x[:, 2, ::2, :]
    return keras.Model(inputs, tf.concat([y, tf.reshape(z, (-1, 20))], axis=1))


def decoder():
    inputs = keras.Input((5, 5, 4))
    x = layers.Conv2DTranspose(6, 3, strides=2, padding="same")(inputs)
    x = layers.PReLU(shared_axes=[1, 2])(x)
    x = layers.ZeroPadding2D(((1, 0), (2, 1)))(layers.UpSampling2D(2, interpolation="bilinear")(x))
    x = layers.Cropping2D(2)(x)
    return keras.Model(inputs, layers.Conv2D(3, 1, activation="softplus")(layers.SpatialDropout2D(0.2)(x)))


def prepared():
    inputs = image()
    norm = layers.Normalization(mean=[0.4, 0.5, 0.6], variance=[0.1, 0.2, 0.3])
    x = layers.Resizing(8, 8)(layers.Rescaling(2.0, offset=-0.5)(inputs))
    x = layers.GaussianNoise(0.1)(layers.RandomFlip("horizontal")(norm(x)))
    learnt = layers.Normalization()
    learnt.adapt(GENERATOR.normal(2, 3, (30, 6)).astype("float32"))
    return keras.Model(inputs, learnt(layers.Dense(6)(layers.Flatten()(x))))


def mobilenet():
    return keras.applications.MobileNetV3Small(
        (32, 32, 3), 0.35, weights=None, classes=5, include_preprocessing=False
    )


MODELS = (
    mlp, cnn, residual, squeeze_and_excite, separable, nested, transfer, siamese, two_ends, lstm, translator, cells,
    film, row, attention, operators, decoder, prepared, mobilenet,
)  # fmt: skip
OPTIMIZERS = {
    "adam": lambda: keras.optimizers.Adam(0.01, amsgrad=False),
    "adam_old": lambda: keras.optimizers.legacy.Adam(0.01, decay=0.1),
    "sgd": lambda: keras.optimizers.SGD(0.05, momentum=0.9, nesterov=True),
    "sgd_old": lambda: keras.optimizers.legacy.SGD(0.05, momentum=0.9),
    "rmsprop": lambda: keras.optimizers.RMSprop(0.01, momentum=0.5),
    "amsgrad": lambda: keras.optimizers.Adam(0.01, amsgrad=True),
    "amsgrad_old": lambda: keras.optimizers.legacy.Adam(0.01, amsgrad=True),
    "centered": lambda: keras.optimizers.RMSprop(0.01, momentum=0.5, centered=True),
    # It added epsilon after the root, Keras 3 does before: alike where epsilon is far below a gradient's square.
    "rmsprop_old": lambda: keras.optimizers.legacy.RMSprop(0.01, epsilon=1e-14),
}


def stir(model):
    """Weights that are nobody's first ones: batch norm's statistics too, and positive."""
    for weight in model.weights:
        if "int" in weight.dtype.name:
            continue
        inputs = np.prod(weight.shape[:-1]) if len(weight.shape) > 1 else 6
        values = GENERATOR.normal(0, inputs**-0.5, weight.shape)
        weight.assign(np.abs(values) + 0.5 if "variance" in weight.name else values)


def inputs_of(model):
    found = []
    for tensor in model.inputs:
        shape = (3, *tensor.shape[1:])
        embedded = isinstance(model.layers[0], layers.Embedding) or isinstance(
            model.layers[1], layers.Embedding
        )
        found.append(GENERATOR.integers(1, 20, shape) if embedded else GENERATOR.normal(0.4, 0.6, shape))
    return [array.astype("float32") for array in found]


def written(folder, name, model, after=()):
    inputs = inputs_of(model)
    given = inputs[0] if len(inputs) == 1 else inputs
    if isinstance(model.input, dict):
        given = dict(zip(sorted(model.input), inputs, strict=True))
    outputs = model(given, training=False)
    outputs = outputs if isinstance(outputs, (list, tuple)) else [outputs]
    held = {f"in{i}": a for i, a in enumerate(inputs)} | {f"out{i}": o.numpy() for i, o in enumerate(outputs)}
    np.savez(folder / f"{name}.npz", **held, **{f"after{i}": a for i, a in enumerate(after)})


def trained(folder, name, optimizer):
    """Three steps, saved, three more."""
    model = keras.Sequential([layers.Dense(6, activation="tanh", input_shape=(10,)), layers.Dense(3)])
    model.compile(optimizer, keras.losses.CategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    stir(model)
    x, y = GENERATOR.normal(0, 1, (8, 10)).astype("float32"), np.eye(3, dtype="float32")[np.arange(8) % 3]
    for _ in range(3):
        model.train_on_batch(x, y)
    model.save(folder / f"{name}.h5")
    for _ in range(3):
        model.train_on_batch(x, y)
    np.savez(folder / f"{name}.npz", x=x, y=y, **{f"after{i}": w for i, w in enumerate(model.get_weights())})


def main(folder):
    for make in MODELS:
        keras.backend.clear_session()
        model = make()
        if not model.built or not model.inputs:
            model.build((None, 9))
        stir(model)
        if hasattr(model.layers[-1], "finalize_state"):
            model.layers[-1].finalize_state()
        model.save(folder / f"{make.__name__}.h5")
        written(folder, make.__name__, model)
    model = cnn()
    stir(model)
    model.save_weights(folder / "apart.h5")
    (folder / "apart.json").write_text(model.to_json(), encoding="utf-8")
    written(folder, "apart", model)
    for make in (lstm, nested):  # in the archive that tf-keras wrote at last
        keras.backend.clear_session()
        model = make()
        model.build((None, 9))
        stir(model)
        model.save(folder / f"{make.__name__}.keras")
        written(folder, f"{make.__name__}-archive", model)
    for name, optimizer in OPTIMIZERS.items():
        keras.backend.clear_session()
        trained(folder, name, optimizer())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
