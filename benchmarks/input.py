"""How fast images reach a model: reading, decoding, resizing and augmenting, against what else one could do.

    python benchmarks/input.py                                 # 20,000 JPEG of 25 KB, 3,000 PNG of 140 KB: 8 minutes
    python benchmarks/input.py --only png                      # one part: 1 to 4 minutes
    python benchmarks/input.py --jpeg 4000 --png 600 --rounds 3   # a quick look: 2 minutes

Ours reads in global random order, by offset. Against it stand
  sequential      TFRecordDataset in file order, one fused map with the same decoder and the same resize, the best of
                  four tunings;
  bare decoder    the same decoding operation on encoded images in memory: what decoding alone allows;
  single files    the published way: listed and shuffled paths, read_file, decode, resize to float32.
All sides run in one process, one after the other in every round, so that each round's ratios see the same machine.
Images/s are medians over the rounds, `ratio` columns medians of the rounds' own ratios. The last line is JSON; its
`ratio` is ours over sequential with decoding and resizing to 224 x 224.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf
from build import NUM_SHARDS, build_dataset

from tfds_builders.records.pixels import decode_uint8, resize_uint8
from trainers.config import AugmentConfig
from trainers.dataset import Records, find, load
from trainers.inputs import BatchIterator, training_batches
from trainers.order import Order
from trainers.pixel_cache import open_cache
from trainers.reader import RecordReader

BATCH = 32  # images, as in the published training
SIZE = 224  # pixels
WARM_UP_BATCHES = 8
STAGES = ("jpeg", "scaling", "png")
THREADS = (1, 2, 4, 8, 16)

Make = Callable[[int], tf.data.Dataset]  # round -> dataset of batches


def built(work: Path, kind: str, count: int) -> tuple[Path, Records]:
    """Makes `count` files and builds them; returns the files' folder and the training records."""
    build_dataset(work, kind, count)
    return work / "manual", load(find("ai_vs_human", work / "data")).select("train")


def ours(records: Records, **options) -> Make:
    """Our training input; each round begins at another place of the order."""
    order = Order(len(records), BATCH, seed=0)
    return lambda round_: training_batches(records, order, seed=0, first_step=1000 * round_, **options)


def ours_until(records: Records, last: Callable) -> Make:
    """Ours with another last operation than decode and resize."""
    from trainers import inputs

    def make(round_: int) -> tf.data.Dataset:
        order = Order(len(records), BATCH, seed=0)
        source = inputs.Source(records, None, SIZE, "resize")
        examples = inputs._examples(
            source, lambda step: order.worker_rows(1000 * round_ + step, 0, 1), None, BATCH, "position", np.int64
        )
        return inputs._batched(examples, lambda example: example | {"image": last(example["image"])}, BATCH, None)

    return make


def sequential(records: Records, last: Callable) -> dict[str, Make]:
    """A TFRecordDataset over the same shards in file order, tuned in four ways."""
    files = [str(records.directory / name) for name in records.shard_names]
    features = {"image": tf.io.FixedLenFeature((), tf.string), "label": tf.io.FixedLenFeature((), tf.int64)}

    def fused(serialised: tf.Tensor) -> tuple:
        example = tf.io.parse_single_example(serialised, features)
        return last(example["image"]), example["label"]

    def make(parallel_reads: int | None, deterministic: bool) -> Make:
        def dataset(_: int) -> tf.data.Dataset:
            records = tf.data.TFRecordDataset(files, num_parallel_reads=parallel_reads).repeat()
            mapped = records.map(fused, num_parallel_calls=tf.data.AUTOTUNE, deterministic=deterministic)
            return mapped.batch(BATCH, drop_remainder=True).prefetch(tf.data.AUTOTUNE)

        return dataset

    return {
        f"sequential, {reads or 1} reads{'' if in_order else ', any order'}": make(reads, in_order)
        for reads in (None, NUM_SHARDS)
        for in_order in (True, False)
    }


def bare_decoder(records: Records) -> Make:
    """The decoding operation alone, on 2,000 encoded images in memory, on all cores."""
    images = list(RecordReader(records).images(np.arange(min(len(records), 2000))))
    encoded = tf.data.Dataset.from_tensor_slices(images)
    return lambda _: (
        encoded.repeat()
        .map(decode_uint8, num_parallel_calls=tf.data.AUTOTUNE)
        .batch(BATCH, drop_remainder=True)
        .prefetch(tf.data.AUTOTUNE)
    )


def single_files(manual_dir: Path, records: Records) -> Make:
    """The published pipeline: one small file an image."""
    paths = [str(manual_dir / id) for id in records.ids()]

    def load_file(path: tf.Tensor) -> tf.Tensor:
        image = tf.io.decode_image(tf.io.read_file(path), channels=3, expand_animations=False)
        image.set_shape((None, None, 3))
        return tf.image.resize(image, (SIZE, SIZE))

    return lambda _: (
        tf.data.Dataset.from_tensor_slices(paths)
        .shuffle(len(paths))
        .repeat()
        .map(load_file, num_parallel_calls=tf.data.AUTOTUNE)
        .batch(BATCH)
        .prefetch(tf.data.AUTOTUNE)
    )


def measure(sides: dict[str, Make], num_images: int, rounds: int) -> dict[str, list[tuple[float, float]]]:
    """(images/s, CPU microseconds an image) of each side in each round; sides alternate."""
    measured: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for round_ in range(rounds):
        for name, make in sides.items():
            with BatchIterator(make(round_)) as batches:
                for _ in range(WARM_UP_BATCHES):
                    next(batches)
                start, cpu_start = time.perf_counter(), time.process_time()
                for _ in range(num_images // BATCH):
                    next(batches)
                seconds, cpu = time.perf_counter() - start, time.process_time() - cpu_start
            count = num_images // BATCH * BATCH
            measured[name].append((count / seconds, 1e6 * cpu / count))
    return measured


def report(title: str, measured: dict[str, list[tuple[float, float]]], base: str) -> dict[str, float]:
    """Prints one stage; returns each side's ratio to `base` in images/s."""
    print(f"\n{title}\n{'':32}{'images/s':>10}{'ratio':>8}{'CPU us/image':>14}")
    ratios = {}
    for name, rounds in measured.items():
        ratios[name] = statistics.median(a / b for (a, _), (b, _) in zip(rounds, measured[base], strict=True))
        speed, cpu = (statistics.median(values) for values in zip(*rounds, strict=True))
        print(f"{name:32}{speed:10,.0f}{ratios[name]:8.2f}{cpu:14,.0f}", flush=True)
    return ratios


def best(measured: dict[str, list[tuple[float, float]]]) -> str:
    """The fastest of the sequential readers."""
    sides = [name for name in measured if name.startswith("sequential")]
    return max(sides, key=lambda name: statistics.median(speed for speed, _ in measured[name]))


def read_some(records: Records, num_images: int, num_threads: int, seed: int = 0) -> float:
    """Images/s of reading alone, by threads that each take 128 records at a time."""
    reader = RecordReader(records)
    rows = np.random.default_rng(seed).permutation(np.arange(num_images) % len(records))
    chunks = np.array_split(rows, max(1, num_images // 128))
    with ThreadPoolExecutor(num_threads) as pool:
        start = time.perf_counter()
        for _ in pool.map(reader.images, chunks):
            pass
        return num_images / (time.perf_counter() - start)


def _read_in_a_process(directory: str, num_images: int, seed: int, barrier, results) -> None:
    records = load(directory).select("train")
    read_some(records, 256, 1)
    barrier.wait()
    results.put(read_some(records, num_images, 1, seed))


def read_in_processes(records: Records, num_images: int, num_processes: int) -> float:
    """Images/s of reading alone, by processes of one thread each, together."""
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(num_processes), context.Queue()
    processes = [
        context.Process(target=_read_in_a_process, args=(str(records.directory), num_images, seed, barrier, results))
        for seed in range(num_processes)
    ]
    for process in processes:
        process.start()
    total = sum(results.get() for _ in processes)
    for process in processes:
        process.join()
    return total


def jpeg_stages(manual_dir: Path, records: Records, num_images: int, rounds: int) -> dict[str, float]:
    """Reading, decoding, resizing, augmenting of JPEG."""
    found = {}
    measured = measure(
        {"ours": ours_until(records, tf.identity)} | sequential(records, tf.identity), 4 * num_images, rounds
    )
    found["read"] = report("JPEG: read", measured, best(measured))["ours"]

    measured = measure(
        {"ours": ours_until(records, decode_uint8), "bare decoder": bare_decoder(records)}
        | sequential(records, decode_uint8),
        num_images,
        rounds,
    )
    found["decode, of the bare decoder"] = report("JPEG: read, decode", measured, "bare decoder")["ours"]

    sides = {"ours": ours(records, image_size=SIZE)}
    sides |= {"ours, augmented": ours(records, image_size=SIZE, augment=AugmentConfig())}
    sides |= {"single files": single_files(manual_dir, records)}
    measured = measure(
        sides | sequential(records, lambda data: resize_uint8(decode_uint8(data), SIZE)), num_images, rounds
    )
    found["resize, of sequential"] = report(f"JPEG: read, decode, resize to {SIZE}", measured, best(measured))["ours"]
    found["resize, of single files"] = statistics.median(
        a / b for (a, _), (b, _) in zip(measured["ours"], measured["single files"], strict=True)
    )
    return found


def threads_and_processes(records: Records, num_images: int, rounds: int) -> dict[str, float]:
    """How all of the input scales with TensorFlow's threads, and reading alone, whose Python part holds the
    interpreter's lock, with threads and processes."""
    sides = {f"{number} thread(s)": ours(records, image_size=SIZE, num_threads=number) for number in THREADS}
    title = f"JPEG: read, decode, resize to {SIZE}, by threads"
    found = report(title, measure(sides, num_images, rounds), "1 thread(s)")
    print(f"\nJPEG: reading alone, in Python\n{'':32}{'images/s':>10}")
    for num_threads in THREADS:
        speed = statistics.median(read_some(records, 4 * num_images, num_threads) for _ in range(rounds))
        print(f"{num_threads:3} thread(s){'':19}{speed:10,.0f}")
    for num_processes in (1, 2):
        print(f"{num_processes:3} process(es){'':17}{read_in_processes(records, 4 * num_images, num_processes):10,.0f}")
    return {f"{name}, of 1": ratio for name, ratio in list(found.items())[1:]}


def png_cache(records: Records, work: Path, num_images: int, rounds: int) -> float:
    """The pixel cache against decoding the same PNG files."""
    start = time.perf_counter()
    cache = open_cache(records, "benchmark", image_size=SIZE, directory=work / "pixels", max_bytes=2**40)
    print(f"\nPNG: the pixel cache was made at {len(records) / (time.perf_counter() - start):,.0f} images/s")
    sides = {
        "decoded": ours(records, image_size=SIZE),
        "from the pixel cache": ours(records, image_size=SIZE, pixels=cache),
    }
    sides |= {"the same, augmented": ours(records, image_size=SIZE, pixels=cache, augment=AugmentConfig())}
    measured = measure(sides, num_images, rounds)
    return report(f"PNG: read, decode, resize to {SIZE}", measured, "decoded")["from the pixel cache"]


def main() -> None:
    """Makes the corpora, measures every stage and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=STAGES, default=STAGES, help="what to measure (default: all)")
    parser.add_argument("--jpeg", type=int, default=20_000, help="number of JPEG files of about 25 KB")
    parser.add_argument("--png", type=int, default=3_000, help="number of PNG files of about 140 KB")
    parser.add_argument("--rounds", type=int, default=5, help="how often each side is run")
    parser.add_argument("--images", type=int, default=6_400, help="images of one side in one round")
    parser.add_argument("--work", type=Path, help="where to make the corpora (default: a temporary folder)")
    options = parser.parse_args()
    found = {}
    with tempfile.TemporaryDirectory(dir=options.work) as folder:
        work, num_images, rounds = Path(folder), options.images, options.rounds
        if {"jpeg", "scaling"} & set(options.only):
            manual_dir, records = built(work / "jpg", "jpg", options.jpeg)
        if "jpeg" in options.only:
            found |= jpeg_stages(manual_dir, records, num_images, rounds)
        if "scaling" in options.only:
            found |= threads_and_processes(records, num_images, rounds)
        if "png" in options.only:
            _, records = built(work / "png", "png", options.png)
            found["pixel cache, of decoding PNG"] = png_cache(records, work, num_images // 4, rounds)
    ratios = {name: round(value, 3) for name, value in found.items()}
    print(json.dumps({"ratio": ratios.get("resize, of sequential")} | ratios))


if __name__ == "__main__":
    main()
