"""A transfer-learning script as they were written in 2017; two lines are not as they were then (marked).

python examples/script_of_2017.py DATA [epochs]     DATA/train and DATA/validation hold a folder for each class
python examples/script_of_2017.py DATA --again      a second process: from the files alone, the same predictions
"""

# ruff: noqa: B905, I001  it is left as it was

import sys

import numpy as np
from keras.applications.resnet50 import ResNet50
from keras.layers import Dense, GlobalAveragePooling2D
from keras.models import Model

from rightfit.keras2 import ImageDataGenerator  # was keras.preprocessing.image
from rightfit.keras2 import SGD, load_model, model_from_yaml  # was keras.optimizers and keras.models

data, img_width, img_height, batch_size = sys.argv[1], 150, 150, 32
nb_epoch = int(sys.argv[2]) if len(sys.argv) > 2 and sys.argv[2] != "--again" else 2

train_datagen = ImageDataGenerator(rescale=1.0 / 255, rotation_range=15, zoom_range=0.2, horizontal_flip=True)
test_datagen = ImageDataGenerator(rescale=1.0 / 255)

train_generator = train_datagen.flow_from_directory(
    data + "/train", target_size=(img_width, img_height), batch_size=batch_size, class_mode="categorical"
)
validation_generator = test_datagen.flow_from_directory(
    data + "/validation",
    target_size=(img_width, img_height),
    batch_size=batch_size,
    class_mode="categorical",
    shuffle=False,
)

if sys.argv[-1] == "--again":
    images, _ = validation_generator[0]
    with open("model.yaml") as file:
        rebuilt = model_from_yaml(file.read())
    rebuilt.load_weights("weights.h5")
    whole = load_model("model.h5")
    expected = np.load("predictions.npy")
    for name, model in (("model_from_yaml + load_weights", rebuilt), ("load_model", whole)):
        print(name, "largest difference", np.abs(model.predict(images, verbose=0) - expected).max())
    sys.exit()

base_model = ResNet50(weights=None, include_top=False, input_shape=(img_width, img_height, 3))
x = GlobalAveragePooling2D()(base_model.output)
predictions = Dense(train_generator.num_classes, activation="softmax")(x)
model = Model(inputs=base_model.input, outputs=predictions)
model.compile(
    loss="categorical_crossentropy", optimizer=SGD(lr=0.001, momentum=0.9, decay=1e-6), metrics=["accuracy"]
)

history = model.fit_generator(
    train_generator,
    steps_per_epoch=train_generator.samples // batch_size,
    epochs=nb_epoch,
    validation_data=validation_generator,
    validation_steps=len(validation_generator),
)
print("acc", history.history["acc"], "val_acc", history.history["val_acc"])

scores = model.evaluate_generator(validation_generator, len(validation_generator))
for pair in zip(model.metrics_names, scores):
    print(pair)

with open("model.yaml", "w") as file:
    file.write(model.to_yaml())
model.save_weights("weights.h5")
model.save("model.h5")
np.save("predictions.npy", model.predict(validation_generator[0][0], verbose=0))
