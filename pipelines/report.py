"""Stage ``report``: all that a run left -> one page for a person."""

from _stage import run_stage
from histofuse.core.progress import report
from histofuse.reporting.report import write_report


def main() -> None:
    page = write_report()
    report(f"wrote {page} ({page.stat().st_size / 1e6:.1f} MB)")


if __name__ == "__main__":
    run_stage(main)
