#!/usr/bin/env python
"""Trains Xception's classifier to tell real images from fake ones, and registers it as `realshard-xception`.

    python trainers/xception.py --dataset dfdc_faces              the published recipe, ImageNet weights
    python trainers/xception.py --weights none --image-size 71    no download; every layer is trained
    ray job submit --working-dir . -- trainers/xception.py        on a running Ray cluster

The backbone is frozen: Adam 1e-3 with coupled weight decay 1e-4, a tenth of the rate from the sixth epoch on, batch
32, 10 epochs, 299 pixels; flips, turns of 10 degrees, colours.
"""

from trainers.command_line import main
from trainers.models.xception import VARIANTS

if __name__ == "__main__":
    main(VARIANTS, __doc__, "xception.py")
