"""The scripts of docs/, as modules."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def scripts() -> Iterator[dict[str, ModuleType]]:
    """The scripts of docs/, importable for the length of this file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(DOCS))
        spec = importlib.util.spec_from_file_location("docs_build", DOCS / "build.py")
        assert spec and spec.loader
        build = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(build)
        names = ("method_pages", "paper_pages", "study_pages", "markdown_text", "curves")
        yield {"build": build, **{name: importlib.import_module(name) for name in names}}
        for name in names:
            sys.modules.pop(name, None)
