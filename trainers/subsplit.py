"""Split expressions, as TFDS writes them: "train", "train[:10%]", "train[100:200]+validation".

for part in parse("train[:10%]+validation"):
    start, stop = part.bounds(num_records)
"""

import dataclasses
import re

# Both places in one unit: TFDS takes "[-30%:-1]" to end at 99 %, which nobody would guess.
_PART = re.compile(r"(?P<split>[\w.-]+)(\[(?P<start>-?\d+%?)?:(?P<stop>-?\d+%?)?\])?")


@dataclasses.dataclass(frozen=True)
class Part:
    """A slice of one split, in stored order.

    Attributes:
      split: its name.
      start, stop: as written: a number of records or a percentage ("10%"), negative from the end; "" for the end.
    """

    split: str
    start: str = ""
    stop: str = ""

    def bounds(self, num_records: int) -> tuple[int, int]:
        """Which of the split's `num_records` are meant: start <= index < stop. Percentages are rounded to records."""
        start = _place(self.start or "0", num_records)
        return start, max(start, _place(self.stop or str(num_records), num_records))


def parse(expression: str) -> list[Part]:
    """The parts of a split expression.

    Raises:
      ValueError: it is not one.
    """
    parts = []
    for term in expression.split("+"):
        match = _PART.fullmatch(term.strip())
        if match is None or _is_mixed(match["start"], match["stop"]):
            raise ValueError(
                f"A split is written NAME, or NAME[START:STOP] with both places in records or both in percent, or "
                f"several of these joined by '+'. Received: {expression!r}"
            )
        parts.append(Part(match["split"], match["start"] or "", match["stop"] or ""))
    return parts


def _is_mixed(*places: str | None) -> bool:
    return len({place.endswith("%") for place in places if place}) > 1


def _place(written: str, num_records: int) -> int:
    if written.endswith("%"):
        percent = int(written[:-1])
        place = round((percent + 100 if percent < 0 else percent) * num_records / 100)
    else:
        place = int(written)
        place += num_records if place < 0 else 0
    return min(max(place, 0), num_records)
