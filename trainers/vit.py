#!/usr/bin/env python
"""Trains ViT-B/16 to tell real images from fake ones, and registers it as `realshard-vit`.

    python trainers/vit.py --dataset dfdc_faces                   from ImageNet weights, every layer is trained
    python trainers/vit.py --weights none --image-size 64         no download
    python trainers/vit.py --weights hf://Wvolf/ViT_Deepfake_Detection --epochs 0      only evaluates a published one
    python trainers/vit.py --weights path/to/checkpoint --epochs 0                     the same from a directory

A checkpoint is in Hugging Face's format: config.json, preprocessor_config.json, model.safetensors. AdamW 2e-5, batch
32, 10 epochs, 224 pixels; these are ours, since no published training of it is known.
"""

from trainers.command_line import main
from trainers.models.vit import VARIANTS

if __name__ == "__main__":
    main(VARIANTS, __doc__, "vit.py")
