"""What 1,000 whole slides with matched records take: hours and bytes, from measured rates.

A model on paper: every rate is one that a benchmark here prints, every size one that is stated, and
each can be given anew. Machines and GPUs are taken to add up; that, and the network between them,
is not measured.
Run: python benchmarks/cost_model.py [--slides 1000] [--gpu-rate 64000] ...
"""

import argparse
from dataclasses import dataclass, fields

HOUR = 3600
GB = 1e9
STORED_PX, EMBEDDING = 96, 512


@dataclass(frozen=True)
class Assumptions:
    """Sizes, then rates; each is an option.

    Attributes:
        slides: Slides, a patient each.
        slide_gpx: Pixels of a slide, in 1e9: 100,000 x 80,000 at 0.25 um.
        tissue: Share of a slide's tiles that hold points.
        slide_gb: A slide's file, JPEG in tiles.
        points: Nuclei of a slide that become patches.
        epochs: Of training.
        cores: Of the machine that cuts and of the one that reads records.
        lab_rows: Of labevents, in 1e6.
        decode_mpx: whole_slide.py, pixels decoded and cut a second and core, in 1e6.
        lab_rate: lab_features.py, rows a second, in 1e6, on two cores.
        gpu_rate: training_epoch.py on one GPU at 64 px and batch 1024, patches a second.
        disk_gb: What a local disk reads a second, in GB; a stated size, not measured.
    """

    slides: float = 1000
    slide_gpx: float = 8
    tissue: float = 0.4
    slide_gb: float = 1.5
    points: float = 20_000
    epochs: float = 10
    cores: float = 16
    lab_rows: float = 118.2
    decode_mpx: float = 30
    lab_rate: float = 6.5
    gpu_rate: float = 64_588
    disk_gb: float = 5


def read_assumptions() -> Assumptions:
    parser = argparse.ArgumentParser(description=__doc__)
    for f in fields(Assumptions):
        parser.add_argument(f"--{f.name.replace('_', '-')}", type=float, default=f.default)
    return Assumptions(**vars(parser.parse_args()))


def list_steps(a: Assumptions) -> list[tuple[str, float, float, float]]:
    """Name, hours with one GPU's machine, hours with eight, bytes that stay."""
    patches = a.slides * a.points
    patch_bytes = STORED_PX * STORED_PX * 3
    decode = a.slides * a.slide_gpx * 1e3 * a.tissue / (a.decode_mpx * a.cores) / HOUR
    labs = a.lab_rows / a.lab_rate / HOUR
    train = patches * a.epochs / a.gpu_rate / HOUR
    embed = patches / a.gpu_rate / HOUR
    return [
        ("slides as they come", 0, 0, a.slides * a.slide_gb * GB),
        ("decode and cut", decode, decode / 8, patches * patch_bytes),
        ("laboratory features", labs, labs, 0),
        ("train ResNet-18", train, train / 8, 0),
        ("embed", embed, embed / 8, patches * EMBEDDING * 4),
    ]


def list_limits(a: Assumptions) -> list[str]:
    """Say what each part would have to deliver for the GPUs to be kept busy."""
    patch_bytes = STORED_PX * STORED_PX * 3
    stored = a.slides * a.points * patch_bytes / GB
    wanted = a.gpu_rate * patch_bytes / GB
    return [
        f"patches in memory: {stored:,.0f} GB (training holds its patches in the host's memory)",
        f"one GPU eats {wanted:.1f} GB/s of patches, eight {8 * wanted:.0f}; "
        f"a disk gives {a.disk_gb:g}",
    ]


def main() -> None:
    a = read_assumptions()
    print("| step | hours, 1 GPU and its cores | hours, 8 of them | GB |\n|---|---|---|---|")
    steps = list_steps(a)
    for name, one, eight, size in steps:
        print(f"| {name} | {one:.2f} | {eight:.2f} | {size / GB:,.0f} |")
    one, eight = (sum(step[i] for step in steps) for i in (1, 2))
    print(f"| all | {one:.2f} | {eight:.2f} | {sum(step[3] for step in steps) / GB:,.0f} |")
    print("\n" + "\n".join(f"- {line}" for line in list_limits(a)))


if __name__ == "__main__":
    main()
