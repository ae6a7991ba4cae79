"""Stage ``annotations``: frames and dots -> one table of frames, one of annotations."""

from pathlib import Path

from _stage import run_stage
from histofuse.core.artifacts import replacing_folder, write_json
from histofuse.core.naming import show_count
from histofuse.core.progress import report
from histofuse.core.tables import write_table
from histofuse.data.annotations import read_annotations
from histofuse.data.brecahad import ANNOTATIONS, FRAMES, identify_source
from histofuse.params.base import load_section
from histofuse.params.data import ClassesParams, DataParams

OUT = Path("data/annotations")


def main() -> None:
    classes = load_section(ClassesParams, "classes")
    params = load_section(DataParams, "data")
    data = read_annotations(params, classes)
    cases = data.frames["case_id"].nunique()
    source = identify_source(params)
    found = f"{show_count(data.frames, 'frames')} of {show_count(cases, 'cases')}"
    report(f"read {params.brecahad} ({source}): {found}")
    for note in data.notes:
        report(note)

    with replacing_folder(OUT) as out:
        write_table(data.frames, out / "frames.parquet", FRAMES)
        write_table(data.annotations, out / "annotations.parquet", ANNOTATIONS)
        write_json({"classes": classes.names, "source": source}, out / "meta.json")

    counts = data.annotations["label"].value_counts()
    listed = ", ".join(f"{counts.get(name, 0):,} {name}" for name in classes.names)
    report(f"wrote {OUT}: {len(data.annotations):,} annotations ({listed})")


if __name__ == "__main__":
    run_stage(main)
