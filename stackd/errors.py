"""All errors that stackd raises on purpose, with what follows from each.

StackdError
├── ConfigError    the configuration or the command line is wrong        exit 2
├── InstanceError  another stackd holds the same state folder or outbox  exit 75
├── SetError       this set cannot be restored; it goes to quarantine    exit 1
├── ModelError     a model file cannot be used; the old one goes on      exit 1
└── OutputError    a result could not be written, for now                exit 1, tried again

`retry` says whether the same work may succeed later without anybody's help. Each message names
what was wrong, in which file, and what to do.
"""


class StackdError(Exception):
    """Something went wrong that stackd foresaw."""

    exit_code = 1
    retry = False


class ConfigError(StackdError):
    """The configuration or the command line is wrong."""

    exit_code = 2


class InstanceError(StackdError):
    """Another stackd is running on the same state folder or outbox."""

    exit_code = 75


class SetError(StackdError):
    """This set cannot be restored as it is.

    `file` names the frame at fault (None when it is the set as a whole) and `remedy` what a
    person can do about it.
    """

    def __init__(self, reason: str, *, file: str | None = None, remedy: str = "") -> None:
        reason = printable(reason)
        self.reason, self.file, self.remedy = reason, file, remedy
        where = f"{printable(file).replace(chr(10), '?')}: " if file else ""
        what_to_do = f" ({remedy})" if remedy else ""
        super().__init__(f"{where}{reason}{what_to_do}")

    def __reduce__(self):
        """Keyword-only arguments would be lost on the way back from the worker process."""
        return _rebuild_set_error, (type(self), self.reason, self.file, self.remedy)


def _rebuild_set_error(kind: type[SetError], reason: str, file: str | None, remedy: str) -> SetError:
    return kind(reason, file=file, remedy=remedy)


def printable(text: str) -> str:
    """The text with everything that could move a terminal's cursor or forge a line as its escape; "\\n" stays."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)


class ModelError(StackdError):
    """A model file cannot be used."""


class OutputError(StackdError):
    """A result could not be written, for now (a full disk, a vanished mount)."""

    retry = True
