"""Requests that no well-meaning client sends, each kind with the answers that are right for it.

for kind, allowed, send in requests(1000): status = send(port); assert status in allowed
"""

import functools
import http.client
import io
import socket
import struct
import zlib
from collections.abc import Callable, Iterator

import numpy as np
import small_model
from bad_images import BAD
from odd_images import tiled_tiff
from PIL import Image
from serving import BOUNDARY, FORM, form_of
from tiny_sources import video

from cluster.bounds import MAX_PIXELS, MAX_SCANS
from cluster.ports import LOOPBACK
from cluster.uploads import MAX_FILES

CLOSED = None  # instead of a status: the connection was closed without an answer
UNREADABLE = {422}
READ_OR_NOT = {200, 422}
TAKES_LONG = {"huge, to explain", "bad video"}  # kinds that a slow machine may answer in vain, with one of
BUSY = {408, 503}
_SECS = 120.0  # a client waits for an answer; the server says that it is busy long before

Send = Callable[[int], int | None]  # port -> status


def requests(count: int, seed: int = 0) -> Iterator[tuple[str, set, Send]]:
    """(kind, statuses allowed, what sends it): the kinds in turn, each time with other content."""
    random = np.random.default_rng(seed)
    makers = list(_KINDS.items())
    for number in range(count):
        kind, (allowed, make) = makers[number % len(makers)]
        yield kind, allowed, make(random, number)


def _post(body: bytes, content_type: str = "image/png", path: str = "/v1/predict") -> Send:
    def send(port: int) -> int | None:
        connection = http.client.HTTPConnection(LOOPBACK, port, timeout=_SECS)
        try:
            connection.request("POST", path, body, {"Content-Type": content_type})
            return connection.getresponse().status
        except (ConnectionError, http.client.BadStatusLine):  # refused before all was sent
            return CLOSED
        finally:
            connection.close()

    return send


def _raw(request: bytes, leave: bool = False) -> Send:
    """Sends these bytes and no more; with `leave` it goes without waiting for an answer."""

    def send(port: int) -> int | None:
        with socket.create_connection((LOOPBACK, port), _SECS) as connection:
            connection.sendall(request)
            if leave:
                return CLOSED
            try:
                line = connection.makefile("rb").readline()
            except ConnectionError:
                return CLOSED
            return int(line.split()[1]) if line else CLOSED

    return send


def _gone(body: bytes, path: str) -> Send:
    return _raw(_head("Host: a", f"Content-Length: {len(body)}", path=path) + body, leave=True)


def _head(*headers: str, path: str = "/v1/predict", method: str = "POST") -> bytes:
    return "\r\n".join((f"{method} {path} HTTP/1.1", *headers, "", "")).encode("latin-1")


def _image(random: np.random.Generator) -> bytes:
    kind = small_model.FORMATS[random.integers(len(small_model.FORMATS))]
    return small_model.image_bytes(kind, *random.integers(8, 200, 2), seed=int(random.integers(1000)))


def _cut(random: np.random.Generator) -> bytes:
    image = _image(random)
    return image[: random.integers(1, len(image))]


def _changed(data: bytes, random: np.random.Generator, changes: int = 12) -> bytes:
    changed = np.frombuffer(data, np.uint8).copy()
    changed[random.integers(0, len(changed), changes)] = random.integers(0, 256, changes)
    return changed.tobytes()


def _png(width: int, height: int, rows: bytes) -> bytes:
    """A grey PNG with any width and height in its header."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def _bomb(random: np.random.Generator) -> bytes:
    side = int(MAX_PIXELS**0.5) + int(random.integers(1, 50_000))
    return _png(side, side, bytes(100_000))


def _scans(random: np.random.Generator) -> bytes:
    file = io.BytesIO()
    Image.fromarray(random.integers(0, 256, (64, 64, 3), np.uint8)).save(file, "JPEG", progressive=True)
    jpeg = file.getvalue()
    return jpeg[:-2] + jpeg[jpeg.rindex(b"\xff\xda") : -2] * (MAX_SCANS + 1) + jpeg[-2:]


@functools.cache
def _much_to_decode() -> bytes:
    """32 small files of 64 megapixels in a hundred scans each: minutes of work in 12 MB."""
    file = io.BytesIO()
    Image.new("L", (8000, 8000)).save(file, "JPEG", progressive=True)
    jpeg = file.getvalue()
    last = jpeg[jpeg.rindex(b"\xff\xda") : -2]
    data = jpeg[:-2] + last * (MAX_SCANS - jpeg.count(b"\xff\xda")) + jpeg[-2:]
    return form_of({f"{number}.jpg": data for number in range(MAX_FILES)})


def tiff_pages(count: int) -> bytes:
    """A TIFF of one picture, whose directory is followed by `count` copies of itself, every one naming the next."""
    tiff = bytearray(small_model.image_bytes("TIFF"))
    tiff += bytes(len(tiff) % 2)
    (first,) = struct.unpack_from("<I", tiff, 4)
    (entries,) = struct.unpack_from("<H", tiff, first)
    directory, begin = bytes(tiff[first : first + 2 + 12 * entries]), len(tiff)
    length = len(directory) + 4
    struct.pack_into("<I", tiff, first + len(directory), begin)
    for number in range(1, count + 1):
        tiff += directory + struct.pack("<I", begin + length * number if number < count else 0)
    return bytes(tiff)


@functools.cache
def _thousands_of_pages() -> bytes:
    return tiff_pages(20_000)


def tiff_tags(count: int = 1000, length: int = 1 << 20, first: int = 40_000, within: bool = False) -> bytes:
    """A TIFF of one picture with `count` more tags, from `first` on, which all hold the same `length` bytes; `within`
    another directory, that of EXIF, which the first one names."""
    tiff = bytearray(small_model.image_bytes("TIFF"))
    (begin,) = struct.unpack_from("<I", tiff, 4)
    (entries,) = struct.unpack_from("<H", tiff, begin)
    tags = [bytes(tiff[at : at + 12]) for at in range(begin + 2, begin + 2 + 12 * entries, 12)]
    more = [struct.pack("<HHII", tag, 7, length, 8) for tag in range(first, first + count)]
    if within:
        tags.append(struct.pack("<HHII", 34665, 4, 1, len(tiff)))
        tiff += struct.pack("<H", count) + b"".join(more) + bytes(4)
        more = []
    struct.pack_into("<I", tiff, 4, len(tiff))
    tags = sorted(tags + more)
    return bytes(tiff) + struct.pack("<H", len(tags)) + b"".join(tags) + bytes(4 + length)


def jpeg_exif(count: int = 1000, num_segments: int = 8, orientation: int = 1) -> bytes:
    """A JPEG whose EXIF block, over several segments, has `count` tags that all hold the same bytes, most of it."""
    length = 65_000 * num_segments
    tags = [struct.pack("<HHII", 0x0112, 3, 1, orientation)]
    tags += [struct.pack("<HHII", tag, 7, length - 100, 8) for tag in range(40_000, 40_000 + count)]
    exif = (b"II*\0" + struct.pack("<IH", 8, len(tags)) + b"".join(tags)).ljust(length, b"\0")
    parts = [b"Exif\0\0" + exif[begin : begin + 65_000] for begin in range(0, length, 65_000)]
    segments = b"".join(b"\xff\xe1" + struct.pack(">H", 2 + len(part)) + part for part in parts)
    jpeg = small_model.image_bytes("JPEG")
    return jpeg[:2] + segments + jpeg[2:]


def gif_comments(count: int) -> bytes:
    """A GIF with so many comments of a letter."""
    gif = small_model.image_bytes("GIF")
    colours = 3 << (gif[10] & 7) + 1
    return gif[: 13 + colours] + b"!\xfe\1a\0" * count + gif[13 + colours :]


@functools.lru_cache(4)
def huge_tile(side: int) -> bytes:
    """A TIFF of a few pixels in a tile of `side` x `side`."""
    return tiled_tiff(np.zeros((40, 56), np.uint8), side, side)


@functools.cache
def _much_metadata() -> tuple[bytes, ...]:
    """The second has tags that pixels need: no file holds so much in them."""
    return tiff_tags(), tiff_tags(20, first=512), jpeg_exif(), gif_comments(1_000_000)


def _polyglot(random: np.random.Generator) -> bytes:
    other = (b"<html><script>1</script></html>", b"PK\x03\x04" + bytes(60), b"%PDF-1.7\n", b"#!/bin/sh\nexit\n")
    image, text = _image(random), other[random.integers(len(other))]
    return (image + text, text + image, image[:40] + text + image[40:], image + image)[random.integers(4)]


@functools.cache
def _videos() -> tuple[bytes, ...]:
    return video(0, 12), video(0, 12, container="avi", codec="mpeg4"), video(0, 12, container="webm", codec="libvpx")


def _bad_video(random: np.random.Generator) -> bytes:
    data = _videos()[random.integers(3)]
    cut = data[: random.integers(20, len(data))]
    head = data[: int(random.integers(12, 60))]
    return (cut, _changed(data, random), _changed(data[:600], random) + data[600:], head + random.bytes(5000))[
        random.integers(4)
    ]


def _other_type(random: np.random.Generator) -> bytes:
    begins = (
        b"%PDF-1.7",
        b"PK\x03\x04",
        b"\x7fELF",
        b"<svg>",
        b"ID3",
        b"#EXTM3U\nfile:///etc/hostname",
        b"\x1f\x8b",
        b"",
    )
    return begins[random.integers(len(begins))] + random.bytes(int(random.integers(1, 5000)))


def _many_fields(random: np.random.Generator) -> bytes:
    field = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="f"\r\n\r\nvalue\r\n'.encode()
    return field * int(random.integers(100, 20_000)) + form_of({"a.png": _image(random)})


def _many_headers(random: np.random.Generator) -> bytes:
    lines = b"".join(b"X-%d: %s\r\n" % (number, b"v" * 50) for number in range(int(random.integers(20, 20_000))))
    return f"--{BOUNDARY}\r\n".encode() + lines + b"\r\n\r\n"


def _odd_name(random: np.random.Generator) -> tuple[bytes, str]:
    names = (r"\ud800", "../../etc/passwd", "\x00\x01", "a" * 3000, '"; filename="b', "%s%n{0}", r"\N{BELL}")
    charsets = ("unicode_escape", "utf-7", "utf-16", "rot13", "hex", "idna", "punycode", "no-such", "undefined")
    charset = charsets[random.integers(len(charsets))]
    return form_of({names[random.integers(len(names))]: _image(random)}), f"{FORM}; charset={charset}"


def _odd_http(random: np.random.Generator) -> Send:
    host = "Host: a"
    return (
        _raw(_head("Host: [", "Content-Length: 0")),
        _raw(_head(host, "Content-Length: -5")),
        _raw(_head(host, "Content-Length: " + "9" * 5000)),
        _raw(_head(host, "Content-Length: 1", "Content-Length: 2") + b"xy"),
        _raw(_head(host, "Transfer-Encoding: chunked") + b"zz\r\nnot a length\r\n"),
        _raw(_head(host, "Content-Length: 0", path="/v1/predict/../" + "a" * 3000)),
        _raw(_head(host, "Content-Length: 0", path="/%ff%00%2e%2e/")),
        _raw(_head(host, method="BREW")),
        _raw(_head(host, method="GET")),
        _raw(_head(host, "X-Long: " + "a" * 200_000, "Content-Length: 0")),
        _raw(_head(host, "Content-Length: 0", "Content-Type: multipart/form-data; boundary=" + "b" * 5000)),
        _raw(random.bytes(2000) + b"\r\n\r\n"),
    )[random.integers(12)]


# Kind -> what may be answered, and what makes a request from (random, number).
_KINDS: dict[str, tuple[set, Callable[[np.random.Generator, int], Send]]] = {
    "cut image": (READ_OR_NOT, lambda random, _: _post(_cut(random))),
    "changed image": (READ_OR_NOT, lambda random, _: _post(_changed(_image(random), random))),
    "known bad image": (READ_OR_NOT, lambda _, n: _post(list(BAD.values())[n // 7 % len(BAD)]().data or b"\0")),
    "huge by header": (UNREADABLE, lambda random, _: _post(_bomb(random))),
    "many scans": (UNREADABLE, lambda random, _: _post(_scans(random))),
    "much to decode": ({413}, lambda *_: _post(_much_to_decode(), FORM)),
    "many pages": ({200}, lambda *_: _post(_thousands_of_pages())),
    "much metadata": (READ_OR_NOT, lambda _, number: _post(_much_metadata()[number % 4])),
    "huge tile": (UNREADABLE, lambda random, _: _post(huge_tile(4096 + 16 * int(random.integers(500))))),
    "huge, to explain": (UNREADABLE, lambda random, _: _post(_bomb(random), path="/v1/explain")),
    "bad video": (READ_OR_NOT, lambda random, _: _post(_bad_video(random))),
    "polyglot": (READ_OR_NOT, lambda random, _: _post(_polyglot(random))),
    "other type": (UNREADABLE, lambda random, _: _post(_other_type(random))),
    "nothing": ({400}, lambda *_: _post(b"")),
    "an empty file": (UNREADABLE, lambda *_: _post(form_of({"a.png": b""}), FORM)),
    "300 MB announced": ({413}, lambda *_: _raw(_head("Host: a", f"Content-Length: {300 << 20}"))),
    "a number without end": ({400, 413}, lambda *_: _raw(_head("Host: a", "Content-Length: " + "9" * 300))),
    "cut form": ({400}, lambda random, _: _post(form_of({"a.png": _image(random)})[: -random.integers(5, 80)], FORM)),
    "changed form": (
        {200, 400, 422},
        lambda random, _: _post(_changed(form_of({"a.png": _cut(random)}), random), FORM),
    ),
    "no boundary": ({400}, lambda random, _: _post(form_of({"a.png": _image(random)}), "multipart/form-data")),
    "other boundary": ({400}, lambda random, _: _post(form_of({"a": _image(random)}), FORM + "-x")),
    "many fields": ({400, CLOSED}, lambda random, _: _post(_many_fields(random), FORM)),
    "many headers": ({400, CLOSED}, lambda random, _: _post(_many_headers(random), FORM)),
    "many files": ({400, CLOSED}, lambda random, _: _post(form_of({str(n): _cut(random) for n in range(33)}), FORM)),
    "odd name": ({200, 400, 422}, lambda random, _: _post(*_odd_name(random))),
    "odd HTTP": ({400, 404, 405, 413, 422, 431, CLOSED}, lambda random, _: _odd_http(random)),
    "gone while sending": (
        {CLOSED},
        lambda random, _: _raw(_head("Host: a", "Content-Length: 100000") + random.bytes(5000), leave=True),
    ),
    "gone while waiting": (
        {CLOSED},
        lambda random, _: _raw(_head("Host: a", "Content-Length: 3000") + random.bytes(3000), leave=True),
    ),
    "gone while it is explained": ({CLOSED}, lambda random, _: _gone(_image(random), "/v1/explain")),
    "bytes that never come": (
        {408},
        lambda random, _: _raw(_head("Host: a", "Content-Length: 100000") + random.bytes(5000)),
    ),
}
