#!/usr/bin/env python
"""Trains InceptionV3 to tell real images from fake ones, and registers it as `realshard-inception_v3`.

    python trainers/inception.py --dataset deepfake_and_real      the published recipe, ImageNet weights
    python trainers/inception.py --weights none --image-size 75   no download; every layer is trained
    ray job submit --working-dir . -- trainers/inception.py       on a running Ray cluster

The backbone is frozen; a flattened head with a softmax over (real, fake) is trained: Adam 1e-3, batch 32, 10 epochs,
224 pixels, random turns.
"""

import sys

from trainers import job
from trainers.config import parse
from trainers.models.inception import VARIANTS


def main() -> None:
    """Parses the command line, runs the job, prints what came out."""
    config = parse(sys.argv[1:], VARIANTS, description=__doc__, prog="inception.py")
    result = job.run(config)
    print(job.describe_result(result))


if __name__ == "__main__":
    main()
