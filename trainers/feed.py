"""What a training is fed with: batches for its replicas, from shards or cached pixels, and why it waits for them."""

import platform
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import tensorflow as tf

from trainers.config import Config
from trainers.dataset import Records
from trainers.inputs import CHUNK_RECORDS, Source, evaluation_batches, training_batches
from trainers.order import Order
from trainers.pixel_cache import PixelCache, check_room, open_cache
from trainers.reader import naming_damage
from trainers.strategy import Resources
from trainers.waiting import WAIT_SHARE, bottleneck, stage_seconds

EVALUATION_BATCH = 32  # images of one replica; larger ones gain nothing on a CPU

MakeDataset = Callable[[tf.distribute.InputContext], tf.data.Dataset]


class Feed:
    """The inputs of one worker.

    Args:
      config: of the job.
      resources: this worker's.
      train, validation: the records; their pixels are kept if `config` says so.
      order: of the training records.
    """

    def __init__(self, config: Config, resources: Resources, train: Records, validation: Records, order: Order):
        self._config, self._resources, self._train, self._validation = config, resources, train, validation
        self._order = order
        self._pixels: dict[str, PixelCache] = {}
        self._knows_bottleneck = False

    def open_pixels(self, fingerprint: str, directory: Path) -> None:
        """Decodes the images of training and validation once, or finds them decoded, if that is asked for.

        Args:
          fingerprint: of the dataset.
          directory: of caches on disk.

        Raises:
          Refused: they do not fit.
          CorruptRecord: a damaged record.
        """
        data, model = self._config.data, self._config.model
        if data.pixel_cache == "none":
            return
        parts = {"train": self._train, "validation": self._validation}
        most = check_room(parts, data, model.image_size)
        for split, part in parts.items():
            with _naming_damage(part):
                self._pixels[split] = open_cache(
                    part,
                    fingerprint,
                    image_size=model.image_size,
                    aspect=model.aspect,
                    directory=directory if data.pixel_cache == "disk" else None,
                    max_bytes=most,
                )

    def training(self, first_step: int) -> MakeDataset:
        """Training batches from `first_step` on, for `strategy.distribute_datasets_from_function`."""
        config = self._config

        def make(context: tf.distribute.InputContext) -> tf.data.Dataset:
            return training_batches(
                self._train,
                self._order,
                image_size=config.model.image_size,
                aspect=config.model.aspect,
                seed=config.job.seed,
                augment=config.augmentation,
                first_step=first_step,
                worker=context.input_pipeline_id,
                num_workers=context.num_input_pipelines,
                replicas=self._resources.devices,
                num_threads=self._resources.cpus,
                pixels=self._pixels.get("train"),
            )

        return make

    def evaluation(self, records: Records, split: str) -> MakeDataset:
        """Batches of all `records`, which take part as `split`."""

        def make(context: tf.distribute.InputContext) -> tf.data.Dataset:
            return evaluation_batches(
                records,
                image_size=self._config.model.image_size,
                aspect=self._config.model.aspect,
                batch_size=EVALUATION_BATCH,
                worker=context.input_pipeline_id,
                num_workers=context.num_input_pipelines,
                replicas=self._resources.devices,
                num_threads=self._resources.cpus,
                pixels=self._pixels.get(split),
            )

        return make

    def rows_being_read(self, step: int) -> np.ndarray:
        """int64 training rows of `step` and of the following steps that are read with it."""
        share = self._order.global_batch_size // self._resources.workers
        return np.concatenate([self._order.batch(step + k)[0] for k in range(2 + CHUNK_RECORDS // share)])

    def bottleneck(self, wait_shares: np.ndarray, rank: int) -> str | None:
        """Said once, by the worker that waits most, when it waits for images for more than WAIT_SHARE of its steps'
        time: which stage is slow.

        Args:
          wait_shares: float [replicas], of each replica the share that its worker waited.
          rank: of this worker.
        """
        slowest, wait_share = int(wait_shares.argmax()), float(wait_shares.max())
        if wait_share < WAIT_SHARE or self._knows_bottleneck:
            return None
        self._knows_bottleneck = True
        if slowest // self._resources.devices != rank:
            return None
        config = self._config
        source = Source(self._train, self._pixels.get("train"), config.model.image_size, config.model.aspect)
        seconds = stage_seconds(source, self._order.batch(0)[0][:32], config.augmentation, config.job.seed)
        where = f"on {platform.node()}, where worker {rank} runs, " if self._resources.workers > 1 else ""
        return where + bottleneck(wait_share, seconds, config.model.aspect)


def _naming_damage(records: Records) -> AbstractContextManager[None]:
    return naming_damage(records, lambda: np.arange(len(records)))
