"""YAML by the safe loader, with the scalars of YAML 1.2: ``on`` is a word and ``1e-5`` a number.

PyYAML follows YAML 1.1, where ``on: forget`` would be ``True: forget`` and ``1e-5`` a text.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

__all__ = ["parse"]


class _Loader(yaml.SafeLoader):
    """The safe loader with its own table of implicit scalars, built once below."""


_Loader.yaml_implicit_resolvers = {
    first: [
        (tag, pattern) for tag, pattern in resolvers if tag not in ("tag:yaml.org,2002:bool", "tag:yaml.org,2002:float")
    ]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"^[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)$|^[-+]?(?:[0-9]*\.[0-9]+|[0-9]+\.)$|^[-+]?\.(?:inf|Inf|INF)$|^\.(?:nan|NaN|NAN)$"
    ),
    list("-+0123456789."),
)


def parse(text: str) -> Any:
    """Plain data. Raises ``yaml.YAMLError``."""
    return yaml.load(text, Loader=_Loader)
