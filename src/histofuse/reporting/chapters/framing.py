"""Chapters that frame the evidence: question, limitations, provenance."""

from collections.abc import Iterator

from histofuse.core.naming import flatten, name_fusion, name_model, show_count, show_name
from histofuse.core.stage import read_stage_times
from histofuse.reporting.blocks import Block, Bullets, Chapter, Fold, Grid, Prose, Terms
from histofuse.reporting.inputs import Run
from histofuse.reporting.origin import Origin


def find_focus(run: Run) -> str:
    """Find the class in focus of the models on patches."""
    declared = run.metrics["declared"]
    return next(declared[name]["focus_class"] for name in run.params["image"] if name in declared)


def write_question_chapter(run: Run) -> Chapter:
    """Write the question."""
    classes = ", ".join(map(show_name, run.patches["classes"]))
    text = (
        "Pathologists grade breast cancer by the appearance of nuclei, mitoses above all; "
        "clinicians know the patient's record."
    )
    items = [
        f"Images: a patch of H&E-stained breast tissue around one nucleus gets a probability for "
        f"each class: {classes}.",
        f"Health record: an admission gets the probability of the target, "
        f"{run.cohort['description']}.",
        "Fusion: from the embeddings of both to the classes of the patch.",
        "Development and internal evaluation, for research on methods. Not intended or supported "
        "for use in care.",
    ]
    return Chapter("question", "The question", [Prose(text), Bullets(items)])


def write_limits_chapter(run: Run) -> Chapter:
    """Write the limitations."""
    return Chapter("limitations", "Limitations", [Bullets(list(_list_limits(run)))])


def list_caveats(run: Run) -> Iterator[str]:
    """List what readers must not conclude."""
    if run.simulated:
        yield "Nothing about patients: data are simulated, and show whether the code works."
    yield "Nothing for the care of a patient: this is research on methods, not a medical device."
    if run.primary != name_fusion("linked"):
        of, own = "images and records", run.read("positive_control") or {}
        if "own" in own:
            of = f"the pairs of {name_model(run.primary)}"
        yield (
            f"Nothing about the record of the same patient: {of} belong to different "
            "people, so any gain is chance, the extra head, or a leak."
        )
    yield "Nothing about other hospitals: one source per kind of data, no external validation."


def _list_limits(run: Run) -> Iterator[str]:
    yield from list_caveats(run)
    sizes = run.metrics["split_sizes"]["patches"]
    test, validation = sizes[run.split], sizes.get("validation", {"classes": {}})
    cases, focus = test.get("cases"), find_focus(run)
    if cases is not None and cases < run.rules.fewest_groups:
        yield (
            f"The {run.split} split contains {show_count(cases, 'cases')}. "
            "With so few, an interval covers the true value less often than it claims."
        )
    yield (
        f"{test['classes'].get(focus, 0)} examples of {show_name(focus)} in {run.split} and "
        f"{validation['classes'].get(focus, 0)} in validation, on which calibration and "
        "thresholds were fitted: both are coarse."
    )
    yield "Diagnoses are billing codes, assigned after discharge."
    if "crossval" not in run.present:
        yield "One split: run make crossval to see how much the results depend on it."


def write_provenance_chapter(run: Run, origin: Origin) -> Chapter:
    """Write the provenance."""
    state = "with local changes" if origin.dirty else "as committed"
    facts = [
        ("Git commit", f"{origin.commit} ({state})" if origin.commit else "unknown"),
        ("SHA-256 of dvc.lock", origin.lock_digest),
        ("Seed", str(run.params.get("seed"))),
    ]
    models = [[name_model(name), digest] for name, digest in run.digests.items()]
    versions = [[name, version] for name, version in origin.packages.items()]
    rows = [[key, value] for key, value in flatten(run.params).items()]
    blocks: list[Block] = [
        Terms(facts),
        Grid("Bundle digests", ["Model", "SHA-256 of the manifest"], models),
        *_list_stage_times(run),
        Fold("Package versions", [Grid("Versions", ["Package", "Version"], versions)]),
        Fold(f"Params: {len(rows)} values", [Grid("Params", ["Key", "Value"], rows)]),
    ]
    return Chapter("provenance", "Provenance", blocks)


def _list_stage_times(run: Run) -> list[Block]:
    times = read_stage_times(run.root)
    rows = [[name, f"{t.total:.1f}", f"{t.start_up:.1f}"] for name, t in times.items()]
    headings = ["Stage", "Seconds", "of which start-up"]
    title = f"Seconds of {len(rows)} stages, from the last run of each on this machine"
    return [Fold(title, [Grid("Seconds by stage", headings, rows)])] if rows else []
