"""--xla over several replicas: refused before the first step if any phase trains batch normalisation."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from tfds_builders.records.errors import Refused
from trainers.config import Config, ModelConfig
from trainers.models.family import Family, Phase, trains_batch_norm
from trainers.strategy import hide_gpus


def why_not_compiled(model: Any, phases: Sequence[Phase], config: ModelConfig, replicas: int) -> str | None:
    """The sentence that refuses --xla, or None. Leaves the layers marked as one of the phases trains them."""
    for phase in phases if replicas > 1 else ():
        phase.set_trainable(model, config)
        if trains_batch_norm(model):
            return (
                f"--xla cannot compile batch statistics over several replicas. Received: {replicas} replicas. "
                "Train on one device (--workers 1 --devices-per-worker 1), or leave --xla out."
            )
    return None


def check_compiled(family: Family, config: Config) -> None:
    """Refuses --xla in the driver, before anything of the job is begun, where the number of replicas is given.

    Raises:
      Refused: a phase trains batch normalisation on several replicas.
    """
    replicas = config.cluster.worker_counts[0] * max(config.cluster.devices_per_worker, 1)
    if not config.optimiser.xla or not config.optimiser.epochs or replicas == 1:
        return
    import keras

    ensemble = family.ensembles.get(config.model.variant)
    single = replace(config.model, variant=ensemble.member) if ensemble else config.model
    hide_gpus()
    model = family.build(single, with_weights=False)
    reason = why_not_compiled(model, family.phases(replace(config, model=single)), single, replicas)
    keras.backend.clear_session()
    if reason:
        raise Refused(reason)
