"""Videos that anybody may send: which are taken, within which bounds, and what is said of the others."""

import dataclasses

import pytest
import small_model
from tiny_sources import video

from cluster import videos
from tfds_builders.records.frames import is_video, take_frames
from trainers.predict import NUM_FRAMES


@pytest.fixture(scope="module")
def clip() -> bytes:
    return video(0, num_frames=40)


def test_frames_are_those_of_the_command_line(clip):
    frames, error = videos.frames_of(clip)
    assert (frames, error) == take_frames(clip, NUM_FRAMES, "")
    assert len(frames) == NUM_FRAMES
    assert error is None


@pytest.mark.parametrize(("container", "codec"), [("webm", "libvpx"), ("avi", "mpeg4"), ("matroska", "libx264")])
def test_other_containers_are_taken(container, codec):
    data = video(0, num_frames=4, container=container, codec=codec)
    assert is_video(data)
    assert len(videos.frames_of(data)[0]) == 4


def test_what_is_told_apart_by_content(clip):
    assert is_video(clip)
    for kind in small_model.FORMATS:
        assert not is_video(small_model.image_bytes(kind))
    assert not is_video(b"\0\0\0\x20ftypavif" + bytes(50))
    assert not is_video(b"")


def test_a_damaged_video_gives_the_frames_before_the_damage_or_a_reason(clip):
    middle = len(clip) // 2
    frames, error = videos.frames_of(clip[:middle] + bytes(300) + clip[middle + 300 :])
    assert 0 < len(frames) < NUM_FRAMES
    assert "cannot be decoded" in error
    for data in (clip[:200], clip[:12] + bytes(1000), b"\x1aE\xdf\xa3" + bytes(1000)):
        frames, error = videos.frames_of(data)
        assert frames == []
        assert "cannot be decoded" in error


def test_other_codecs_and_containers_are_refused_by_name():
    frames, error = videos.frames_of(video(0, num_frames=4, container="avi", codec="ffv1"))
    assert (frames, "videos in ffv1 are not taken here" in error) == ([], True)
    playlist = b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile:///etc/hostname\n"
    flv = video(0, num_frames=4, container="flv")
    for data in (playlist, flv):
        frames, error = videos.frames_of(data)
        assert (frames, "cannot be decoded" in error) == ([], True)
    assert len(take_frames(flv, 4, "")[0]) == 4  # as a user's own it is read


def test_bounds(clip):
    wide = dataclasses.replace(videos.LIMITS, max_frame_pixels=32 * 48 - 1)
    frames, error = take_frames(clip, NUM_FRAMES, "", wide)
    assert (frames, "48 x 32 pixels; at most 1535" in error) == ([], True)
    long = dataclasses.replace(videos.LIMITS, max_pixels=32 * 48 * 38)
    frames, error = take_frames(clip, NUM_FRAMES, "", long)
    assert (frames, "38 frames" in error, "needs 39" in error) == ([], True, True)
    assert len(take_frames(clip, NUM_FRAMES, "", dataclasses.replace(long, max_pixels=32 * 48 * 39))[0]) == NUM_FRAMES


def test_a_decoder_that_takes_too_long_is_ended(clip):
    frames, error = videos.frames_of(clip, max_secs=0.01)
    assert (frames, "longer than 0.01 s" in error) == ([], True)


def test_a_decoder_that_dies_is_the_videos_fault_not_ours(clip, monkeypatch):
    monkeypatch.setattr(videos, "COMMAND", ("-c", "import os; os.abort()"))
    frames, error = videos.frames_of(clip)
    assert (frames, "ended without a word" in error) == ([], True)
