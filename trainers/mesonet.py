#!/usr/bin/env python
"""Trains MesoInception-4 to tell real faces from fake ones, and registers it as `realshard-meso_inception4`.

    python trainers/mesonet.py --dataset dfdc_faces               meso150: one network
    python trainers/mesonet.py --variant ensemble5                the average of five, those that failed trained again
    python trainers/mesonet.py --variant meso256 --weights FILE   from published weights
    ray job submit --working-dir . -- trainers/mesonet.py         on a running Ray cluster

Adam, 1e-3 for the first epoch and 5e-4 for the second, batch 32, 150 or 256 pixels.
"""

from trainers.command_line import main
from trainers.models.mesonet import VARIANTS

if __name__ == "__main__":
    main(VARIANTS, __doc__, "mesonet.py")
