"""Run the benchmarks, each in a process of its own, and write benchmarks/results.md.

Run: python benchmarks/run.py [--short] [NAME ...], such as `python benchmarks/run.py patches`
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

from claims import JSON_MARK, Claim

HERE = Path(__file__).parent
RESULTS = HERE / "results.md"
# In the order of the table in benchmarks/README.md.
NAMES = (
    "lab_features",
    "comorbidity",
    "patches",
    "whole_slide",
    "training_epoch",
    "fusion_training",
    "study",
    "gradcam",
    "shap_values",
    "repro",
)
HEADER = "| # | work | ours | peer | limit | ratio | bar | |\n|---|---|---|---|---|---|---|---|"


def run(name: str, *, short: bool) -> tuple[list[Claim], str]:
    """Run one benchmark; give its claims, or none and the end of what it said."""
    command = [sys.executable, str(HERE / f"{name}.py"), "--json", *(["--short"] if short else [])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    print(done.stdout, done.stderr if done.returncode else "", sep="", flush=True)
    marked = [line for line in done.stdout.splitlines() if line.startswith(JSON_MARK)]
    if done.returncode or not marked:
        return [], (done.stderr.strip().splitlines() or ["no claims"])[-1]
    return [Claim(**claim) for claim in json.loads(marked[-1].removeprefix(JSON_MARK))], ""


def tabulate(claims: list[Claim]) -> str:
    """Make the table; what falls short says so."""
    rows = [HEADER]
    for c in claims:
        verdict = "holds" if c.holds else "**falls short**"
        cells = (c.number, c.work, c.ours, c.peer, c.limit, f"{c.ratio:.3g}", c.bar, verdict)
        rows.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    notes = [f"- Row {c.number}, {c.work}: {c.note}" for c in claims if c.note]
    return "\n".join(rows) + ("\n\n" + "\n".join(notes) if notes else "") + "\n"


def describe_machine() -> str:
    """Name the processor, its cores and memory."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        names = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        model = names[0].split(":", 1)[1].strip() if names else model
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{model}, {os.cpu_count()} cores, {memory:.0f} GiB, Python {platform.python_version()}"


def main() -> int:
    """Run what was asked for; the exit status counts the benchmarks that broke."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*NAMES, []], help="all by default")
    parser.add_argument("--short", action="store_true", help="smaller inputs: minutes, not hours")
    options = parser.parse_args()
    claims, broken, start = [], [], time.perf_counter()
    for name in options.names or NAMES:
        print(f"--- {name}", flush=True)
        found, problem = run(name, short=options.short)
        claims += found
        broken += [f"- {name} broke: {problem}"] if problem else []
    minutes = (time.perf_counter() - start) / 60
    mode = "short" if options.short else "full"
    text = (
        f"# Benchmarks\n\n{mode} mode, {minutes:.0f} min, on {describe_machine()}. "
        "Ratios carry over to other machines, seconds do not. Written by `benchmarks/run.py`.\n\n"
    )
    text += tabulate(claims) + "".join(f"{line}\n" for line in broken)
    if not options.names:
        RESULTS.write_text(text, encoding="utf-8")
    print(text)
    return len(broken)


if __name__ == "__main__":
    sys.exit(main())
