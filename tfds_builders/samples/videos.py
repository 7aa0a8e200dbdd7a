"""Short videos: a camera moves over a photograph, and a generator makes every frame of a fake anew.

The corpus of `celeb_df`: an identity is a photograph, so a split by identity is one by photograph.
"""

import dataclasses
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from tfds_builders.samples.generators import GENERATORS
from tfds_builders.samples.photographs import MAX_DRAWS, MIN_CONTRAST, PHOTOGRAPHS, SCENES, Photograph, pixels_of

_NUM_FRAMES = 16
_FRAMES_PER_SECOND = 25
_SCALES = (0.75, 1.6)  # pixels of the photograph per pixel of a frame
_MAX_MOVE = 0.25  # of a frame's side, from the first frame to the last
_GRAIN = (0.002, 0.006)  # standard deviation of the sensor noise, of the range 0..1
_RATE_FACTORS = (16, 22)  # x264's constant rate factor: higher is worse


@dataclasses.dataclass(frozen=True)
class VideoSample:
    """One video and what is known of it."""

    index: int
    scene: str
    source: str  # the scene whose name a fake bears as that of the face's source; "" for a real one
    mp4: bytes


def make_video(index: int, num_images: int, seed: int, size: int) -> VideoSample:
    """Makes video `index` of `num_images`: even ones are real, odd ones fake; scenes and generators take turns.

    Returns:
      A sample whose `mp4` is an H.264 file of 16 frames of size x size pixels, the same bytes for the same arguments.
    """
    del num_images  # the turns do not depend on it
    random = np.random.default_rng([seed, index])
    turn, is_fake = index // 2, index % 2 == 1
    scene = SCENES[turn % len(SCENES)]
    views = [photograph for photograph in PHOTOGRAPHS if photograph.scene == scene]
    frames = _move_over(views[int(random.integers(len(views)))], size, random)
    source = ""
    if is_fake:
        source = SCENES[(turn + int(random.integers(1, len(SCENES)))) % len(SCENES)]
        generate = list(GENERATORS.values())[turn // len(SCENES) % len(GENERATORS)]
        weights = int(random.integers(2**32))  # one generator with one set of weights makes all frames
        frames = [generate(frame, np.random.default_rng(weights)) for frame in frames]
    return VideoSample(index, scene, source, _encode(frames, random))


def write_celeb_df(out: Path, videos: Iterator[VideoSample]) -> None:
    """`Celeb-real/id3_0007.mp4` and `Celeb-synthesis/id3_id5_0008.mp4`: target, source of the face, clip."""
    number = {scene: position for position, scene in enumerate(SCENES)}
    for video in videos:
        folder = "Celeb-synthesis" if video.source else "Celeb-real"
        source = f"_id{number[video.source]}" if video.source else ""
        path = out / folder / f"id{number[video.scene]}{source}_{video.index:04d}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(video.mp4)


def _move_over(photograph: Photograph, size: int, random: np.random.Generator) -> list[np.ndarray]:
    """Frames float32 [size, size, 3] in 0..1 of a straight, steady camera move."""
    image = Image.fromarray(pixels_of(photograph))
    for _ in range(MAX_DRAWS):
        side = min(size * np.exp(random.uniform(*np.log(_SCALES))), image.width, image.height)
        room = np.array([image.width - side, image.height - side])
        start = room * random.random(2)
        end = np.clip(start + side * random.uniform(-_MAX_MOVE, _MAX_MOVE, 2), 0, room)
        corners = np.linspace(start, end, _NUM_FRAMES)
        frames = [
            np.asarray(image.resize((size, size), Image.Resampling.LANCZOS, box=(x, y, x + side, y + side)), np.float32)
            for x, y in corners
        ]
        if frames[0].std() > MIN_CONTRAST:
            break
    return [frame / 255 for frame in frames]


def _encode(frames: list[np.ndarray], random: np.random.Generator) -> bytes:
    """Adds sensor noise, another in each frame, and encodes: H.264 in mp4."""
    import av  # of all layouts, this one alone needs it

    grain = random.uniform(*_GRAIN)
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        rate_factor = int(random.integers(_RATE_FACTORS[0], _RATE_FACTORS[1] + 1))
        # One thread and no shortcuts of this processor's own: the same bytes on any machine.
        options = {"crf": str(rate_factor), "threads": "1", "x264-params": "cpu-independent=1"}
        stream = container.add_stream("libx264", rate=_FRAMES_PER_SECOND, options=options)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            noise = random.standard_normal(frame.shape, np.float32)
            pixels = np.clip(np.rint((frame + grain * noise) * 255), 0, 255).astype(np.uint8)
            converted = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format="yuv420p")
            # Converted before: left to `encode`, a few in a hundred files differed from one run to the next.
            container.mux(stream.encode(converted))
        container.mux(stream.encode())
    return file.getvalue()
