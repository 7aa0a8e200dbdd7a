#!/usr/bin/env python
"""Trains InceptionV3 to tell real images from fake ones, and registers it as `realshard-inception_v3`.

    python trainers/inception.py --dataset deepfake_and_real      the published recipe, ImageNet weights
    python trainers/inception.py --weights none --image-size 75   no download; every layer is trained
    ray job submit --working-dir . -- trainers/inception.py       on a running Ray cluster

The backbone is frozen; a flattened head with a softmax over (real, fake) is trained: Adam 1e-3, batch 32, 10 epochs,
224 pixels, random turns.
"""

from trainers.command_line import main
from trainers.models.inception import VARIANTS

if __name__ == "__main__":
    main(VARIANTS, __doc__, "inception.py")
