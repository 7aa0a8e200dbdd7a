"""TFRecord framing, and reading one record by its offset.

A frame is: uint64 length (little-endian), uint32 masked crc32c of those 8 bytes, the payload, uint32 masked crc32c of
the payload. Source: tensorflow/core/lib/io/record_writer.h.
"""

import os
import struct

import google_crc32c

HEADER_BYTES = 12
FOOTER_BYTES = 4
OVERHEAD_BYTES = HEADER_BYTES + FOOTER_BYTES

_MASK_DELTA = 0xA282EAD8  # tensorflow/core/lib/hash/crc32c.h


class CorruptRecord(ValueError):
    """A frame whose length or checksum does not hold. The message names the file offset and the failed check."""


def masked_crc32c(*pieces: bytes) -> int:
    """The masked crc32c of the pieces taken together, 0 <= value < 2**32: rotated right by 15 bits, plus a constant."""
    crc = 0
    for piece in pieces:
        crc = google_crc32c.extend(crc, piece)
    return (((crc >> 15) | (crc << 17)) + _MASK_DELTA) & 0xFFFFFFFF


def ends(*pieces: bytes) -> tuple[bytes, bytes]:
    """What stands before and after the payload that the pieces make up in its TFRecord frame: 12 and 4 bytes."""
    length = struct.pack("<Q", sum(map(len, pieces)))
    return length + struct.pack("<I", masked_crc32c(length)), struct.pack("<I", masked_crc32c(*pieces))


def frame(payload: bytes) -> bytes:
    """The TFRecord frame of `payload`: 16 bytes longer than it."""
    header, footer = ends(payload)
    return header + payload + footer


def payload_bytes(header: bytes, offset: int = 0) -> int:
    """The length of the payload behind `header`, a frame's first 12 bytes or more; `offset` as in `payload_of`.

    Raises:
      CorruptRecord: fewer than 12 bytes, or a wrong checksum of the length.
    """
    if len(header) < HEADER_BYTES:
        raise CorruptRecord(f"the record at offset {offset} is truncated: {len(header)} bytes")
    length, length_crc = struct.unpack_from("<QI", header)
    if masked_crc32c(header[:8]) != length_crc:
        raise CorruptRecord(f"the record at offset {offset} has a damaged length: its checksum does not hold")
    return length


def payload_of(data: bytes, offset: int = 0) -> bytes:
    """The payload of one whole frame held in `data`; `offset` is where the frame lies in its file, for the message.

    Raises:
      CorruptRecord: truncated frame, wrong length, wrong checksum of the length or of the payload.
    """
    if len(data) < OVERHEAD_BYTES:
        raise CorruptRecord(f"the record at offset {offset} is truncated: {len(data)} bytes")
    length = payload_bytes(data, offset)
    if length != len(data) - OVERHEAD_BYTES:
        raise CorruptRecord(
            f"the record at offset {offset} is {length} bytes long, the manifest says {len(data) - OVERHEAD_BYTES}"
        )
    payload = data[HEADER_BYTES:-FOOTER_BYTES]
    if masked_crc32c(payload) != struct.unpack_from("<I", data, HEADER_BYTES + length)[0]:
        raise CorruptRecord(f"the record at offset {offset} has damaged content: its checksum does not hold")
    return payload


def read_payload(fd: int, offset: int, length: int) -> bytes:
    """Reads the frame of `length` bytes at `offset` of the open file `fd` and returns its payload.

    Uses os.pread: safe from several threads on one descriptor.

    Raises:
      CorruptRecord: as `payload_of`.
    """
    data = os.pread(fd, length, offset)
    if len(data) < length:
        raise CorruptRecord(f"the record at offset {offset} is truncated: {len(data)} of {length} bytes")
    return payload_of(data, offset)
