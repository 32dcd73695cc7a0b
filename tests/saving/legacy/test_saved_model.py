"""A TensorFlow SavedModel is a program: it runs where it is trusted, and predicts what it did."""

import numpy as np
import pytest
import tensorflow as tf

from rightfit.errors import ModelFileError, UsageError
from rightfit.saving.legacy.convert import convert
from rightfit.saving.legacy.saved_model import open_saved_model


class Doubled(tf.Module):
    def __init__(self, writes=None):
        super().__init__()
        self.two, self.writes = tf.Variable(2.0), writes

    @tf.function(input_signature=[tf.TensorSpec((None, 3), tf.float32)])
    def __call__(self, x):
        if self.writes:
            tf.io.write_file(self.writes, "ran")
        return {"doubled": x * self.two}


def exported(folder, writes=None):
    module = Doubled(writes)
    tf.saved_model.save(module, str(folder), signatures={"serving_default": module.__call__})
    return folder


def test_a_trusted_one_predicts(tmp_path):
    layer = open_saved_model(exported(tmp_path / "saved"), trusted=True)
    x = np.ones((2, 3), "float32")
    np.testing.assert_array_equal(layer(x)["doubled"], 2 * x)
    with pytest.raises(ModelFileError, match="no_such"):
        open_saved_model(tmp_path / "saved", trusted=True, endpoint="no_such")


def test_one_that_nobody_vouches_for_is_refused_with_what_it_asks_for(tmp_path):
    folder = exported(tmp_path / "saved", str(tmp_path / "ran"))
    with pytest.raises(UsageError, match=r"WriteFile.*trusted=True"):
        open_saved_model(folder)
    assert not (tmp_path / "ran").exists()


def test_it_does_not_convert_and_the_message_says_what_does(tmp_path):
    folder = exported(tmp_path / "saved")
    with pytest.raises(ModelFileError, match="open_saved_model"):
        convert(folder, tmp_path / "new.keras")
    (folder / "keras_metadata.pb").write_bytes(b"")
    with pytest.raises(ModelFileError, match=r"tf_keras\.models\.load_model"):
        convert(folder, tmp_path / "new.keras")
