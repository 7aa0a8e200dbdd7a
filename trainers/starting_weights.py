"""Further training: the weights to begin with are a registered model's, `--weights models:/NAME@ALIAS`.

    config = pinned(config, uri)             # models:/NAME/VERSION, whatever becomes of the alias
    for_workers = fetched(config, folder)    # the path of its .keras file

The job's run names the model and its run, so that whoever asks what a model was trained on finds the first data too.
"""

from dataclasses import replace
from pathlib import Path

from trainers.config import Config
from trainers.models.family import is_registered
from trainers.registry import fetch_network, resolve
from trainers.tracking import client_of

FILE = "starting_weights.keras"
MODEL_TAG, RUN_TAG = "realshard.weights", "realshard.weights_run_id"


def pinned(config: Config, uri: str) -> Config:
    """The config with the version that --weights stands for now; unchanged if they are no registered model's.

    Raises:
      Refused: there is no such model in the store at `uri`.
    """
    if not is_registered(config.model.weights):
        return config
    name, version = resolve(uri, config.model.weights)
    return _with_weights(config, f"models:/{name}/{version}")


def tags_of(config: Config) -> dict[str, str]:
    """Tags of the job's run: the registered model that it begins with, if any, and that model's run. `config` is
    pinned."""
    if not is_registered(config.model.weights):
        return {}
    name, version = config.model.weights.removeprefix("models:/").split("/")
    return {MODEL_TAG: config.model.weights, RUN_TAG: client_of().get_model_version(name, version).run_id}


def fetched(config: Config, folder: Path) -> Config:
    """The config with a copy of the registered model's file in `folder`, which all workers must see; unchanged if
    --weights are no registered model's.

    Raises:
      Refused: the model's files are gone.
    """
    if not is_registered(config.model.weights):
        return config
    return _with_weights(config, str(fetch_network(config.model.weights, folder / FILE)))


def _with_weights(config: Config, weights: str) -> Config:
    return replace(config, model=replace(config.model, weights=weights))
