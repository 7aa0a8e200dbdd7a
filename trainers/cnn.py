#!/usr/bin/env python
"""Trains a small convolutional network to tell real images from fake ones, and registers it as `realshard-cnn`.

    python trainers/cnn.py --dataset deepfake_and_real            v6: four convolutions, three dense layers
    python trainers/cnn.py --variant v13 --image-size 64
    ray job submit --working-dir . -- trainers/cnn.py             on a running Ray cluster

Variants, each with its published recipe as defaults: v1 to v20 (128 pixels, Adam 1e-4, batch 64, up to 50 epochs),
rgb224_adam and rgb224_rmsprop (224 pixels, rate 1e-4, batch 32, 10 epochs), two_by_two (224 pixels, Adam 1e-3, batch
32, 10 epochs, random turns). What each is made of: docs/models.md.
"""

from trainers.command_line import main
from trainers.models.cnn import VARIANTS

if __name__ == "__main__":
    main(VARIANTS, __doc__, "cnn.py")
