"""Errors that name the file, the row or key, what was expected and what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


class HistofuseError(Exception):
    """A fault the user can mend; shown without a traceback by every command."""


@dataclass(frozen=True)
class Fault:
    """One thing wrong with the input.

    Attributes:
        where: File, and the row or key in it.
        problem: What was found.
        expected: What should stand there.
        remedy: What to do about it; empty where `expected` says it all.
    """

    where: str | Path
    problem: str
    expected: str
    remedy: str = ""

    def __str__(self) -> str:
        remedy = f" {self.remedy}" if self.remedy else ""
        return f"{self.where}: {self.problem}; expected {self.expected}.{remedy}"


class InputError(HistofuseError):
    """All faults found in the input, listed at once."""

    def __init__(self, faults: list[Fault]) -> None:
        self.faults = list(faults)
        head = "1 fault" if len(self.faults) == 1 else f"{len(self.faults)} faults"
        super().__init__("\n  - ".join([f"{head} in the input:", *map(str, self.faults)]))


class BundleError(HistofuseError):
    """A bundle whose files or digest do not match its manifest."""


class RegistryError(HistofuseError):
    """The MLflow store or registry cannot be reached, or does not hold what it should."""


class LeakageError(HistofuseError):
    """A split that shares pixels, cases or patients where none may be shared."""


class FaultList:
    """Collects faults so that a run reports all of them, not the first."""

    def __init__(self) -> None:
        self.faults: list[Fault] = []

    def add(self, where: str | Path, problem: str, expected: str, remedy: str = "") -> None:
        """Note one fault and go on."""
        self.faults.append(Fault(where, problem, expected, remedy))

    def raise_if_any(self) -> None:
        """Raise `InputError` with everything noted so far."""
        if self.faults:
            raise InputError(self.faults)


@contextmanager
def collect_faults() -> Iterator[FaultList]:
    """Collect faults over a block and raise them together at its end.

    Raises:
        InputError: If any fault was noted.
    """
    faults = FaultList()
    yield faults
    faults.raise_if_any()
