"""Training state in one directory: all variables of model and optimizer, the best weights, the history, one step.

state.json      step, phase, history, config and fingerprint: what a resumed job must agree with
model.npz       model.variables: weights and the state of generators, which weights files leave out
optimizer.npz   optimizer.variables
best.npz        weights of the best epoch; left out when they are the model's present ones
epoch.npz       losses, accuracies, norms of the steps of the unfinished epoch, so that its means come out the same
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from trainers.history import History

STATE, MODEL, OPTIMIZER, BEST, EPOCH = "state.json", "model.npz", "optimizer.npz", "best.npz", "epoch.npz"


@dataclass(frozen=True)
class State:
    """Where a training stands, between two steps."""

    step: int  # steps taken
    phase: int  # the phase that the saved optimizer belongs to
    history: History
    config: dict[str, Any]  # trainers.config.to_dict
    fingerprint: str  # of the dataset
    is_finished: bool = False  # evaluated; the directory holds the results too


@dataclass
class Taken:
    """The steps of the unfinished epoch: float32 losses, accuracies and norms of the gradient, one each a step."""

    losses: list[float] = field(default_factory=list)
    accuracies: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)

    def add(self, losses: np.ndarray, accuracies: np.ndarray, norms: np.ndarray) -> None:
        """Takes note of further steps."""
        self.losses += losses.tolist()
        self.accuracies += accuracies.tolist()
        self.norms += norms.tolist()

    def __len__(self) -> int:
        return len(self.losses)


def values_of(variables: Sequence[Any]) -> list[np.ndarray]:
    """The values of Keras variables, in their order."""
    return [np.asarray(variable.numpy()) for variable in variables]


def save(
    directory: Path,
    state: State,
    model: Any = None,
    optimizer: Any = None,
    best: Sequence[np.ndarray] | None = None,
    taken: Taken | None = None,
) -> None:
    """Writes a checkpoint into the empty `directory`. A finished training needs no variables.

    Args:
      best: the weights (`model.get_weights()`) of the best epoch, unless they are the model's present ones.
      taken: steps since the last finished epoch.
    """
    if model is not None:
        _save_arrays(directory / MODEL, values_of(model.variables))
        _save_arrays(directory / OPTIMIZER, values_of(optimizer.variables))
    if best is not None:
        _save_arrays(directory / BEST, best)
    if taken:
        steps = (taken.losses, taken.accuracies, taken.norms)
        _save_arrays(directory / EPOCH, [np.array(values, np.float32) for values in steps])
    (directory / STATE).write_text(json.dumps(asdict(state)))


def load_state(directory: Path) -> State:
    """The state of a checkpoint, without its variables."""
    return State(**json.loads((directory / STATE).read_text()))


def load_taken(directory: Path) -> Taken:
    """The steps of the epoch that was unfinished."""
    file = directory / EPOCH
    return Taken(*(array.tolist() for array in _load_arrays(file))) if file.exists() else Taken()


def restore(directory: Path, model: Any, optimizer: Any) -> list[np.ndarray]:
    """Sets the variables of `model` and of the built `optimizer`, and returns the best weights.

    Raises:
      ValueError: the checkpoint is of another model or optimizer; nothing was set.
    """
    new = [(variables, _load_arrays(directory / file)) for variables, file in _files(model, optimizer)]
    for variables, arrays in new:
        wanted = [tuple(variable.shape) for variable in variables]
        found = [array.shape for array in arrays]
        if wanted != found:
            raise ValueError(
                f"the checkpoint in {directory} is of another model: it holds {len(found)} variables, "
                f"{len(wanted)} are wanted, or their shapes differ"
            )
    for variables, arrays in new:
        for variable, array in zip(variables, arrays, strict=True):
            variable.assign(array)
    best = directory / BEST
    return _load_arrays(best) if best.exists() else model.get_weights()


def _files(model: Any, optimizer: Any):
    return ((model.variables, MODEL), (optimizer.variables, OPTIMIZER))


def _save_arrays(file: Path, arrays: Sequence[np.ndarray]) -> None:
    named: dict[str, Any] = {f"{index:05}": array for index, array in enumerate(arrays)}
    np.savez(file, **named)


def _load_arrays(file: Path) -> list[np.ndarray]:
    with np.load(file) as stored:
        return [stored[name] for name in sorted(stored.files)]
