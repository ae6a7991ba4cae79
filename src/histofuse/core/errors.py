"""Errors that name the file, the row or key, what was expected and what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


class HistofuseError(Exception):
    """An error that the user can fix; every command shows it without a traceback."""


@dataclass(frozen=True)
class Fault:
    """One thing wrong with the input.

    Attributes:
        where: File, and the row or key in it.
        problem: What was found.
        expected: What should be there.
        remedy: What to do about it; empty if `expected` makes it clear.
    """

    where: str | Path
    problem: str
    expected: str
    remedy: str = ""

    def __str__(self) -> str:
        remedy = f" {self.remedy}" if self.remedy else ""
        return f"{self.where}: {self.problem}; expected {self.expected}.{remedy}"


class InputError(HistofuseError):
    """All faults in the input, listed at once."""

    def __init__(self, faults: list[Fault]) -> None:
        self.faults = list(faults)
        head = "1 fault" if len(self.faults) == 1 else f"{len(self.faults)} faults"
        super().__init__("\n  - ".join([f"{head} in the input:", *map(str, self.faults)]))


class BundleError(HistofuseError):
    """A bundle whose files or digest do not match its manifest."""


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

    def raise_if_any(self) -> None:
        """Raise `InputError` with all faults recorded so far."""
        if self.faults:
            raise InputError(self.faults)


@contextmanager
def collect_faults() -> Iterator[FaultList]:
    """Collect faults over a block and raise them together when it ends.

    Raises:
        InputError: If any fault was recorded.
    """
    faults = FaultList()
    yield faults
    faults.raise_if_any()
