"""Published detectors that are stopped inside an epoch and resumed train on to the same bits."""

import json

import pytest

from tests.test_loop import Interrupted, StopsAfter, training
from tests.test_loop import dataset as dataset
from tests.test_options import same, told


@pytest.mark.parametrize(
    ("family", "variant"),
    [("cnn", "v6"), pytest.param("resnet50", "deep_head", marks=pytest.mark.long)],
)
def test_a_published_detector_stopped_after_some_steps_goes_on_bit_for_bit(dataset, tmp_path, family, variant):
    """With its dropout and with augmentation; 8 steps an epoch, the training stops after the third."""
    options = {"epochs": 1, "learning_rate": 1e-4, "model": {"family": family, "variant": variant}}
    training(dataset, told(**options), tmp_path / "whole").run()
    resumed, StopsAfter.left = tmp_path / "resumed", 1
    with pytest.raises(Interrupted):
        training(dataset, told(checkpoint_steps=3, **options), resumed, reports=StopsAfter).run()
    assert json.loads((resumed / "latest" / "state.json").read_text())["step"] == 3
    training(dataset, told(**options), resumed).run()
    assert same(tmp_path / "whole", resumed)
