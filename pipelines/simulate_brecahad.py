"""Stage ``simulate_brecahad``: params -> frames and annotations in BreCaHAD's format."""

from pathlib import Path

from _stage import run_stage
from histofuse.core.progress import report
from histofuse.data.simulate.brecahad.frames import simulate_brecahad
from histofuse.params.base import load_section, load_seed
from histofuse.params.simulation import HistologySimulationParams

OUT = Path("data/simulated/brecahad")


def main() -> None:
    params = load_section(HistologySimulationParams, "simulation.brecahad")
    report(f"simulating {params.cases} cases of {params.frames_per_case} frames")

    counts = simulate_brecahad(params, load_seed(), OUT)

    listed = ", ".join(f"{count:,} {key}" for key, count in counts.items() if count)
    report(f"wrote {OUT}: {params.cases * params.frames_per_case} simulated frames, {listed}")


if __name__ == "__main__":
    run_stage(main)
