"""What an audit says: findings, each with a severity, a sentence with the numbers, and what to do."""

import dataclasses
from collections.abc import Iterable

SEVERITIES = ("info", "low", "medium", "high")  # rising


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing found.

    Attributes:
      code: which check, the same in every audit: group_leak, shortcut_encoding, ...
      severity: one of SEVERITIES. high: a score on this dataset would not mean what it seems to mean.
      sentence: what was found, with the numbers.
      action: what to do about it.
      numbers: the numbers of the sentence, for programs (JSON types only).
    """

    code: str
    severity: str
    sentence: str
    action: str
    numbers: dict = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        if self.severity not in SEVERITIES:
            raise ValueError(f"severity must be one of {SEVERITIES}; received {self.severity!r}")


def at_least(finding: Finding, severity: str) -> bool:
    """Whether the finding is as severe as `severity`, or more."""
    return SEVERITIES.index(finding.severity) >= SEVERITIES.index(severity)


def most_severe_first(findings: Iterable[Finding]) -> list[Finding]:
    """Sorted by falling severity, in the order given among equals."""
    return sorted(findings, key=lambda finding: -SEVERITIES.index(finding.severity))


def graded(value: float, *, high: float, medium: float) -> str:
    """The severity of a share: "high" from `high` on, "medium" from `medium` on, else "low"."""
    return "high" if value >= high else "medium" if value >= medium else "low"


def lowered(severity: str) -> str:
    """One level less, at least "low": for what concerns a split scheme that nobody uses unless they name it."""
    return {"high": "medium", "medium": "low"}.get(severity, severity)


def percent(part: float, whole: float) -> str:
    """ "12.3 %" of `part` in `whole`; "0 %" of nothing."""
    if not whole or not part:
        return "0 %"
    share = 100 * part / whole
    return "< 0.1 %" if share < 0.1 else f"{share:.1f} %"


def counted(count: int, noun: str, plural: str = "") -> str:
    """ "1 group", "5 groups", "1,200 images"."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"
