"""A whole corpus: samples made by several processes, written in the layout of a source.

write_corpus("ai_vs_human", out, num_images=2000, seed=0, size=128, processes=2)
"""

import json
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

from tqdm import tqdm

from tfds_builders.records.errors import Refused
from tfds_builders.samples.layouts import LAYOUTS

_DONE = "samples.json"  # what the corpus was made with
_UNFINISHED = "unfinished"  # its name until all is written
_MIN_IMAGES = 100  # fewer do not give every photograph both classes


def write_corpus(layout: str, out: Path, num_images: int, seed: int, size: int, processes: int) -> bool:
    """Writes a corpus, unless the same one is there already.

    Args:
      layout: a name of LAYOUTS.
      out: folder, made if missing.
      num_images: half of them real, half fake; videos, if the layout is one of videos.
      seed: decides every image.
      size: side of an image in pixels, divisible by 4.
      processes: how many work at it; does not change the result.

    Returns:
      Whether anything was written.

    Raises:
      Refused: `out` holds something else, or a number is out of range.
    """
    made_with: dict[str, str | int] = {"layout": layout, "images": num_images, "seed": seed, "size": size}
    _check_numbers(num_images, seed, size, processes)
    if _is_finished(out, made_with):
        return False
    out.mkdir(parents=True, exist_ok=True)
    (out / _UNFINISHED).write_text(json.dumps(made_with) + "\n")  # a run that was interrupted can be run again
    make = partial(LAYOUTS[layout].make, num_images=num_images, seed=seed, size=size)
    # Not forked: the caller may have TensorFlow's threads running.
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        made = pool.map(make, range(num_images), chunksize=max(1, min(32, num_images // (4 * processes))))
        LAYOUTS[layout].write(out, iter(tqdm(made, total=num_images, desc=f"{layout} samples", unit=" images")))
    (out / _UNFINISHED).rename(out / _DONE)
    return True


def _check_numbers(num_images: int, seed: int, size: int, processes: int) -> None:
    if num_images < _MIN_IMAGES:
        raise Refused(
            f"--images must be at least {_MIN_IMAGES}, so that both classes are everywhere; received {num_images}."
        )
    if size < 32 or size % 4:  # the generators double the size twice
        raise Refused(f"--size must be divisible by 4 and at least 32 pixels; received {size}.")
    if seed < 0:
        raise Refused(f"--seed must not be negative; received {seed}.")
    if processes < 1:
        raise Refused(f"--processes must be at least 1; received {processes}.")


def _is_finished(out: Path, made_with: dict[str, str | int]) -> bool:
    """Whether `out` holds this very corpus; if not, it is empty or holds an unfinished part of it.

    Raises:
      Refused: `out` is a file, or holds anything else.
    """
    if not out.exists():
        return False
    if not out.is_dir():
        raise Refused(f"--out must be a folder; {out} is a file. Choose another name.")
    for mark in (_DONE, _UNFINISHED):
        if (out / mark).exists():
            if _read(out / mark) == made_with:
                return mark == _DONE
            break
    else:
        if not any(out.iterdir()):
            return False
    raise Refused(f"--out must be empty or hold the same corpus; {out} holds something else. Choose another folder.")


def _read(mark: Path) -> object:
    try:
        return json.loads(mark.read_text())
    except ValueError:  # cut off while it was written, or somebody else's file
        return None
