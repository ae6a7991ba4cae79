"""Stage ``publish``: bundles and reports -> MLflow runs and registered models, where new."""

from _stage import run_stage
from histofuse.core.progress import report
from histofuse.promotion.decision import Production
from histofuse.reporting.report import find_documents
from histofuse.tracking.publish import publish_all
from histofuse.tracking.store import open_store
from histofuse.tracking.studies import publish_studies


def main() -> None:
    outcome = publish_all(documents=find_documents())
    Production(open_store()).mend_all()
    known = len(outcome.unchanged)
    report(f"read {known + len(outcome.written)} models and their reports")
    report(f"wrote {len(outcome.written)} to MLflow, {known} were there")
    written, unchanged = publish_studies()
    report(f"wrote {len(written)} studies to MLflow, {len(unchanged)} were there")


if __name__ == "__main__":
    run_stage(main)
