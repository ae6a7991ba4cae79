"""Stage ``publish_encoders``: two bundles -> the registry, and a lock of their digests."""

from pathlib import Path

from _stage import run_stage
from histofuse.core.artifacts import write_json
from histofuse.core.progress import report
from histofuse.params.base import load_section
from histofuse.params.fusion import EncodersParams
from histofuse.tracking.registry import register_bundles

MODELS = Path("models")
LOCK = Path("registry.lock.json")


def main() -> None:
    params = load_section(EncodersParams, "encoders")
    digests = register_bundles([MODELS / params.image, MODELS / params.patient])
    report(f"read {MODELS / params.image} and {MODELS / params.patient}")

    # Names and digests only: a version number is the registry's own affair.
    write_json(digests, LOCK)
    report(f"wrote {LOCK}: {', '.join(digests)}")


if __name__ == "__main__":
    run_stage(main)
