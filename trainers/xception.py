#!/usr/bin/env python
"""Trains Xception's classifier to tell real images from fake ones, and registers it as `realshard-xception`.

    python trainers/xception.py --dataset dfdc_faces              the published recipe, ImageNet weights
    python trainers/xception.py --weights none --image-size 71    no download; every layer is trained
    ray job submit --working-dir . -- trainers/xception.py        on a running Ray cluster

The backbone is frozen: Adam 1e-3 with coupled weight decay 1e-4, a tenth of the rate from the sixth epoch on, batch
32, 10 epochs, 299 pixels; flips, turns of 10 degrees, colours.
"""

import sys

from trainers import job
from trainers.config import parse
from trainers.models.xception import VARIANTS


def main() -> None:
    """Parses the command line, runs the job, prints what came out."""
    config = parse(sys.argv[1:], VARIANTS, description=__doc__, prog="xception.py")
    result = job.run(config)
    print(job.describe_result(result))


if __name__ == "__main__":
    main()
