"""Stage ``code``: the sources -> for each stage, a list of the modules it imports.

Every other stage runs after it, so it also checks all of params.yaml.

The file is not called code.py: next to the stages it would hide Python's own module ``code``.
"""

from pathlib import Path

from _stage import run_stage
from histofuse.commands.params import check_params
from histofuse.core.artifacts import replacing_folder
from histofuse.core.code import LISTS, write_code_list
from histofuse.core.progress import report

PIPELINES = Path("pipelines")
OUT = Path(LISTS)
# Tracking shows what ran. Only the names of registered models are an output.
IGNORED = ["src/histofuse/tracking"]
OUTPUT_OF_TRACKING = {"publish_encoders"}


def main() -> None:
    check_params()
    scripts = [p for p in sorted(PIPELINES.glob("[!_]*.py")) if p.name != Path(__file__).name]
    with replacing_folder(OUT) as folder:
        for script in scripts:
            ignored = [] if script.stem in OUTPUT_OF_TRACKING else IGNORED
            write_code_list(script, folder / f"{script.stem}.txt", ignored)
    report(f"wrote {OUT}: the code of {len(scripts)} stages")


if __name__ == "__main__":
    run_stage(main, listed=False)
