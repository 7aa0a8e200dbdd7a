#!/usr/bin/env python
"""Trains MesoInception-4 to tell real faces from fake ones, and registers it as `realshard-meso_inception4`.

    python trainers/mesonet.py --dataset dfdc_faces               meso150: one network
    python trainers/mesonet.py --variant ensemble5                the average of five, those that failed trained again
    python trainers/mesonet.py --variant meso256 --weights FILE   from published weights
    ray job submit --working-dir . -- trainers/mesonet.py         on a running Ray cluster

Adam, 1e-3 for the first epoch and 5e-4 for the second, batch 32, 150 or 256 pixels.
"""

import sys

from trainers import job
from trainers.config import parse
from trainers.models.mesonet import VARIANTS


def main() -> None:
    """Parses the command line, runs the job, prints what came out."""
    config = parse(sys.argv[1:], VARIANTS, description=__doc__, prog="mesonet.py")
    result = job.run(config)
    print(job.describe_result(result))


if __name__ == "__main__":
    main()
