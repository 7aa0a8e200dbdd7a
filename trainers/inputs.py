"""From a selection of records to batches of pixels, for training and for evaluation.

    dataset = training_batches(records, Order(len(records), 32, seed=0), image_size=224, seed=0, augment=None)
    with BatchIterator(dataset) as batches:
        batch = next(batches)   # {"image": uint8 [32, 224, 224, 3], "label": float32 [32], ...}

One fixed order of operations, and why:
  1. order: row numbers come first, so that what is read is decided by integers alone, in any epoch, on any worker;
  2. read: encoded bytes by their offsets, some dozens of records in one Python call, because each call costs a lock;
  3. decode, crop or resize: in TensorFlow's threads, one image at a time, because sizes differ; it stays in order;
  4. augment: on the square (fewer pixels), with numbers drawn from (seed, position);
  5. batch: last, replica by replica, all of one shape; uint8 up to the model, a quarter of the bytes of float32.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from tfds_builders.records.pixels import MIDDLE, RANDOM_CROP, RESIZE, decode_uint8, square_uint8
from trainers.augment import augment_uint8, crop_place
from trainers.dataset import Records
from trainers.order import Order, batch_share, evaluation_rows, num_evaluation_steps
from trainers.pixel_cache import PixelCache
from trainers.policies import BlockedOrder
from trainers.reader import open_reader

# Records read in one Python call. CPU time an image (19 KB JPEG; read, decode, resize to 224): 673 us with 32 records a
# call, 653 with 64, 646 with 128, 641 with 256; a sequential TFRecordDataset 656. More makes the first batch wait.
CHUNK_RECORDS = 128


def training_batches(
    records: Records,
    order: Order,
    *,
    image_size: int,
    seed: int,
    augment: Any = None,
    aspect: str = RESIZE,
    first_step: int = 0,
    num_steps: int | None = None,
    worker: int = 0,
    num_workers: int = 1,
    replicas: int = 1,
    num_threads: int | None = None,
    pixels: PixelCache | None = None,
) -> tf.data.Dataset:
    """Training batches of one worker, all full, in the order that `order` gives.

    Element k * replicas + r is replica r's part of step first_step + k: rows [r * b, (r + 1) * b) of the worker's
    slice of the global batch, where b = global batch / (num_workers * replicas).

    Args:
      records: what is drawn from; `order` must have been made for as many examples.
      order: says which rows make up which global batch.
      image_size: side of the square images, pixels.
      seed: of the augmentation.
      aspect: how images become squares: "resize", "centre_crop" or "random_crop" (see trainers/config.py).
      augment: an AugmentConfig, or None for images as they are.
      first_step: where to begin; a resumed training begins where it stopped.
      num_steps: steps until the dataset ends; None: it never does.
      worker, num_workers, replicas: which part of the global batch this worker takes and how it is cut up.
      num_threads: size of a thread pool for this dataset alone; None: TensorFlow's shared pool.
      pixels: the decoded pixels of the same records, if there are any.

    Returns:
      Dataset of {"image": uint8 [b, image_size, image_size, 3], "label": float32 [b], "row": int64 [b],
      "position": int64 [b]}.

    Raises:
      ValueError: the replicas do not divide the global batch, the order is for another number of examples, or the
        pixels are of other records.
      tf.errors.OpError, while iterating: a damaged record; the message names shard, offset and id.
    """
    if order.num_examples != len(records):
        raise ValueError(f"The order is for {order.num_examples} examples, there are {len(records)} records.")
    share = batch_share(order.global_batch_size, num_workers)
    replica_batch = batch_share(order.global_batch_size, num_workers * replicas)

    def rows_of(step: int) -> tuple[np.ndarray, np.ndarray]:
        return order.worker_rows(first_step + step, worker, num_workers)

    blocks = (order.block_size, order.window_size) if isinstance(order, BlockedOrder) else (1, 1)
    source = Source(records, pixels, image_size, aspect, *blocks)
    examples = _examples(source, rows_of, num_steps, share, "position", np.int64)

    def prepare(example: dict) -> dict:
        place = crop_place(seed, example["position"]) if aspect == RANDOM_CROP else MIDDLE
        image = decoded_square(example["image"], image_size, aspect, place)
        if augment is not None:
            image = augment_uint8(image, augment, seed, example["position"])
        return example | {"image": image}

    return _batched(examples, prepare, replica_batch, num_threads)


def evaluation_batches(
    records: Records,
    *,
    image_size: int,
    batch_size: int,
    aspect: str = RESIZE,
    worker: int = 0,
    num_workers: int = 1,
    replicas: int = 1,
    num_threads: int | None = None,
    pixels: PixelCache | None = None,
) -> tf.data.Dataset:
    """Batches that hold every record exactly once over all workers, in stored order, padded with mask 0 at the end.

    Every worker yields the same number of elements, `num_evaluation_steps(...) * replicas`, replica by replica as
    `training_batches` does. Padding repeats the last record.

    Args:
      batch_size: of one replica.
      aspect: as in `training_batches`; of "random_crop" the middle is taken.
      records, image_size, worker, num_workers, replicas, num_threads, pixels: as in `training_batches`.

    Returns:
      Dataset of {"image": uint8 [batch_size, image_size, image_size, 3], "label": float32 [batch_size],
      "row": int64 [batch_size], "mask": float32 [batch_size]}.

    Raises:
      tf.errors.OpError, while iterating: a damaged record; the message names shard, offset and id.
    """
    num_steps = num_evaluation_steps(len(records), batch_size, num_workers, replicas)

    def rows_of(step: int) -> tuple[np.ndarray, np.ndarray]:
        return evaluation_rows(step, len(records), batch_size, worker, num_workers, replicas)

    share = batch_size * replicas  # a worker's rows of one step are neighbours, and nobody else's
    source = Source(records, pixels, image_size, aspect, block_size=share, window_size=share)
    examples = _examples(source, rows_of, num_steps, share, "mask", np.float32)

    def prepare(example: dict) -> dict:
        return example | {"image": decoded_square(example["image"], image_size, aspect)}

    return _batched(examples, prepare, batch_size, num_threads)


class BatchIterator:
    """An iterator over a dataset that is let go of at the end of a `with` block.

    A process may hang at exit while an iterator over a dataset that calls Python is alive. Inside a `tf.function`
    pass `.iterator`, and keep no other reference to it.
    """

    def __init__(self, dataset: Any):
        self.iterator = iter(dataset)

    def __enter__(self) -> "BatchIterator":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __iter__(self) -> "BatchIterator":
        return self

    def __next__(self) -> Any:
        if self.iterator is None:
            raise ValueError("The iterator is closed.")
        return next(self.iterator)

    def close(self) -> None:
        """Ends the background reading. Closing twice is fine."""
        self.iterator = None


class Source:
    """Where images come from: encoded from the shards, or decoded from the pixel cache.

    Attributes:
      records: theirs.
      image_size, aspect: as in `training_batches`.
      images: rows int64 [k] -> their images.
      image_type, image_shape: of one image, scalar string or uint8 [image_size, image_size, 3].
    """

    def __init__(
        self,
        records: Records,
        pixels: PixelCache | None,
        image_size: int,
        aspect: str,
        block_size: int = 1,
        window_size: int = 1,
    ):
        self.records, self.image_size, self.aspect = records, image_size, aspect
        self.images: Callable[[np.ndarray], np.ndarray]
        self.image_shape: tuple[int, ...]
        if pixels is None:
            self.images = open_reader(records, block_size, window_size).images
            self.image_type, self.image_shape = tf.string, ()
        else:
            pixels.check(records, image_size, aspect)
            self.images = pixels.images
            self.image_type, self.image_shape = tf.uint8, (image_size, image_size, 3)


def _examples(
    source: Source,
    rows_of: Callable[[int], tuple[np.ndarray, np.ndarray]],
    num_steps: int | None,
    share: int,
    extra: str,
    extra_dtype: type,
) -> tf.data.Dataset:
    """Single examples {"image", "label", "row", extra}, in order, read some steps at a time.

    Args:
      rows_of: step -> (rows int64 [share], extra [share]).
    """
    steps_per_chunk = max(1, CHUNK_RECORDS // share)
    end = np.iinfo(np.int64).max if num_steps is None else num_steps

    def read(first: np.ndarray) -> tuple:
        steps = range(int(first), min(int(first) + steps_per_chunk, end))
        parts = [rows_of(step) for step in steps]
        rows = np.concatenate([rows for rows, _ in parts])
        extras = np.concatenate([extra for _, extra in parts])
        return source.images(rows), source.records.labels[rows].astype(np.float32), rows, extras

    def read_chunk(first: tf.Tensor) -> dict:
        # stateful=False: what is read depends on `first` alone. A stateful call would be run one at a time when
        # deterministic operations are asked for.
        types = (source.image_type, tf.float32, tf.int64, tf.as_dtype(extra_dtype))
        values = tf.numpy_function(read, [first], types, stateful=False)
        for value, shape in zip(values, (source.image_shape, (), (), ()), strict=True):
            value.set_shape((None, *shape))
        return dict(zip(("image", "label", "row", extra), values, strict=True))

    chunks = tf.data.Dataset.range(0, end, steps_per_chunk)
    return chunks.map(read_chunk, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True).unbatch()


def decoded_square(image: tf.Tensor, image_size: int, aspect: str, place: Any = MIDDLE) -> tf.Tensor:
    """uint8 [image_size, image_size, 3]: what the model sees of an encoded image; cached pixels stay what they are.

    Args:
      image: scalar string, or uint8 pixels.
      aspect, place: as of `records.pixels.square_uint8`.
    """
    return image if image.dtype == tf.uint8 else square_uint8(decode_uint8(image), image_size, aspect, place)


def _batched(examples: tf.data.Dataset, prepare: Callable, batch_size: int, num_threads: int | None) -> tf.data.Dataset:
    options = tf.data.Options()
    options.deterministic = True
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    if num_threads is not None:
        options.threading.private_threadpool_size = num_threads
    return (
        examples.map(prepare, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        .batch(batch_size, drop_remainder=True)
        .prefetch(tf.data.AUTOTUNE)
        .with_options(options)
    )
