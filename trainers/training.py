"""One worker's training from beginning to end: phases, epochs, checkpoints, evaluation, results.

Every decision is a function of the checkpoint alone, so a resumed training takes the same ones.
"""

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tensorflow as tf

from tfds_builders.records.errors import Refused
from tfds_builders.records.schema import LABELS
from trainers import checkpoints, strategy
from trainers.agreement import Agreement
from trainers.calls import step_metrics, train_steps
from trainers.compiled import why_not_compiled
from trainers.config import difference, from_dict, to_dict
from trainers.dataset import Records
from trainers.decision import Decision
from trainers.errors import CannotTrain
from trainers.feed import Feed
from trainers.history import SPEED, best_epoch, losses, metrics_of, of_phase, position
from trainers.home import keras_dir, locked
from trainers.jobs import HISTORY, MODEL, PREDICTIONS
from trainers.loop import StepOptions, StepResults, TrainStep
from trainers.mixture import load_all
from trainers.models.families import FAMILIES
from trainers.models.layers import GlobalBatch, dropout_maker, with_global_batch_norm
from trainers.optimiser import averaged_weights, class_weights, computing_in, make_optimizer
from trainers.packing import Settings
from trainers.policies import make_order
from trainers.predictions import predictions
from trainers.progress import Progress, duration
from trainers.rate import epoch_rates, scaled
from trainers.reader import naming_damage
from trainers.selection import selected, with_shuffled_labels
from trainers.validation import Evaluation, evaluation_metrics
from trainers.worker import Task


class Training:
    """The training that `task` describes.

    Args:
      task: from the driver; the same on every worker.
      reports: where checkpoints come from and go to (trainers/reports.py).

    Raises:
      Refused: the dataset is not there, or another one.
    """

    def __init__(self, task: Task, reports: Any):
        self._reports, self._resources = reports, task.resources
        self._config = config = from_dict(task.config)
        dataset = load_all(task.dataset_directories)
        if dataset.fingerprint != task.fingerprint:
            raise Refused(
                f"the dataset in {', '.join(task.dataset_directories)} must be the one that the job began with, "
                f"{task.fingerprint[:12]}. Received: {dataset.fingerprint[:12]}. Restore that one, or name another job."
            )
        self._records = selected(dataset, config)
        self._validation = self._records["validation"]
        self._train = self._records["train"]
        if config.data.shuffle_labels:
            self._train = with_shuffled_labels(self._train, config.job.seed)
            self._validation = with_shuffled_labels(self._validation, config.job.seed)
        self._family = FAMILIES[config.model.family]
        self._phases = self._family.phases(config) if config.optimiser.epochs else []
        self._order = make_order(self._train, config.data, config.optimiser.global_batch_size, config.job.seed)
        self._feed = Feed(config, self._resources, self._train, self._validation, self._order)
        self._pixels_directory = Path(task.pixels_directory)
        self._state = checkpoints.State(0, 0, [], task.config, task.fingerprint)
        self._taken = checkpoints.Taken()
        self._is_machine_leaving = False
        self._saved_at = time.monotonic()
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
        usual = to_dict(self._family.variants[self._config.model.variant])
        self._log(
            f"other than the variant's defaults: {', '.join(difference(usual, to_dict(self._config))) or 'nothing'}"
        )
        self._log(self._trainable)
        self._feed.open_pixels(self._state.fingerprint, self._pixels_directory)
        dataset = self._strategy.distribute_datasets_from_function(self._feed.training(self._state.step))
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
        if not directory and config.model.weights == "imagenet":
            # Keras downloads right into the file that it reads: workers and jobs that share it, on one machine or
            # several, would write into it together. Not while the model itself is built, when workers wait for one
            # another at every variable.
            keras_dir().mkdir(parents=True, exist_ok=True)
            with locked(keras_dir() / "realshard.lock"):
                self._family.build(config.model)
            keras.backend.clear_session()  # layers are named as if nothing had been built
        keras.utils.set_random_seed(config.job.seed)
        if directory:
            self._state = checkpoints.load_state(directory)
        with self._strategy.scope():
            step = tf.Variable(self._state.step, dtype=tf.int64, trainable=False, name="step")
            self._global_batch = GlobalBatch(config.job.seed, config.optimiser.global_batch_size, step)
            dropout = dropout_maker(self._global_batch)
            with computing_in(config.optimiser.precision):
                self._model = self._family.build(config.model, dropout, with_weights=directory is None)
            if self._resources.replicas > 1:
                self._model = with_global_batch_norm(self._model)
        if config.optimiser.xla:
            reason = why_not_compiled(self._model, self._phases, config.model, self._resources.replicas)
            if reason:
                raise CannotTrain(reason)
        self._evaluation = Evaluation(self._strategy, self._model)
        self._best = self._model.get_weights()
        self._enter_phase()
        if directory:
            self._best = checkpoints.restore(directory, self._model, self._optimizer)
            self._taken = checkpoints.load_taken(directory)
            self._log(f"resumed after epoch {len(self._state.history)}, step {self._state.step}")

    def _enter_phase(self) -> None:
        if not self._phases:
            self._trainable = "nothing is trained, the weights are evaluated as they are"
            return
        phase = self._phases[self._state.phase]
        self._trainable = phase.set_trainable(self._model, self._config.model)
        options = self._config.optimiser
        with self._strategy.scope():
            self._optimizer = make_optimizer(phase.learning_rate, options)
        weights = class_weights(self._train.labels, self._order, options.class_weights)
        self._step = TrainStep(
            self._strategy,
            self._model,
            self._optimizer,
            self._global_batch,
            StepOptions(options.clip_norm, options.accumulate, weights, options.xla),
            ids_of=lambda step: self._train.ids(self._order.batch(step)[0]),
        )
        self._agreement = Agreement(self._strategy, [*self._model.variables, *self._optimizer.variables])

    def _next_phase(self) -> int | None:
        if not self._phases:
            return None
        epochs = [phase.epochs for phase in self._phases]
        return position(self._state.history, epochs, self._config.optimiser.early_stopping_patience)

    # -- one epoch --

    def _epoch(self, iterator: Any) -> None:
        options, state = self._config.optimiser, self._state
        epoch, num_epochs = len(state.history), sum(phase.epochs for phase in self._phases)
        rates = self._rates()
        title = f"epoch {epoch + 1}/{num_epochs}"
        started = time.monotonic()
        entry = {"epoch": epoch, "phase": state.phase, "learning_rate": float(rates[-1])}
        entry |= self._train_epoch(iterator, title, rates)
        if self._resources.replicas > 1:
            self._agreement.check(f"After epoch {epoch + 1}")
        with averaged_weights(self._strategy, self._model, self._optimizer, options):
            p_fake = self._evaluate(self._validation, "validation")
            weights = self._model.get_weights()
        entry |= evaluation_metrics(self._validation.labels, p_fake, "validation")
        entry["seconds"] = time.monotonic() - started
        self._state = replace(self._state, history=[*state.history, entry])
        is_best = best_epoch(losses(self._state.history)) == epoch
        if is_best:
            self._best = weights
        left = (num_epochs - epoch - 1) * entry["seconds"]
        speed = f", {entry[SPEED]:.1f} images/s" if SPEED in entry else ""
        self._log(
            f"{title} loss {entry['train/loss']:.4f} accuracy {entry['train/accuracy']:.4f}"
            f" validation loss {entry['validation/loss']:.4f} accuracy {entry['validation/accuracy']:.4f}"
            f"{' (best)' if is_best else ''}{speed}, at most {duration(left)} left"
        )
        self._logger.epoch(epoch, metrics_of(entry))
        if is_best and self._config.job.log_checkpoints and not self._reports.rank:
            self._log_checkpoint(epoch)
        self._checkpoint(entry, None if is_best and not options.ema_decay else self._best)

    def _train_epoch(self, iterator: Any, title: str, rates: np.ndarray) -> dict[str, float]:
        """Takes the steps that the epoch still lacks, each with its of the `rates`. Returns means over all its steps,
        while the weights change."""
        num_steps, size = self._order.steps_per_epoch, self._order.global_batch_size
        taken, every = self._taken, self._config.cluster.checkpoint_steps
        progress = Progress(f"{title} step", num_steps, size, self._log, done=len(taken))
        calls = []
        some_steps = train_steps(
            self._step,
            iterator,
            rates,
            first=len(taken),
            steps_per_call=self._config.optimiser.steps_per_call,
            stop_every=every,
            agree=self._reports.agree,
        )
        while call := self._next_call(some_steps):
            calls.append(call)
            progress.update(len(call.losses), float(call.losses.mean()))
            taken.add(call.losses, call.accuracies, call.norms)
            self._state = replace(self._state, step=self._state.step + len(call.losses))
            was_leaving, self._is_machine_leaving = self._is_machine_leaving, self._reports.is_machine_leaving()
            is_leaving = self._is_machine_leaving and not was_leaving
            is_due = len(taken) < num_steps and (bool(every and len(taken) % every == 0) or self._is_time_up())
            if is_leaving or is_due:
                self._checkpoint({"step": self._state.step}, self._best, taken, wait=is_leaving)
        self._taken = checkpoints.Taken()
        entry = {"train/loss": float(np.mean(taken.losses)), "train/accuracy": float(np.mean(taken.accuracies))}
        if self._config.optimiser.clip_norm:
            norms = np.array(taken.norms)[np.isfinite(taken.norms)]  # in float16 steps that overflow are skipped
            entry |= {"train/gradient_norm": float(norms.mean())} if len(norms) else {}
        entry |= step_metrics(calls)
        if calls:  # none, if all steps had been taken before a restart
            entry[SPEED] = progress.images_per_second
            # While one worker waits for its images, the others wait for it and have theirs.
            shares = strategy.of_all_replicas(self._strategy, entry["train/data_wait_share"])
            entry["train/data_wait_share"] = float(shares.max())
            if sentence := self._feed.bottleneck(shares, self._reports.rank):
                print(sentence, flush=True)
        return entry

    def _next_call(self, some_steps: Iterator[StepResults]) -> StepResults | None:
        with naming_damage(self._train, lambda: self._feed.rows_being_read(int(self._global_batch.step.numpy()))):
            return next(some_steps, None)

    def _is_time_up(self) -> bool:
        """Whether the last checkpoint is --checkpoint-minutes old by the first worker's clock, the same for all."""
        minutes = self._config.cluster.checkpoint_minutes
        return bool(minutes and self._reports.agree(int(time.monotonic() - self._saved_at >= 60 * minutes)))

    def _checkpoint(
        self,
        metrics: dict[str, Any],
        best: list[np.ndarray] | None,
        taken: checkpoints.Taken | None = None,
        wait: bool = False,
    ) -> None:
        def write(directory: Path) -> None:
            checkpoints.save(directory, self._state, self._model, self._optimizer, best, taken)

        self._reports.report(metrics, write, wait)
        self._saved_at = time.monotonic()

    def _rates(self) -> np.ndarray:
        """float64 [steps per epoch]: the learning rates of the coming epoch's steps."""
        options, phase = self._config.optimiser, self._phases[self._state.phase]
        done = losses(of_phase(self._state.history, self._state.phase))
        usual = self._family.variants[self._config.model.variant].optimiser.global_batch_size
        peak = scaled(phase.learning_rate, options.global_batch_size, usual, options.scale_rate)
        return epoch_rates(options, peak, done, self._order.steps_per_epoch, phase.epochs)

    def _finish(self) -> None:
        history = self._state.history
        best = best_epoch(losses(history)) if history else 0
        if history:
            self._log(f"trained; the weights of epoch {best + 1} are kept")
        with self._strategy.scope():
            stock_model = self._stock_model()
        self._model.set_weights(self._best)
        if self._config.optimiser.precision != "float32":  # scores are those of the saved model, which is in float32
            self._evaluation = Evaluation(self._strategy, stock_model)
        scores = {split: self._evaluate(self._records[split], split) for split in ("validation", "test")}
        tables = [predictions(self._records[split], scores[split], split=split) for split in scores]

        def write(directory: Path) -> None:
            checkpoints.save(directory, replace(self._state, is_finished=True))
            pq.write_table(pa.concat_tables(tables), directory / PREDICTIONS)
            (directory / HISTORY).write_text(json.dumps(self._state.history, indent=1))
            stock_model.save(directory / MODEL)

        self._logger.flush()  # this process may end at any time after the last report
        self._reports.report(history[best] if history else {}, write, wait=True)

    # -- parts --

    def _stock_model(self) -> Any:
        """The model with Keras's own layers only, so that it loads without this project."""
        model = self._family.build(self._config.model, with_weights=False)
        model.set_weights(self._best)
        return model

    def _log_checkpoint(self, epoch: int) -> None:
        """Keeps the best weights so far in MLflow. Made outside the strategy: only the first worker has a copy."""
        config = self._config
        decision = Decision(config.model.threshold)  # the job's own is known when it has trained
        settings = Settings((LABELS[0], LABELS[1]), config.model.image_size, decision, config.model.aspect)
        name = f"{self._family.registered_name(config)}-checkpoint"
        self._logger.checkpoint(epoch, self._stock_model(), name, settings)

    def _evaluate(self, records: Records, split: str) -> np.ndarray:
        """float64 [n]: P(fake) of each record."""
        progress = Progress(f"{split} image", len(records), write=self._log)
        with naming_damage(records, lambda: self._evaluation.unscored):
            return self._evaluation(self._feed.evaluation(records, split), len(records), progress.update)

    def _make_logger(self, task: Task) -> Any:
        from trainers.run_logger import NoLogger, RunLogger

        return RunLogger(task.run_id, task.tracking_uri) if task.run_id and not self._reports.rank else NoLogger()

    def _log(self, line: str) -> None:
        if not self._reports.rank:
            print(line, flush=True)
