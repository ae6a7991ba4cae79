"""What every benchmark gives back, and how it is printed; `run.py` puts all into results.md.

A benchmark is a file with ``measure(short) -> list[Claim]`` and ends with ``main(measure)``:

    python benchmarks/patches.py            # the figures of the full mode
    python benchmarks/patches.py --short    # smaller inputs, the same work
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

JSON_MARK = "claims: "


@dataclass(frozen=True)
class Claim:
    """One row of the table: us, a peer and what the machine allows, measured in the same run.

    Attributes:
        number: Of the row, as in benchmarks/README.md; several claims may share it.
        work: What was done, with its size.
        ours: Our figure, with its unit.
        peer: The peer's name and figure; empty if there is none.
        limit: The physical limit's name and figure; empty if there is none.
        ratio: The number that is held against the bar.
        bar: What the ratio was to be, in words, such as "≥ 10 × the peer".
        holds: Whether it is.
        note: What limits a row that falls short, or what else one must know.
    """

    number: int
    work: str
    ours: str
    peer: str
    limit: str
    ratio: float
    bar: str
    holds: bool
    note: str = ""


def best_seconds(work: Callable[[], object], repeats: int = 3) -> float:
    """Time some work; the best of a few goes, for other programs only ever slow it down."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def peak_mib() -> float:
    """Read the most memory this program has held, in MiB, on Linux.

    Not by getrusage, which counts what the parent held too.
    """
    status = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    (peak,) = (int(line.split()[1]) for line in status if line.startswith("VmHWM"))
    return peak / 1024


def main(measure: Callable[[bool], list[Claim]]) -> None:
    """Run a benchmark from the command line."""
    parser = argparse.ArgumentParser(description=sys.modules["__main__"].__doc__)
    parser.add_argument("--short", action="store_true", help="smaller inputs, the same work")
    parser.add_argument("--json", action="store_true", help="end with one line for run.py")
    options = parser.parse_args()
    claims = measure(options.short)
    for claim in claims:
        print(render(claim))
    if options.json:
        print(JSON_MARK + json.dumps([asdict(claim) for claim in claims]))


def render(claim: Claim) -> str:
    """Put a claim in a few lines."""
    lines = [f"{claim.work}: {claim.ours}"]
    lines += [f"  {name}: {value}" for name, value in _others(claim) if value]
    verdict = "holds" if claim.holds else "FALLS SHORT"
    lines.append(f"  ratio {claim.ratio:.3g}, bar {claim.bar}: {verdict}")
    return "\n".join(lines)


def _others(claim: Claim) -> list[tuple[str, str]]:
    return [("peer", claim.peer), ("limit", claim.limit), ("note", claim.note)]
