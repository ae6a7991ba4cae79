"""QuPath's GeoJSON: its objects as points with a class, and nuclei as objects that QuPath opens.

Source: QuPath's documentation, "Exporting annotations", for versions 0.2 to 0.6: a Feature, a list
of them or a FeatureCollection; coordinates are pixels of the finest level, the origin the upper
left corner of the first pixel.
"""

import json
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from histofuse.core.artifacts import load_json, replacing_file
from histofuse.core.errors import FaultList, InputError, collect_faults

SUFFIXES: Final = (".geojson", ".json")
LARGEST_NUCLEUS_PX: Final = 256  # wider polygons are outlines of regions, as a rule

Colour = tuple[int, int, int]
Row = dict[str, Any]

_EXPECTED = "GeoJSON as QuPath exports it: a Feature, a list of them or a FeatureCollection"
_GEOMETRIES: Final = ("Point", "MultiPoint", "Polygon", "MultiPolygon")
_IGNORED_GEOMETRIES: Final = ("LineString", "MultiLineString", "GeometryCollection")
_IGNORED_TYPES: Final = ("tile", "tma_core", "root")
_PLACES: Final = 4  # decimals of a pixel that are written
_FEATURES: Final = uuid.UUID("6f1d2f0e-5a0c-5b1e-9a51-0d9f6c1b7a44")  # name space of ids


@dataclass(frozen=True)
class Objects:
    """Objects of a file."""

    # ``feature`` (from 1), ``x_px, y_px``, ``class_name`` (None without one), ``colour`` (RGB or
    # None), ``measurements`` (name to number), ``width_px`` (0 for points)
    table: pd.DataFrame
    # kinds of objects that are no nuclei, such as lines, and how many there are
    ignored: Counter[str] = field(default_factory=Counter)


def read_objects(path: Path) -> Objects:
    """Read points, and polygons and cells by the centroid of their area, a cell's by its nucleus.

    Lines, tiles, cores of tissue arrays and classes that end with an asterisk, which QuPath
    ignores, are counted and left out. Raises InputError with each object that cannot be read.
    """
    rows: list[Row] = []
    ignored: Counter[str] = Counter()
    with collect_faults() as faults:
        # Measurements that QuPath could not take are NaN.
        content = load_json(path, parse_number=float)
        for number, feature in enumerate(_list_features(content, path), start=1):
            where = f"{path}, feature {number}"
            kind, points = _read_feature(feature, where, faults)
            ignored.update([kind] if kind else [])
            rows += [{"feature": number} | point for point in points]
    columns = ["feature", "x_px", "y_px", "class_name", "colour", "measurements", "width_px"]
    table = pd.DataFrame(rows, columns=columns)
    return Objects(table.astype({"x_px": float, "y_px": float, "width_px": float}), ignored)


def _list_features(content: Any, path: Path) -> list[Any]:
    if isinstance(content, dict) and content.get("type") == "Feature":
        return [content]
    features = content.get("features") if isinstance(content, dict) else content
    if not isinstance(features, list):
        raise InputError.of(path, "is JSON, but no GeoJSON", _EXPECTED)
    return features


def _read_feature(feature: Any, where: str, faults: FaultList) -> tuple[str, list[Row]]:
    """Read the points of a feature, or the kind that it is ignored for."""
    held = feature if isinstance(feature, dict) else {}
    geometry = held.get("nucleusGeometry") or held.get("geometry")
    properties = held.get("properties") or {}
    if not isinstance(geometry, dict) or not isinstance(properties, dict):
        faults.add(where, "is no Feature with a geometry and properties", _EXPECTED)
        return "", []
    name, colour = _read_class(properties)
    kind = str(properties.get("objectType", properties.get("object_type", ""))).lower()
    if kind in _IGNORED_TYPES or (name or "").endswith("*"):
        return name or kind, []
    if (shape := geometry.get("type")) in _IGNORED_GEOMETRIES:
        return shape, []
    if shape not in _GEOMETRIES:
        faults.add(where, f"has a geometry of type {shape!r}", f"one of {', '.join(_GEOMETRIES)}")
        return "", []
    try:
        places, measurements = _locate(geometry), _read_measurements(properties)
    except (TypeError, ValueError, LookupError, OverflowError):
        expected = f"coordinates of a {shape}, in pixels"
        faults.add(where, "holds coordinates that cannot be read", expected)
        return "", []
    more = {"class_name": name, "colour": colour, "measurements": measurements}
    return "", [{"x_px": x, "y_px": y, "width_px": width} | more for x, y, width in places]


def _read_class(properties: Mapping[str, Any]) -> tuple[str | None, Colour | None]:
    held = properties.get("classification")
    if not isinstance(held, dict):
        held = {"name": held} if held else {}
    names = held.get("names") or held.get("name")
    names = names if isinstance(names, list) else [names]
    name = ": ".join(str(part) for part in names if part)
    colours = (_read_colour(h.get(k)) for h in (held, properties) for k in ("color", "colorRGB"))
    return name or None, next((colour for colour in colours if colour), None)


def _read_colour(value: Any) -> Colour | None:
    """Read [red, green, blue], or Java's ARGB as one signed number of 32 bits."""
    if isinstance(value, int) and not isinstance(value, bool):
        return (value >> 16) & 255, (value >> 8) & 255, value & 255
    if isinstance(value, list) and len(value) == 3 and all(isinstance(v, int) for v in value):
        return value[0], value[1], value[2]
    return None


def _read_measurements(properties: Mapping[str, Any]) -> dict[str, float]:
    """Read measurements from a list of names and values, or from an object."""
    held = properties.get("measurements") or {}
    if isinstance(held, list):
        held = {str(m.get("name")): m.get("value") for m in held if isinstance(m, dict)}
    numbers = held.items() if isinstance(held, dict) else ()
    return {name: float(v) for name, v in numbers if isinstance(v, int | float)}


def _locate(geometry: Mapping[str, Any]) -> list[tuple[float, float, float]]:
    """Locate x, y and width of each point of a geometry, or of its area's centroid."""
    kind, held = geometry["type"], geometry["coordinates"]
    several = held if kind.startswith("Multi") else [held]
    if kind.endswith("Point"):
        return [(*point, 0.0) for point in _to_points(several)]
    return [_find_centroid(several)]


def _to_points(held: Sequence[Any]) -> NDArray[np.float64]:
    """Bring coordinates, of which a third may be a plane, to (n, 2); ValueError if none."""
    points = np.array([point[:2] for point in held])
    if points.dtype.kind not in "iuf" or points.ndim != 2 or points.shape[1] != 2:
        raise ValueError("no coordinates")
    if not np.isfinite(points).all():
        raise ValueError("no coordinates")
    return points.astype(float)


def _find_centroid(polygons: Sequence[Sequence[Any]]) -> tuple[float, float, float]:
    """Find the centroid of an area, whose polygons may have holes, and its width."""
    rings = [[_to_points(ring) for ring in polygon] for polygon in polygons]
    outer = np.concatenate([polygon[0] for polygon in rings])
    origin = outer.mean(axis=0)  # large coordinates would cost digits
    total, moment = 0.0, np.zeros(2)
    for polygon in rings:
        for ring, sign in zip(polygon, [1, *[-1] * len(polygon)], strict=False):
            area, ring_moment = _measure(ring - origin)
            total, moment = total + sign * area, moment + sign * ring_moment
    x, y = (origin + moment / total if total > 0 else origin).tolist()
    return x, y, float(np.ptp(outer, axis=0).max())


def _measure(ring: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
    """Measure the area of a ring, and area times centroid."""
    following = np.roll(ring, -1, axis=0)
    cross = ring[:, 0] * following[:, 1] - following[:, 0] * ring[:, 1]
    moment = ((ring + following) * cross[:, None]).sum(axis=0) / 6
    return abs(cross.sum()) / 2, moment * np.sign(cross.sum())


def write_features(features: Iterable[Mapping[str, Any]], path: Path) -> None:
    """Write a FeatureCollection that QuPath opens, one feature in memory at a time."""
    with replacing_file(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write('{"type": "FeatureCollection", "features": [')
        for number, feature in enumerate(features):
            text = json.dumps(feature, ensure_ascii=False, allow_nan=False)
            file.write(f"{',' if number else ''}\n{text}")
        file.write("\n]}\n")


def make_nuclei(
    table: pd.DataFrame,
    class_names: Mapping[str, Sequence[str]],
    colours: Mapping[str, Colour],
    *,
    of: str,
) -> Iterator[dict[str, Any]]:
    """Make a detection of each row of ``x_px, y_px, prediction, probability_<class>[, score]``.

    `class_names` maps classes to the names that QuPath knows, of which the first is written; `of`
    names the picture, so that ids are the same for the same nuclei.
    """
    for number, row in enumerate(table.to_dict("records")):
        name = str(row["prediction"])
        shown = [*class_names.get(name, ()), name][0]
        measured = {"Probability": row[f"probability_{name}"]}
        measured |= {f"Probability: {c}": row[f"probability_{c}"] for c in colours}
        measured |= {"Detection score": row["score"]} if "score" in row else {}
        properties = {
            "objectType": "detection",
            "classification": {"name": shown, "color": list(colours[name])},
            "measurements": {key: round(float(value), 6) for key, value in measured.items()},
        }
        place = [round(float(row["x_px"]), _PLACES), round(float(row["y_px"]), _PLACES)]
        geometry = {"type": "Point", "coordinates": place}
        yield make_feature(geometry, properties, f"{of}/{number}")


def make_region(
    ring: NDArray[np.float64], name: str, measurements: Mapping[str, float], *, of: str
) -> dict[str, Any]:
    """Make an annotation of a region, a closed ring of (n, 2) points, in QuPath's class for it."""
    region = {"name": "Region*", "color": [230, 159, 0]}
    shown = {"objectType": "annotation", "name": name, "classification": region, "isLocked": True}
    geometry = {"type": "Polygon", "coordinates": [np.round(ring, _PLACES).tolist()]}
    properties = shown | {"measurements": dict(measurements)}
    return make_feature(geometry, properties, f"{of}/{name}")


def make_feature(
    geometry: Mapping[str, Any], properties: Mapping[str, Any], name: str
) -> dict[str, Any]:
    """Make a feature whose id follows from its name."""
    ident = str(uuid.uuid5(_FEATURES, name))
    return {"type": "Feature", "id": ident, "geometry": geometry, "properties": properties}
