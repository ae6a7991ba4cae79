"""Imported first by every stage: the package is then the one in the ``src`` next to this folder.

The installed package may be that of another checkout. In a queued or temporary experiment, or in
another git worktree, it is the checkout that the environment was set up in.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from histofuse.core.stage import run_stage

__all__ = ["run_stage"]
