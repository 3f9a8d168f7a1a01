"""How a gradient becomes a step. One file a method.

    from palimpsest.optim import Fira

    optimizer = Fira(model.named_parameters(), lr=0.01, rank=128)

A class is found by the file that bears its name and imported when it is first asked for.
"""

from __future__ import annotations

import importlib
from typing import Any

from palimpsest import names


def __getattr__(name: str) -> Any:
    modules = {file.replace("_", ""): path for file, path in names.names("optim").items()}
    if name.lower() in modules:
        method = importlib.import_module(modules[name.lower()]).METHOD
        if method.__name__ == name:
            return method
    raise AttributeError(f"module 'palimpsest.optim' has no attribute {name!r}")
