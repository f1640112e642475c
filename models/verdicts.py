"""What becomes of an input record: exactly one of applied, duplicate, ignored, or a rejection with its reason.

The numbers are what kernels write into their `verdict` columns (uint8); the order of the rejections is the order in
which they are looked for: of several that apply, the lowest is reported.
"""

from enum import IntEnum


class Verdict(IntEnum):
    """The end of one input record. From MALFORMED on it goes to `dead_letters` with that reason."""

    APPLIED = 0
    DUPLICATE = 1
    IGNORED = 2
    MALFORMED = 10
    INVALID = 11
    UNSUPPORTED = 12
    OUT_OF_RANGE = 13
    KEY_MISMATCH = 14
    CONFLICT = 15
    CURRENCY_MISMATCH = 16
    ILLEGAL_TRANSITION = 17
    SKIPPED = 18

    @property
    def is_rejection(self) -> bool:
        """Whether the record goes to `dead_letters`."""
        return self >= Verdict.MALFORMED

    @property
    def reason(self) -> str:
        """The name as published: `reason` of a dead letter, `result` of the metric."""
        return self.name.lower()
