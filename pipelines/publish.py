"""Stage ``publish``: bundles and reports -> MLflow runs and registered models, where new."""

from _stage import run_stage
from histofuse.commands.publish import publish
from histofuse.core.progress import report


def main() -> None:
    for line in publish():
        report(line)


if __name__ == "__main__":
    run_stage(main)
