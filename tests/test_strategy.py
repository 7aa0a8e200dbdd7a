"""Which devices a worker gets, and what is refused when they are not there."""

import pytest

from trainers.errors import CannotTrain
from trainers.strategy import Resources, make_strategy, prepare_process


@pytest.mark.parametrize("devices", [1, 4])
def test_gpus_that_tensorflow_does_not_see_are_refused(devices, monkeypatch):
    """Ray counts a machine's GPUs; an installation without GPU packages sees none of them."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    with pytest.raises(CannotTrain, match=rf"the {devices} GPU.* Received: 0 on .*\.\[gpu\]") as caught:
        prepare_process(Resources(1, 1, devices, devices))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("resources", [Resources(2, 1, 1, 0), Resources(2, 1, 4, 4)])
def test_a_strategy_with_other_replicas_than_planned_is_refused(resources):
    """Without Ray's TF_CONFIG a worker is alone, and takes its share of the batch for the whole."""
    with pytest.raises(CannotTrain, match=rf"must make {resources.replicas} replicas. Received: 1"):
        make_strategy(resources)
