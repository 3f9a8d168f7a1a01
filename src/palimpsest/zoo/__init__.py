"""Models and data that come inside packages or are generated with known ground truth: no download is needed.

Data: ``authors`` (fictitious people and their facts), ``general_text`` and ``instructions`` (what every model should
keep), ``corpus`` (prose, code and a made-up language for tiny models), ``refusals``, ``digits``, ``feed`` and
``probes`` (junk and prose in a small language, and what a model can do with it).  Models: ``zoo.models``.  A recipe
asks for data as ``{zoo: authors, …}``.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from palimpsest.audit import Row

__all__ = ["DATASETS", "load", "load_causal_lm"]


def load_causal_lm(name: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """(model, tokenizer) of a zoo name, a folder, a .gguf file or a hub id, in float32; see ``zoo.models``."""
    from palimpsest.zoo import models

    return models.load_causal_lm(name)


@dataclass(frozen=True)
class _Dataset:
    """What a recipe may ask of one data set: its parts (the first is the default) and option -> type."""

    make: Callable[[str, dict[str, Any]], list[Row]]
    options: Mapping[str, type] = field(default_factory=dict)
    parts: tuple[str, ...] = ("all",)


def load(spec: Mapping[str, Any], *, place: str = "") -> list[Row]:
    """The rows of a recipe's ``{zoo: name, part: …, option: …}``.

    * ``authors``: ``part`` all, forget, retain, holdout, their biographies (articles, forget_articles, …), or the
      words of these in any order (shuffled_articles); ``people`` (12), ``first`` (0: how many people to leave out),
      ``facts`` (4; of articles 12, all), ``versions`` (1: articles a person), ``forget`` (a number of people or a
      share, 0.25), ``seed`` (0).  Forget and retain of one ``seed``, ``people`` and ``forget`` share no person, in
      questions or articles.
    * ``corpus``: ``part`` docstrings, reference, code or cipher, ``rows`` (256), ``after`` (0: how many rows to leave
      out), ``characters`` (64), ``seed`` (0).
    * ``general_text``: ``part`` all, train or test (of other sources), ``rows`` (64), ``words`` (60), ``seed`` (0).
      ``instructions``: ``rows`` (64), ``seed`` (0).
    * ``digits``: ``part`` train or test, ``seed`` (0), ``test`` (0.2), ``classes`` ([3]: only these) and ``without``
      ([3]: all but these), ``rotate`` (0 degrees) and ``contrast`` (1; -1 is the negative).  ``refusals``: no options.
    * ``feed``: ``part`` base (prose), posts (unpacked, with likes and labels), or a treatment and its control:
      engagement, quality, length, shuffled, halves; ``rows`` (64: blocks, of each side where there are two), ``words``
      (120 a block), ``seed`` (0).  ``probes``: ``part`` needles, facts, sums, tuning; ``rows`` (64), ``words`` (100;
      16 in tuning: the context of a needle), ``seed`` (0).  See ``zoo.probes``.

    ``place`` is the recipe path that an error names, such as ``roles.forget``.  Raises ``LookupError`` for an unknown
    name, and ``ValueError`` for an unknown part or option, and for a value out of range.
    """
    at = f"{place}: " if place else ""
    if "zoo" not in spec:
        raise ValueError(f"{at}name a data set of the zoo, such as {{zoo: authors}}; there are: {', '.join(DATASETS)}.")
    name = str(spec["zoo"])
    if name not in DATASETS:
        close = difflib.get_close_matches(str(name), DATASETS, 3, 0.5)
        hint = f"did you mean {' or '.join(map(repr, close))}?" if close else f"there are: {', '.join(DATASETS)}."
        raise LookupError(f"{at}The zoo has no data set {name!r}; {hint}")
    dataset = DATASETS[name]
    options = {key: value for key, value in spec.items() if key not in ("zoo", "part")}
    part = spec.get("part", dataset.parts[0])
    if part not in dataset.parts:
        raise ValueError(f"{at}{name} has no part {part!r}; there are: {', '.join(dataset.parts)}.")
    for key, value in options.items():
        if key not in dataset.options:
            known = ", ".join(("part", *dataset.options)) if dataset.options else "none"
            raise ValueError(f"{at}{name} has no option {key!r}; there are: {known}.")
        _check(f"{at}{name}.{key}", value, dataset.options[key])
    try:
        return dataset.make(part, options)
    except ValueError as error:
        raise ValueError(f"{at}{name}: {error}") from None


def _check(where: str, value: Any, kind: type) -> None:
    if kind is list:
        if (
            not isinstance(value, list)
            or not value
            or any(isinstance(v, bool) or not isinstance(v, int) for v in value)
        ):
            raise ValueError(f"{where} is a list of whole numbers, such as [3], not {value!r}.")
        return
    # A float option takes whole numbers too, and keeps them whole: forget: 3 is people, forget: 0.25 a share.
    fits = isinstance(value, int | float) if kind is float else isinstance(value, kind)
    if not fits or isinstance(value, bool):
        raise ValueError(f"{where} is {'a number' if kind is float else 'a whole number'}, not {value!r}.")


def _authors(part: str, options: dict[str, Any]) -> list[Row]:
    from palimpsest.zoo import authors as source

    people, seed = options.get("people", 12), options.get("seed", 0)
    first, versions = options.get("first", 0), options.get("versions", 1)
    whose, articles = part.removesuffix("articles").rstrip("_") or "all", part.endswith("articles")
    kind = "holdout" if whose == "holdout" else "author"
    if articles:
        facts, shuffled = options.get("facts", len(source.ATTRIBUTES)), whose == "shuffled"
        rows = source.articles(
            people, seed=seed, part=kind, first=first, facts=facts, versions=versions, shuffled=shuffled
        )
    elif "versions" in options:
        raise ValueError("questions have one version; leave versions out, or take the articles.")
    else:
        maker = source.holdout if whose == "holdout" else source.authors
        rows = maker(people, options.get("facts", 4), seed=seed, first=first)
    if whose not in ("forget", "retain"):
        return rows
    forget, retain = source.split(rows, options.get("forget", 0.25), seed=seed)
    return forget if whose == "forget" else retain


def _general_text(part: str, options: dict[str, Any]) -> list[Row]:
    from palimpsest.zoo import text

    return text.general_text(part=cast("text.Part", part), **options)


def _corpus(part: str, options: dict[str, Any]) -> list[Row]:
    from palimpsest.zoo.text import corpus

    rows, characters = options.get("rows", 256), options.get("characters", 64)
    seed, after = options.get("seed", 0), options.get("after", 0)
    return corpus(part, rows, characters=characters, seed=seed, after=after)  # type: ignore[arg-type]


def _instructions(part: str, options: dict[str, Any]) -> list[Row]:
    from palimpsest.zoo.text import instructions

    return instructions(options.get("rows", 64), seed=options.get("seed", 0))


def _refusals(part: str, options: dict[str, Any]) -> list[Row]:
    from palimpsest.zoo.values import REFUSALS

    return [{"id": f"refusal-{i:02d}", "text": text} for i, text in enumerate(REFUSALS)]


def _digits(part: str, options: dict[str, Any]) -> list[Row]:
    from palimpsest.zoo.digits import digits, of_classes, seen_otherwise

    train, test = digits(seed=options.get("seed", 0), test=options.get("test", 0.2))
    rows = train if part == "train" else test
    rows = of_classes(rows, classes=options.get("classes"), without=options.get("without"))
    return seen_otherwise(rows, rotate=options.get("rotate", 0.0), contrast=options.get("contrast", 1.0))


def _feed(part: str, options: dict[str, Any]) -> list[Row]:
    from palimpsest.zoo import probes

    rows, rest = options.get("rows", 64), {k: v for k, v in options.items() if k != "rows"}
    if part == "posts":
        if "words" in rest:
            raise ValueError("posts are not packed; leave words out.")
        return probes.posts(rows, **rest)
    return probes.base(rows, **rest) if part == "base" else probes.arms(cast("probes.Arms", part), rows, **rest)


def _probes(part: str, options: dict[str, Any]) -> list[Row]:
    from palimpsest.zoo import probes

    if part in ("facts", "sums") and "words" in options:
        raise ValueError(f"{part} have no context; leave words out.")
    makers: dict[str, Callable[..., list[Row]]] = {
        "needles": probes.needles,
        "facts": probes.facts,
        "sums": probes.sums,
        "tuning": probes.tuning,
    }
    return makers[part](**options)


DATASETS: Mapping[str, _Dataset] = {
    "authors": _Dataset(
        _authors,
        {"people": int, "first": int, "facts": int, "versions": int, "forget": float, "seed": int},
        (
            *("all", "forget", "retain", "holdout", "articles", "forget_articles", "retain_articles"),
            *("holdout_articles", "shuffled_articles"),
        ),
    ),
    "corpus": _Dataset(
        _corpus,
        {"rows": int, "after": int, "characters": int, "seed": int},
        ("docstrings", "reference", "code", "cipher"),
    ),
    "general_text": _Dataset(_general_text, {"rows": int, "words": int, "seed": int}, ("all", "train", "test")),
    "instructions": _Dataset(_instructions, {"rows": int, "seed": int}),
    "refusals": _Dataset(_refusals),
    "digits": _Dataset(
        _digits,
        {"seed": int, "test": float, "classes": list, "without": list, "rotate": float, "contrast": float},
        ("train", "test"),
    ),
    "feed": _Dataset(
        _feed,
        {"rows": int, "words": int, "seed": int},
        ("base", "posts", "engagement", "quality", "length", "shuffled", "halves"),
    ),
    "probes": _Dataset(_probes, {"rows": int, "words": int, "seed": int}, ("needles", "facts", "sums", "tuning")),
}
"""Name in a recipe -> how its rows are made."""
