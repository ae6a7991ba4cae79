"""Errors that name the file, the row or key, what was expected and what to do."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from histofuse.core.naming import show_count

MOST_CHARACTERS: Final = 400  # of each part of a fault that is shown
MOST_FAULTS: Final = 100  # that a message lists; it counts the others


class HistofuseError(Exception):
    """An error that the user can fix; every command shows it without a traceback."""


@dataclass(frozen=True)
class Fault:
    """One thing wrong with the input."""

    where: str | Path  # file, and the row or key in it
    problem: str  # what was found
    expected: str  # what should be there
    remedy: str = ""  # what to do about it

    def __str__(self) -> str:
        where, problem, expected, remedy = map(
            shorten, (str(self.where), self.problem, self.expected, self.remedy)
        )
        return f"{where}: {problem}; expected {expected}.{' ' if remedy else ''}{remedy}"


def shorten(text: str, most: int = MOST_CHARACTERS) -> str:
    """Cut a text that may come from outside, and escape what would control a terminal or a log."""
    cut = text if len(text) <= most else f"{text[:most]}… ({len(text):,} characters)"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in cut)


class InputError(HistofuseError):
    """All faults in the input, listed at once."""

    def __init__(self, faults: list[Fault]) -> None:
        self.faults = list(faults)
        super().__init__(list_faults(self.faults))

    @staticmethod
    def of(where: str | Path, problem: str, expected: str, remedy: str = "") -> "InputError":
        """Make the error of one fault."""
        return InputError([Fault(where, problem, expected, remedy)])


def list_faults(faults: Sequence[Fault], most: int = MOST_FAULTS) -> str:
    """List faults, one per line; those beyond the first are counted."""
    count = len(faults)
    lines = [f"{show_count(count, 'faults')} in the input:"]
    lines += map(str, faults[:most])
    lines += [f"… and {count - most:,} more"] if count > most else []
    return "\n  - ".join(lines)


class BundleError(HistofuseError):
    """A bundle whose files or digest do not match its manifest."""

    def __init__(self, message: str, faults: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.faults = tuple(faults) or (message,)  # without the bundle's path and advice


class RegistryError(HistofuseError):
    """The MLflow store or registry cannot be reached, or lacks an entry that it should have."""


class LeakageError(HistofuseError):
    """A split whose parts share pixels, cases or patients."""


class FaultList:
    """Collects faults so that a run reports all of them, not the first."""

    def __init__(self) -> None:
        self.faults: list[Fault] = []

    def add(self, where: str | Path, problem: str, expected: str, remedy: str = "") -> None:
        """Record one fault and continue."""
        self.faults.append(Fault(where, problem, expected, remedy))

    @contextmanager
    def catching(self) -> Iterator[None]:
        """Record the faults of an `InputError` that ends the block, and continue after it."""
        try:
            yield
        except InputError as error:
            self.faults += error.faults

    def raise_if_any(self) -> None:
        """Raise `InputError` with all faults recorded so far."""
        if self.faults:
            raise InputError(self.faults)


@contextmanager
def collect_faults() -> Iterator[FaultList]:
    """Collect faults over a block and raise them together when it ends.

    Raises InputError if any fault was recorded.
    """
    faults = FaultList()
    yield faults
    faults.raise_if_any()
