"""A past that fits in a list: what the ledger answers to the assembler, without a ledger."""

from collections.abc import Iterable

from stackd.records import CaptureSet


class ListedPast(list[CaptureSet]):
    """Sets that are running, done or quarantined after work."""

    def touching(self, paths: Iterable[str]) -> list[CaptureSet]:
        asked = set(paths)
        return [one for one in self if any(frame.path in asked for frame in one.frames)]

    def named(self, name: str) -> int:
        return sum(one.name == name for one in self)
