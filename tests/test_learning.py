"""What a job's settings make of its images on the way to the loop."""

from types import SimpleNamespace

import pytest

from rightfit.config import train_settings
from rightfit.console import Console
from rightfit.data.dataset import prepare
from rightfit.learning import images_of


@pytest.mark.parametrize(("mirror", "upright"), [(True, True), (True, False), (False, True), (False, False)])
def test_images_are_mirrored_and_turned_as_the_settings_say(tmp_path, write_images, mirror, upright):
    photos = write_images(tmp_path / "photos")
    said = {"mirror": mirror, "upright": upright, "augment": "medium", "batch_size": 4, "image_size": 8}
    asked = train_settings({"data": str(photos), "cache": "memory", **said})
    dataset, _ = prepare(str(photos), asked, Console(quiet=True))
    facts = SimpleNamespace(class_counts=(10, 10, 10))
    loader, _ = images_of(SimpleNamespace(settings=asked, dataset=dataset, facts=facts))
    assert (loader.policy.flip, loader.policy.turn) == (mirror, not upright)
