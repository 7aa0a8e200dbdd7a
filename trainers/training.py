"""One worker's training from beginning to end: phases, epochs, checkpoints, evaluation, results.

Every decision is a function of the checkpoint alone, so a resumed training takes the same ones.
"""

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tensorflow as tf

from trainers import checkpoints, loop, strategy
from trainers.config import from_dict
from trainers.dataset import Records, load
from trainers.history import best_epoch, decayed_rate, losses, of_phase, plateau_rate, position
from trainers.inputs import evaluation_batches, training_batches
from trainers.models.families import FAMILIES
from trainers.models.layers import GlobalBatch, dropout_maker
from trainers.order import Order
from trainers.progress import Progress, duration
from trainers.update_rules import update_rule
from trainers.worker import Task, selected, with_shuffled_labels

HISTORY, PREDICTIONS, MODEL = "history.json", "predictions.parquet", "model.keras"
PREDICTED_COLUMNS = ("id", "split", "label", "category", "group", "video", "generator")
EVALUATION_BATCH = 32  # images of one replica; larger ones gain nothing on a CPU


class Training:
    """The training that `task` describes.

    Args:
      task: from the driver; the same on every worker.
      reports: where checkpoints come from and go to (trainers/reports.py).
    """

    def __init__(self, task: Task, reports: Any):
        self._reports, self._resources = reports, task.resources
        self._config = config = from_dict(task.config)
        dataset = load(task.dataset_directory)
        if dataset.fingerprint != task.fingerprint:
            raise ValueError(f"the dataset in {task.dataset_directory} is not the one that the job began with")
        self._records = selected(dataset, config)
        self._validation = self._records["validation"]
        self._train = self._records["train"]
        if config.data.shuffle_labels:
            self._train = with_shuffled_labels(self._train, config.job.seed)
            self._validation = with_shuffled_labels(self._validation, config.job.seed)
        self._family = FAMILIES[config.model.family]
        self._phases = self._family.phases(config) if config.optimiser.epochs else []
        self._order = Order(len(self._train), config.optimiser.global_batch_size, config.job.seed)
        self._state = checkpoints.State(0, 0, [], task.config, task.fingerprint)
        self._strategy = strategy.make_strategy(self._resources)
        self._logger = self._make_logger(task)

    def run(self) -> None:
        """Trains, from the newest checkpoint if there is one, and reports the results as the last checkpoint."""
        with self._reports.latest() as directory:
            if directory and checkpoints.load_state(directory).is_finished:
                self._log("this training had already finished")
                return
            self._build(directory)
        self._log(strategy.describe(self._resources, self._order.global_batch_size))
        self._log(
            f"{len(self._train)} training images, {len(self._validation)} for validation, "
            f"{len(self._records['test'])} for the test; {self._order.steps_per_epoch} steps an epoch"
        )
        self._log(self._trainable)
        dataset = self._strategy.distribute_datasets_from_function(self._training_dataset)
        iterator = iter(dataset)
        try:
            while (phase := self._next_phase()) is not None:
                if phase != self._state.phase:
                    self._model.set_weights(self._best)
                    self._state = replace(self._state, phase=phase)
                    self._enter_phase()
                    self._log(self._trainable)
                self._epoch(iterator)
        finally:
            del iterator, dataset  # a reading thread that outlives the interpreter can hang its exit
        self._finish()

    # -- building --

    def _build(self, directory: Path | None) -> None:
        """Makes the model and the first optimizer, and restores a checkpoint."""
        config = self._config
        keras.utils.set_random_seed(config.job.seed)
        if directory:
            self._state = checkpoints.load_state(directory)
        with self._strategy.scope():
            step = tf.Variable(self._state.step, dtype=tf.int64, trainable=False, name="step")
            self._global_batch = GlobalBatch(config.job.seed, config.optimiser.global_batch_size, step)
            dropout = dropout_maker(self._global_batch)
            self._model = self._family.build(config.model, dropout, with_weights=directory is None)
        if self._resources.replicas > 1:
            strategy.synchronise_batch_norm(self._model)
        self._evaluation = loop.Evaluation(self._strategy, self._model)
        self._best = self._model.get_weights()
        self._enter_phase()
        if directory:
            self._best = checkpoints.restore(directory, self._model, self._optimizer)
            self._log(f"resumed after epoch {len(self._state.history)}, step {self._state.step}")

    def _enter_phase(self) -> None:
        if not self._phases:
            self._trainable = "nothing is trained, the weights are evaluated as they are"
            return
        phase = self._phases[self._state.phase]
        self._trainable = phase.set_trainable(self._model, self._config.model)
        with self._strategy.scope():
            self._optimizer = update_rule(phase.learning_rate, self._config.optimiser)
        self._step = loop.TrainStep(self._strategy, self._model, self._optimizer, self._global_batch)

    def _next_phase(self) -> int | None:
        if not self._phases:
            return None
        epochs = [phase.epochs for phase in self._phases]
        return position(self._state.history, epochs, self._config.optimiser.early_stopping_patience)

    # -- one epoch --

    def _epoch(self, iterator: Any) -> None:
        options, state = self._config.optimiser, self._state
        epoch, num_epochs = len(state.history), sum(phase.epochs for phase in self._phases)
        done = losses(of_phase(state.history, state.phase))
        rate = self._phases[state.phase].learning_rate
        rate = decayed_rate(len(done), rate, options.decay_every_epochs, options.decay_factor)
        if options.reduce_lr_on_plateau:
            rate = plateau_rate(done, rate, options.plateau_factor, options.plateau_patience, options.min_learning_rate)
        self._optimizer.learning_rate = rate
        num_steps = self._order.steps_per_epoch
        title = f"epoch {epoch + 1}/{num_epochs}"
        progress = Progress(title, num_steps, self._order.global_batch_size, self._log)
        started = time.monotonic()
        entry = {"epoch": epoch, "phase": state.phase, "learning_rate": rate}
        entry |= loop.train_epoch(self._step, iterator, num_steps, progress, options.steps_per_call)
        p_fake = self._evaluate(self._validation)
        entry |= loop.evaluation_metrics(self._validation.labels, p_fake, "validation")
        entry["seconds"] = time.monotonic() - started
        self._state = replace(state, step=state.step + num_steps, history=[*state.history, entry])
        is_best = best_epoch(losses(self._state.history)) == epoch
        if is_best:
            self._best = self._model.get_weights()
        left = (num_epochs - epoch - 1) * entry["seconds"]
        self._log(
            f"{title} loss {entry['train/loss']:.4f} accuracy {entry['train/accuracy']:.4f}"
            f" validation loss {entry['validation/loss']:.4f} accuracy {entry['validation/accuracy']:.4f}"
            f"{' (best)' if is_best else ''}, {entry['train/images_per_second']:.1f} images/s,"
            f" at most {duration(left)} left"
        )
        self._logger.epoch(epoch, {key: entry[key] for key in entry if key not in ("epoch", "phase")})
        best = None if is_best else self._best
        self._reports.report(
            entry, lambda directory: checkpoints.save(directory, self._state, self._model, self._optimizer, best)
        )

    def _finish(self) -> None:
        history = self._state.history
        best = best_epoch(losses(history)) if history else 0
        if history:
            self._log(f"trained; the weights of epoch {best + 1} are kept")
        self._model.set_weights(self._best)
        scores = {split: self._evaluate(self._records[split]) for split in ("validation", "test")}
        tables = [predictions(self._records[split], scores[split]) for split in scores]

        def write(directory: Path) -> None:
            checkpoints.save(directory, replace(self._state, is_finished=True))
            pq.write_table(pa.concat_tables(tables), directory / PREDICTIONS)
            (directory / HISTORY).write_text(json.dumps(self._state.history, indent=1))
            self._stock_model().save(directory / MODEL)

        self._reports.report(history[best] if history else {}, write)

    # -- parts --

    def _stock_model(self) -> Any:
        """The model with Keras's own layers only, so that it loads without this project."""
        model = self._family.build(self._config.model, with_weights=False)
        model.set_weights(self._best)
        return model

    def _training_dataset(self, context: tf.distribute.InputContext) -> tf.data.Dataset:
        config = self._config
        return training_batches(
            self._train,
            self._order,
            image_size=config.model.image_size,
            seed=config.job.seed,
            augment=config.augmentation if config.augmentation.augment else None,
            first_step=self._state.step,
            worker=context.input_pipeline_id,
            num_workers=context.num_input_pipelines,
            replicas=self._resources.devices,
            num_threads=self._resources.cpus,
        )

    def _evaluate(self, records: Records) -> np.ndarray:
        """float64 [n]: P(fake) of each record."""

        def make(context: tf.distribute.InputContext) -> tf.data.Dataset:
            return evaluation_batches(
                records,
                image_size=self._config.model.image_size,
                batch_size=EVALUATION_BATCH,
                worker=context.input_pipeline_id,
                num_workers=context.num_input_pipelines,
                replicas=self._resources.devices,
                num_threads=self._resources.cpus,
            )

        return self._evaluation(make, len(records))

    def _make_logger(self, task: Task) -> Any:
        from trainers.tracking import NoLogger, RunLogger

        return RunLogger(task.run_id, task.tracking_uri) if task.run_id and not self._reports.rank else NoLogger()

    def _log(self, line: str) -> None:
        if not self._reports.rank:
            print(line, flush=True)


def predictions(records: Records, p_fake: np.ndarray) -> pa.Table:
    """The manifest's columns of `records` that reports need, and `p_fake` float64."""
    return records.table.select(list(PREDICTED_COLUMNS)).append_column("p_fake", pa.array(p_fake, pa.float64()))
