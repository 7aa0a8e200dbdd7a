"""The cure for classes that differ by their files: every image through the same decode, crop, resize and encode.

A detector that is given JPEG photographs and PNG fakes learns the file format, and goes on doing so after both were
saved as PNG, because JPEG's grid of 8 x 8 blocks stays in the pixels (Grommelt et al., arXiv 2403.17608). Here every
image is cropped, resampled and saved as JPEG alike, whatever it was before.
"""

import io

from PIL import Image

from tfds_builders.records.decode import decode_rgb

# The part of the shorter side that is kept. Less than all of it, so that images which have the wanted size already are
# resampled like all others: the grid of an earlier JPEG would outlive a mere copy of the pixels.
_KEPT = 15 / 16
_QUALITY = 90  # libjpeg's scale; coarser than most originals, so that their own quantisation does not show through


def harmonise(data: bytes, side: int) -> bytes:
    """The middle of an image as a JPEG of `side` x `side` pixels: the one lossy step that a build can contain.

    The central square of 15/16 of the shorter side is resampled by Lanczos's filter, which is widened where the image
    shrinks, and saved with quality 90, colour at half resolution (4:2:0), without metadata. The same bytes every time
    under one version of Pillow.

    Args:
      data: an image file of any accepted format.
      side: in pixels.

    Raises:
      BadImage: the file cannot be decoded.
    """
    pixels = Image.fromarray(decode_rgb(data))  # upright, RGB
    kept = _KEPT * min(pixels.size)
    left, top = (pixels.width - kept) / 2, (pixels.height - kept) / 2
    square = pixels.resize((side, side), Image.Resampling.LANCZOS, box=(left, top, left + kept, top + kept))
    file = io.BytesIO()
    square.save(file, "JPEG", quality=_QUALITY, subsampling="4:2:0")
    return file.getvalue()
