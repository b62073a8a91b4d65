"""The root is not on the path, and benchmarks/ is no part of what is installed: it is imported from where it lies."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

_PACKAGE = Path(__file__).parents[3] / "benchmarks"

_spec = importlib.util.spec_from_file_location(
    "benchmarks", _PACKAGE / "__init__.py", submodule_search_locations=[str(_PACKAGE)]
)
assert _spec is not None
assert _spec.loader is not None
_module = importlib.util.module_from_spec(_spec)
sys.modules["benchmarks"] = _module
_spec.loader.exec_module(_module)
