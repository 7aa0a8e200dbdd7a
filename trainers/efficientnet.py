#!/usr/bin/env python
"""Trains EfficientNetV2-B3 to tell real images from fake ones, and registers it as `realshard-efficientnet_v2b3`.

    python trainers/efficientnet.py --dataset ai_vs_human         ImageNet weights
    python trainers/efficientnet.py --weights none --image-size 64    no download; every layer is trained
    ray job submit --working-dir . -- trainers/efficientnet.py    on a running Ray cluster

The head is trained alone for 3 epochs at 1e-3, then with the backbone's last stage for 7 at 1e-5: Adam, batch 32, 300
pixels.
"""

from trainers.command_line import main
from trainers.models.efficientnet import VARIANTS

if __name__ == "__main__":
    main(VARIANTS, __doc__, "efficientnet.py")
