"""Grad-CAM maps of image networks, and a gallery of overlays in class-named folders.

At small inputs the last convolutional block is too coarse to locate anything (ResNet-18 at 64 px
ends in 2 x 2), so the deepest block whose map is still fine enough is explained.

Source: paper 3.1 (Grad-CAM; a fixed number a class, in class-named folders).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Float32, Int, UInt8
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor, nn

from histofuse.core.artifacts import replacing_file, replacing_folder, write_json
from histofuse.core.bundle import Bundle
from histofuse.core.errors import Fault, InputError
from histofuse.data.patches import crop_margin, load_index, load_meta, read_patches
from histofuse.models.backbones import ImageModel, list_stages, load_image_model

_BATCH = 64
# Opacity of the map where it is strongest.
_OPACITY = 0.55
_DPI = 110
SUMMARY = "summary.json"
SHEET = "contact_sheet.png"


@runtime_checkable
class GalleryParams(Protocol):
    """What the gallery takes from section ``explain``."""

    @property
    def gradcam_per_class(self) -> int:
        """Overlays a class."""
        ...

    @property
    def minimum_map_px(self) -> int:
        """Least side of a map, in its own pixels."""
        ...


# --- maps ---------------------------------------------------------------------------------------


def choose_layer(model: ImageModel, input_px: int, minimum_map_px: int) -> tuple[str, int]:
    """Choose the deepest block of the backbone whose map is fine enough to locate something.

    Args:
        model: The network.
        input_px: Side of its input.
        minimum_map_px: Least side of the map.

    Returns:
        The dotted name of a module of the model, and the side of its map.

    Raises:
        InputError: If no block gives a map that fine, as in a network without convolutions.
    """
    sides = _measure_maps(model, input_px)
    fine = [(name, side) for name, side in sides.items() if side >= minimum_map_px]
    if not fine:
        found = ", ".join(f"{name} {side} px" for name, side in sides.items()) or "no maps"
        fault = Fault(
            f"Grad-CAM of {model.spec.backbone} at {input_px} px",
            f"its blocks give {found}",
            f"one of at least {minimum_map_px} x {minimum_map_px}",
            "Lower explain.minimum_map_px or take a larger input_px.",
        )
        raise InputError([fault])
    return fine[-1]


def _measure_maps(model: ImageModel, input_px: int) -> dict[str, int]:
    """Measure the sides of the square maps that blocks give, from shallow to deep."""
    sides: dict[str, int] = {}

    def note(name: str, output: object) -> None:
        if isinstance(output, Tensor) and output.ndim == 4 and output.shape[2] == output.shape[3]:
            sides[name] = output.shape[3]

    names = [f"backbone.{stage.name}" for stage in list_stages(model.backbone)]
    hooks = [
        model.get_submodule(name).register_forward_hook(lambda _, __, out, n=name: note(n, out))
        for name in names
    ]
    device = next(model.parameters()).device
    try:
        with torch.inference_mode():
            model.eval()(torch.zeros(1, 3, input_px, input_px, device=device))
    finally:
        for hook in hooks:
            hook.remove()
    return sides


def compute_gradcam(
    model: ImageModel,
    images: Float[Tensor, "n 3 side side"],
    target_classes: Int[Tensor, " n"],
    layer: str,
) -> Float32[np.ndarray, "n height width"]:
    """Compute a map for each image: where evidence for the target class lies.

    Args:
        model: The network.
        images: Prepared, as `ImageModel.prepare` gives them.
        target_classes: The class each map explains.
        layer: Dotted name of a module, from `choose_layer`.

    Returns:
        Maps of the layer's own size, each scaled to a maximum of 1; all zero where nothing speaks
        for the class.
    """
    model.eval()
    return compute_maps(model, model.get_submodule(layer), images, target_classes)


def compute_maps(
    network: nn.Module,
    layer: nn.Module,
    images: Float[Tensor, "n 3 side side"],
    target_classes: Int[Tensor, " n"],
    beside: tuple[Tensor, ...] = (),
) -> Float32[np.ndarray, "n height width"]:
    """Compute maps of any network that takes images, as `compute_gradcam` does.

    Args:
        network: In eval mode; called with a batch of images, and of what stands beside them.
        layer: A module of it.
        images: As the network takes them.
        target_classes: The class each map explains.
        beside: Further inputs, a row an image.
    """
    from captum.attr import LayerGradCam

    explainer = LayerGradCam(network, layer)
    parts: list[Tensor] = []
    for batch, targets, *others in zip(
        *(part.split(_BATCH) for part in (images, target_classes, *beside)), strict=True
    ):
        with torch.enable_grad():
            # Maps of frozen weights need a gradient to flow from the image on.
            found = explainer.attribute(
                batch.detach().requires_grad_(),
                target=targets,
                additional_forward_args=tuple(others) or None,
                relu_attributions=True,
            )
        assert isinstance(found, Tensor)
        parts.append(found.detach().float().cpu()[:, 0])
    maps = torch.cat(parts)
    highest = maps.amax(dim=(1, 2), keepdim=True)
    return torch.where(highest > 0, maps / highest.clamp(min=1e-30), 0.0).numpy()


def share_empty(maps: Float32[np.ndarray, "n height width"]) -> float:
    """Compute the share of maps that are zero everywhere."""
    return float((maps.reshape(len(maps), -1).max(axis=1) == 0).mean()) if len(maps) else 0.0


# --- gallery ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Explained:
    """One patch with its map.

    Attributes:
        patch_id: Of the patch.
        label: True class.
        prediction: Predicted class, which the map explains.
        probability: Calibrated, of the predicted class.
        patch: (patch_px, patch_px, 3) RGB.
        heat: (height, width) between 0 and 1.
        source: Of the patch, such as ``simulated``.
    """

    patch_id: str
    label: str
    prediction: str
    probability: float
    patch: UInt8[np.ndarray, "side side 3"]
    heat: Float32[np.ndarray, "height width"]
    source: str

    @property
    def is_hit(self) -> bool:
        """Whether the prediction is right."""
        return self.prediction == self.label


def write_gradcam_gallery(
    bundle: Bundle,
    patches_folder: Path,
    predictions: pd.DataFrame,
    out_dir: Path,
    params: GalleryParams,
) -> dict[str, float | int | str]:
    """Write overlays to ``<out_dir>/<model>/<true class>/<patch>.png``, and one contact sheet.

    Args:
        bundle: Of an image network.
        patches_folder: Its patches.
        predictions: Rows of its predictions to choose from, such as those of the test split.
        out_dir: The folder of the model in it is replaced.
        params: How many a class, and how fine the maps.

    Returns:
        What ``summary.json`` says: model, layer, map_px, patches, empty_share.

    Raises:
        InputError: If no block of the network gives a map fine enough.
    """
    model = load_image_model(bundle)
    layer, map_px = choose_layer(model, model.spec.input_px, params.minimum_map_px)
    chosen = choose_examples(predictions, model.spec.classes, params.gradcam_per_class)
    examples = _explain(model, patches_folder, chosen, layer)
    summary: dict[str, float | int | str] = {
        "model": bundle.name,
        "layer": layer.removeprefix("backbone."),
        "map_px": map_px,
        "patches": len(examples),
        "empty_share": round(share_empty(np.stack([e.heat for e in examples])), 4)
        if examples
        else 0.0,
    }
    with replacing_folder(out_dir / bundle.name) as folder:
        for example in examples:
            name = example.patch_id.replace("/", "_")
            write_figure(draw_example(example), folder / example.label / f"{name}.png")
        if examples:
            where = f"{summary['layer']}, {map_px} × {map_px}"
            title = f"{bundle.name}: Grad-CAM of {where}{_mark_source(examples[0].source)}"
            write_figure(draw_sheet(examples, model.spec.classes, title), folder / SHEET)
        write_json(summary, folder / SUMMARY)
    return summary


def choose_examples(
    predictions: pd.DataFrame, classes: Sequence[str], per_class: int
) -> pd.DataFrame:
    """Choose patches of each true class: the most confident misses, up to half, and hits.

    Where one kind is too few the other fills up. Ties go by ``patch_id``.

    Returns:
        Rows of `predictions` by class, hits before misses.
    """
    parts: list[pd.DataFrame] = []
    for name in classes:
        rows = predictions[predictions["label"] == name]
        confidence = [row[f"probability_{row['prediction']}"] for _, row in rows.iterrows()]
        rows = rows.assign(_confidence=np.array(confidence, dtype=float))
        rows = rows.sort_values(["_confidence", "patch_id"], ascending=[False, True])
        hits, misses = (rows[(rows["prediction"] == name) == kind] for kind in (True, False))
        n_misses = min(len(misses), max(per_class // 2, per_class - len(hits)))
        parts += [hits.head(per_class - n_misses), misses.head(n_misses)]
    return pd.concat(parts, ignore_index=True).drop(columns="_confidence")


def _explain(
    model: ImageModel, patches_folder: Path, chosen: pd.DataFrame, layer: str
) -> list[Explained]:
    if chosen.empty:
        return []
    places = load_index(patches_folder)[["patch_id", "shard", "row"]]
    places = chosen[["patch_id"]].merge(places, on="patch_id", how="left", validate="1:1")
    stored = read_patches(patches_folder, places)
    numbers = {name: number for number, name in enumerate(model.spec.classes)}
    targets = torch.tensor([numbers[name] for name in chosen["prediction"]])
    source = load_meta(patches_folder).source
    maps = compute_gradcam(model, model.prepare(torch.from_numpy(stored)), targets, layer)
    patches = crop_margin(stored, model.spec.margin_px)
    return [
        Explained(
            patch_id=row["patch_id"],
            label=row["label"],
            prediction=row["prediction"],
            probability=float(row[f"probability_{row['prediction']}"]),
            patch=patches[n],
            heat=maps[n],
            source=source,
        )
        for n, (_, row) in enumerate(chosen.iterrows())
    ]


# --- figures ------------------------------------------------------------------------------------


def enlarge(
    heat: Float32[np.ndarray, "height width"], side_px: int
) -> Float32[np.ndarray, "side side"]:
    """Enlarge a map to the side of its patch, bilinearly."""
    stack = torch.from_numpy(heat)[None, None]
    size = (side_px, side_px)
    enlarged = torch.nn.functional.interpolate(stack, size, mode="bilinear", align_corners=False)
    return enlarged[0, 0].numpy()


def blend(
    patch: UInt8[np.ndarray, "side side 3"], heat: Float32[np.ndarray, "height width"]
) -> UInt8[np.ndarray, "side side 3"]:
    """Lay a map over its patch, the more opaque the stronger it is."""
    large = enlarge(heat, len(patch))
    colours = np.asarray(colormaps["inferno"](large))[..., :3] * 255
    opacity = (_OPACITY * large)[..., None]
    return np.rint((1 - opacity) * patch + opacity * colours).astype(np.uint8)


def draw_example(example: Explained) -> Figure:
    """Draw patch, map and overlay side by side, with classes and probability above."""
    figure = Figure(figsize=(6.6, 2.75), layout="constrained")
    axes = figure.subplots(1, 3)
    side = len(example.patch)
    _show(axes[0], example.patch, "patch")
    image = axes[1].imshow(
        enlarge(example.heat, side), cmap="inferno", vmin=0, vmax=1, interpolation="nearest"
    )
    height, width = example.heat.shape
    _show(axes[1], None, f"Grad-CAM ({height} × {width})")
    figure.colorbar(image, ax=axes[1], fraction=0.046, ticks=[0, 0.5, 1])
    _show(axes[2], blend(example.patch, example.heat), "overlay")
    verdict = "hit" if example.is_hit else "miss"
    empty = "" if example.heat.max() > 0 else ", empty map"
    figure.suptitle(
        f"{example.patch_id}: true {example.label}, predicted {example.prediction}"
        f" ({example.probability:.2f}), {verdict}{empty}"
        f"{_mark_source(example.source)}",
        fontsize=9.5,
    )
    return figure


def draw_sheet(examples: Sequence[Explained], classes: Sequence[str], title: str) -> Figure:
    """Draw all examples on one sheet: a row of patches and one of overlays for each true class."""
    of_class = {name: [e for e in examples if e.label == name] for name in classes}
    shown = [name for name in classes if of_class[name]]
    columns = max(len(group) for group in of_class.values())
    figure = Figure(figsize=(1.35 * columns + 0.9, 3.05 * len(shown) + 0.5), layout="constrained")
    grid = figure.subplots(2 * len(shown), columns, squeeze=False)
    for row, name in enumerate(shown):
        for column in range(columns):
            top, bottom = grid[2 * row][column], grid[2 * row + 1][column]
            if column < len(of_class[name]):
                _draw_pair(top, bottom, of_class[name][column])
            else:
                top.set_axis_off()
                bottom.set_axis_off()
        grid[2 * row][0].set_ylabel(f"true\n{name}", fontsize=9)
        grid[2 * row + 1][0].set_ylabel("overlay", fontsize=9)
    figure.suptitle(title, fontsize=11)
    return figure


def _mark_source(source: str) -> str:
    return " (simulated data)" if source == "simulated" else ""


def _draw_pair(top: Axes, bottom: Axes, example: Explained) -> None:
    colour = "#1a7a3c" if example.is_hit else "#b3261e"
    verdict = "hit" if example.is_hit else "miss"
    _show(top, example.patch, f"{verdict}: {example.prediction}\n{example.probability:.2f}", colour)
    _show(bottom, blend(example.patch, example.heat), "")


def _show(
    axes: Axes,
    image: UInt8[np.ndarray, "side side 3"] | None,
    title: str,
    colour: str = "black",
) -> None:
    if image is not None:
        axes.imshow(image, interpolation="nearest")
    axes.set_title(title, fontsize=8, color=colour)
    axes.set_xticks([])
    axes.set_yticks([])


def write_figure(figure: Figure, path: Path) -> None:
    """Write a PNG, the same bytes for the same figure."""
    FigureCanvasAgg(figure)
    with replacing_file(path) as temporary:
        # The version of the plotting library in the file would change its digest.
        figure.savefig(temporary, format="png", dpi=_DPI, metadata={"Software": None})
