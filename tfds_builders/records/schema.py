"""The schema that every dataset shares, on disk and in memory."""

import pyarrow as pa

LABELS = ("real", "fake")  # the index is the label: real = 0, fake = 1, in every dataset
SPLITS = ("train", "validation", "test")

MANIFEST = "manifest.parquet"
QUARANTINE = "quarantine.parquet"
EXCLUDED = "excluded.parquet"
BUILD = "build.json"

SCHEME_PREFIX = "scheme_"  # columns of further split schemes: scheme_published, scheme_balanced, ...

MANIFEST_SCHEMA = pa.schema(
    [
        ("id", pa.string()),  # path in the source, '/'-separated, unique
        ("split", pa.string()),  # train | validation | test
        ("label", pa.int8()),  # index into LABELS
        ("category", pa.string()),  # what is on the picture; "" if unknown
        ("group", pa.string()),  # what must stay on one side of a split: photograph, identity, source video
        ("video", pa.string()),  # frames whose scores are averaged; "" for stills
        ("generator", pa.string()),  # what made the fake; "" if unknown
        ("format", pa.string()),  # of the stored bytes: JPEG | PNG | BMP
        ("source_format", pa.string()),  # of the file found: also GIF, WEBP, TIFF, ...
        ("width", pa.int32()),  # pixels, as stored, before the EXIF orientation is applied
        ("height", pa.int32()),
        ("mode", pa.string()),  # colour mode of the source file: RGB, L, P, CMYK, RGBA, I;16, ...
        ("orientation", pa.int8()),  # EXIF orientation 1..8; 1 if none
        ("flags", pa.list_(pa.string())),  # what is odd about the file; empty for most
        ("bytes", pa.int64()),  # length of the stored image
        ("sha256", pa.binary(32)),  # of the file found
        ("shard", pa.string()),  # file name of the shard
        ("offset", pa.int64()),  # where the record's TFRecord frame begins in the shard
        ("length", pa.int64()),  # of the frame: 12 + payload + 4 bytes
        ("image_offset", pa.int32()),  # where the image begins inside the payload
    ]
)

# What was found and not written: quarantined files (a reason and a hash) and excluded ones (the rule).
LEDGER_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("split", pa.string()),  # the split it was planned for; "" if refused before splitting
        ("label", pa.int8()),  # -1 where unknown
        ("reason", pa.string()),  # a short code: truncated, zero_bytes, not_an_image, ... or the rule
        ("detail", pa.string()),  # one sentence
        ("bytes", pa.int64()),
        ("sha256", pa.binary(32)),  # null where the bytes could not be read
    ]
)
