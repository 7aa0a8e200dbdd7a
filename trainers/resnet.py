#!/usr/bin/env python
"""Trains ResNet50 to tell real images from fake ones, and registers it as `realshard-resnet50`.

    python trainers/resnet.py                                     deep_head on the built ai_vs_human, ImageNet weights
    python trainers/resnet.py --variant gap_head --image-size 128      or flatten_head, gap256_rmsprop
    python trainers/resnet.py --weights none --image-size 64      no download; every layer is trained
    ray job submit --working-dir . -- trainers/resnet.py          on a running Ray cluster

On two CPU cores deep_head with ImageNet weights trains on about 30 images a second at 224 pixels. Without weights,
every layer being trained, gap_head does about 40 at 64 pixels.
"""

from trainers.command_line import main
from trainers.models.resnet import VARIANTS

if __name__ == "__main__":
    main(VARIANTS, __doc__, "resnet.py")
