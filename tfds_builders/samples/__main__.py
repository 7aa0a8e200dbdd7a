"""Makes a small corpus of real and re-synthesised images in the layout of a dataset's source.

    python -m tfds_builders.samples ai_vs_human --out corpus --images 2000 --seed 0

Real images are crops of photographs that scikit-image and scikit-learn ship; fakes are other crops, re-synthesised by
processes that leave the traces of image generators. 2,000 images take about 15 seconds on two cores. In the layout
`celeb_df` an image is a short video.
"""

import argparse
import os
from pathlib import Path

from tfds_builders.samples.corpus import LAYOUTS, write_corpus


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tfds_builders.samples",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("layout", choices=sorted(LAYOUTS), help="whose layout to write")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--images", type=int, default=2000, help="how many, half of them fake (default: 2000)")
    parser.add_argument("--seed", type=int, default=0, help="decides every image (default: 0)")
    parser.add_argument("--size", type=int, default=128, help="side of an image in pixels (default: 128)")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="default: one a core")
    options = parser.parse_args()
    if not write_corpus(options.layout, options.out, options.images, options.seed, options.size, options.processes):
        print(f"{options.out} already holds this corpus")


if __name__ == "__main__":
    main()
