"""YAML by the safe loader, with the scalars of YAML 1.2: ``on`` is a word and ``1e-5`` a number.

PyYAML follows YAML 1.1, where ``on: forget`` would be ``True: forget``, ``1e-5`` a text, ``010`` an 8 and
``2024-01-01`` a date; it also lets the second of two equal keys win in silence, which here is an error.  Merge keys of
YAML 1.1 are kept: ``<<: *anchor`` stands for the pairs of another mapping, which those beside it replace; of a list of
mappings the first that has a key counts.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import Any

import yaml

__all__ = ["NotYaml", "dump", "parse"]


class NotYaml(ValueError):
    """A text that is not YAML: ``reason``, and the ``line`` where it was noticed, if that is known."""

    def __init__(self, reason: str, line: int | None = None) -> None:
        super().__init__(reason if line is None else f"line {line}: {reason}")
        self.reason = reason
        self.line = line


_Pair = tuple[yaml.Node, yaml.Node]
MOST_MERGED = 100_000
"""Pairs that merge keys may bring into one document; more is a mistake, or an alias that multiplies itself."""


class _Loader(yaml.SafeLoader):
    """The safe loader with the table of implicit scalars below."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.flat: dict[int, bool] = {}  # a mapping's node -> whether its merge keys are replaced, or about to be
        self.merged = 0

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Refuses a key that stands twice, and puts what is merged before the node's own pairs.

        Once for each node: one with an anchor is looked at for itself and wherever it is merged.
        """
        if id(node) in self.flat:
            if not self.flat[id(node)]:
                raise _refusal("a mapping that merges itself", node)
            return
        self.flat[id(node)] = False
        own: dict[Hashable, _Pair] = {}
        merged: dict[Hashable, _Pair] = {}
        for key, value in node.value:
            word = self._word(key)
            if word in own:
                raise _refusal(f"the key {str(key.value)[:40]!r} stands here twice", key)
            own[word] = (key, value)
            if key.tag == _MERGE:
                merged = self._merged(value)
        node.value = [pair for pair in (merged | own).values() if pair[0].tag != _MERGE]
        self.flat[id(node)] = True

    def _merged(self, value: yaml.Node) -> dict[Hashable, _Pair]:
        """The pairs that one merge key stands for."""
        found: dict[Hashable, _Pair] = {}
        for source in value.value if isinstance(value, yaml.SequenceNode) else [value]:
            if not isinstance(source, yaml.MappingNode):
                raise _refusal("<< takes a mapping, such as *anchor, or a list of them", source)
            self.flatten_mapping(source)
            self.merged += len(source.value)
            if self.merged > MOST_MERGED:
                raise _refusal(f"merge keys bring in more than {MOST_MERGED:,} values; write them out", source)
            found = {self._word(key): (key, inner) for key, inner in source.value} | found
        return found

    def _word(self, key: yaml.Node) -> Hashable:
        """What two equal keys have in common, however they are written; only scalars can be equal."""
        if not isinstance(key, yaml.ScalarNode):
            return "node", id(key)
        if key.tag == _MERGE:
            return ("merge",)
        return "value", self.construct_object(key)  # true and True are one, as 1 and 0x1 are


def _refusal(reason: str, node: yaml.Node) -> yaml.MarkedYAMLError:
    return yaml.constructor.ConstructorError(None, None, reason, node.start_mark)


class _Dumper(yaml.SafeDumper):
    """The safe dumper with the same table, so that what it leaves without quotes is read back as it was."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: _Dumper, value: str) -> yaml.ScalarNode:
    """Quoted where a line break of Unicode would otherwise be folded into a space."""
    return dumper.represent_scalar(_TAG + "str", value, '"' if re.search("[\x85\u2028\u2029]", value) else None)


def _whole_number(loader: _Loader, node: yaml.ScalarNode) -> int:
    text = str(loader.construct_scalar(node))
    return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))


_TAG = "tag:yaml.org,2002:"
_MERGE = _TAG + "merge"
_SCALARS = (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    (
        "float",
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)[eE][-+]?[0-9]+|[-+]?(?:[0-9]*\.[0-9]+|[0-9]+\.)"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        "-+0123456789.",
    ),
    ("null", r"~|null|Null|NULL|", "~nN\0"),
    ("merge", r"<<", "<"),
)
"""The core schema of YAML 1.2 (section 10.3.2), and the merge key: kind, pattern, first characters (\\0: no text)."""

for _kind in (_Loader, _Dumper):
    _kind.yaml_implicit_resolvers = {}
    for _name, _pattern, _first in _SCALARS:
        _kind.add_implicit_resolver(
            _TAG + _name, re.compile(f"^(?:{_pattern})$"), [c.replace("\0", "") for c in _first]
        )
_PLAIN = ("null", "bool", "float", "str", "seq", "map")
_Loader.yaml_constructors = {
    tag: make for tag, make in yaml.SafeLoader.yaml_constructors.items() if tag in (None, *(_TAG + n for n in _PLAIN))
}  # no dates, sets and bytes: what a recipe holds can be written back
_Loader.add_constructor(_TAG + "int", _whole_number)
_Loader.yaml_constructors[_MERGE] = _Loader.yaml_constructors[_TAG + "str"]  # anywhere but as a key it is a text
_Dumper.add_representer(str, _text)


def parse(text: str) -> Any:
    """Plain data. Raises ``NotYaml``."""
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise NotYaml(error.problem or "unreadable", mark.line + 1 if mark is not None else None) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise NotYaml("it holds a control character", line) from None
    except RecursionError:
        raise NotYaml("it is nested too deeply") from None
    except LookupError:
        raise NotYaml("a tag such as !!bool stands before another kind of value") from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        raise NotYaml(" ".join(str(error).split()) or "unreadable") from None


def dump(value: Any) -> str:
    """YAML that ``parse`` reads back as it was. Raises ``ValueError`` for what is not plain data."""
    try:
        return str(yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100))
    except yaml.YAMLError as error:
        kind = type(error.args[1]).__name__ if len(error.args) > 1 else "object"
        raise ValueError(f"a recipe holds text, numbers, lists and mappings, not a {kind}") from None
