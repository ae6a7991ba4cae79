"""Stage ``simulate_linked``: patients with a tissue and a record of their own, and an outcome."""

from pathlib import Path

from _stage import run_stage
from histofuse.core.progress import report
from histofuse.data.patches import PatchMeta
from histofuse.data.simulate.linked.cohort import CLASSES
from histofuse.data.simulate.linked.files import Cutting, simulate_linked
from histofuse.features.stain import find_normaliser
from histofuse.params.base import load_section, load_seed
from histofuse.params.patches import PatchParams
from histofuse.params.simulation import LinkedSimulationParams

OUT = Path("data/simulated/linked")


def main() -> None:
    params = load_section(LinkedSimulationParams, "simulation.linked")
    patches = load_section(PatchParams, "patches")
    report(f"simulating {params.patients:,} patients of {params.nuclei_per_patient} nuclei")

    meta = PatchMeta(
        patch_px=patches.patch_px,
        margin_px=patches.margin_px,
        stored_px=patches.stored_px,
        classes=list(CLASSES),
        source="simulated",
        stain_normalisation=patches.stain_normalisation,
        patch_um=None if patches.patch_um == "none" else patches.patch_um,  # drawn at that size
    )
    normalise = find_normaliser(patches.stain_normalisation)
    cutting = Cutting(meta, patches.shard_patches, normalise)
    achievable = simulate_linked(params, cutting, load_seed(), OUT)

    expected = ", ".join(f"{side} {auroc:.3f}" for side, auroc in achievable["expected"].items())
    report(f"wrote {OUT}: best achievable AUROC {expected}")


if __name__ == "__main__":
    run_stage(main)
