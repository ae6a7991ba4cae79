"""``histofuse publish``, and the stage of that name: what DVC holds and MLflow does not."""

from histofuse.commands.ui import describe_page
from histofuse.core.naming import show_count
from histofuse.promotion.decision import Production
from histofuse.reporting.report import find_documents
from histofuse.tracking.publish import publish_all
from histofuse.tracking.store import open_store
from histofuse.tracking.studies import publish_studies


def publish() -> list[str]:
    """Write models, promotions and studies that MLflow does not hold yet.

    Returns a line for each model and study written, the totals, and where to look at the runs.
    """
    models = publish_all(documents=find_documents())
    store = open_store()
    Production(store).mend_all()
    studies = publish_studies()
    return [
        *(f"published {name}" for name in models.written),
        f"{show_count(models.written, 'models')} written, {len(models.unchanged)} unchanged",
        *(f"published study {name}" for name in studies.written),
        f"{show_count(studies.written, 'studies')} written, {len(studies.unchanged)} unchanged",
        *describe_page(store),
    ]
