"""The package's own code as an input: what was begun under other code is begun anew."""

from __future__ import annotations

from pathlib import Path

from histofuse.core.artifacts import digest_file, digest_text, to_json

# The rooms whose code can change a trained model.
_ROOMS = ("core", "params", "data", "features", "models", "training")


def digest_code() -> str:
    """Compute the digest of all code that can change a trained model."""
    package = Path(__file__).parents[1]
    files = {
        file.relative_to(package).as_posix(): digest_file(file)
        for room in _ROOMS
        for file in sorted((package / room).rglob("*.py"))
    }
    return digest_text(to_json(files))
