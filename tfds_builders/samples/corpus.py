"""A whole corpus: samples made by several processes, written in the layout of a source.

write_corpus("ai_vs_human", out, num_images=2000, seed=0, size=128, processes=2)
"""

import csv
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

from tqdm import tqdm

from tfds_builders.records.errors import Refused
from tfds_builders.samples.images import Sample, make_sample

_DONE = "samples.json"  # written last: what the corpus was made with
_MIN_IMAGES = 100  # fewer do not give every photograph both classes

Layout = Callable[[Path, Iterator[Sample]], None]


def write_ai_vs_human(out: Path, samples: Iterator[Sample]) -> None:
    """`<category>/<0_real or 1_fake>/<photograph>__<number>.png`, and generators.csv (path, generator) of the fakes."""
    generators = []
    for sample in samples:
        name = f"{sample.photograph.scene}__{sample.index // 2:06d}.png"
        path = out / sample.photograph.category / ("0_real", "1_fake")[sample.label] / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(sample.png)
        if sample.generator:
            generators.append((path.relative_to(out).as_posix(), sample.generator))
    with open(out / "generators.csv", "w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([("path", "generator"), *generators])


LAYOUTS: dict[str, Layout] = {"ai_vs_human": write_ai_vs_human}


def write_corpus(layout: str, out: Path, num_images: int, seed: int, size: int, processes: int) -> bool:
    """Writes a corpus, unless the same one is there already.

    Args:
      layout: a name of LAYOUTS.
      out: folder, made if missing.
      num_images: half of them real, half fake.
      seed: decides every image.
      size: side of an image in pixels, even.
      processes: how many work at it; does not change the result.

    Returns:
      Whether anything was written.

    Raises:
      Refused: `out` holds something else, or a number is out of range.
    """
    made_with = {"layout": layout, "images": num_images, "seed": seed, "size": size}
    if num_images < _MIN_IMAGES:
        raise Refused(
            f"--images must be at least {_MIN_IMAGES}, so that both classes are everywhere; received {num_images}."
        )
    if size < 32 or size % 2:
        raise Refused(f"--size must be even and at least 32 pixels; received {size}.")
    done = out / _DONE
    if done.exists() and json.loads(done.read_text()) == made_with:
        return False
    if done.exists() or (out.is_dir() and any(out.iterdir()) and not (out / "unfinished").exists()):
        raise Refused(
            f"--out must be empty or hold the same corpus; {out} holds something else. Choose another folder."
        )
    out.mkdir(parents=True, exist_ok=True)
    (out / "unfinished").touch()  # so that a run that was interrupted can be run again
    make = partial(make_sample, num_images=num_images, seed=seed, size=size)
    with ProcessPoolExecutor(processes) as pool:
        samples = pool.map(make, range(num_images), chunksize=32)
        LAYOUTS[layout](out, iter(tqdm(samples, total=num_images, desc=f"{layout} samples", unit=" images")))
    done.write_text(json.dumps(made_with) + "\n")
    (out / "unfinished").unlink()
    return True
