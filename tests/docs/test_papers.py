"""Every paper has its file, and every file says what it must."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

from palimpsest.claim import PaperEntry, load_paper, paper_slugs

SLUGS = (
    "a-star",
    "ad-survival",
    "advunlearn",
    "alignment-recovery",
    "brain-rot",
    "cet-pooling-bias",
    "cl-llm-survey",
    "class-diffusion",
    "concept-class-unlearning",
    "continual-eval",
    "cosine-adapter",
    "cut-cross-entropy",
    "dco-pass-at-n",
    "dice-loss",
    "disj-infonce",
    "dual-head-kd",
    "duet",
    "few-shot-concept-erasure",
    "few-shot-memory",
    "fira",
    "flat",
    "fpf",
    "frugal",
    "gere",
    "grokking-lazy-rich",
    "guard",
    "i-lora",
    "itool",
    "kfac-memorization-edit",
    "laf",
    "learned-sparse-retrieval",
    "llm-dense-retrieval",
    "loku",
    "lol-prf",
    "long-context-rag",
    "loss-reweighting",
    "lost",
    "lr-annealing-law",
    "machine-perceptual-quality",
    "memmamba",
    "memorization-long-tail",
    "moe-optimal-sparsity",
    "multi-sample-dropout",
    "multi-similarity-loss",
    "muse",
    "mw-loss",
    "nd-kd",
    "nmt-scaling-law",
    "npo",
    "prd",
    "preselect",
    "repeated-data-scaling",
    "representation-unlearning-audit",
    "restor",
    "rewarm",
    "rwku",
    "safe-eraser",
    "salun",
    "sefe",
    "simple-scalable-cpt",
    "sirllm",
    "skill-unlearning",
    "small-scale-proxies",
    "spherical-z-loss",
    "stability-gap-cpt",
    "star-adore",
    "trg-kd",
    "uld",
    "unforgettable-generalization",
    "unraveling-scaling-laws",
    "visrag",
    "wagle",
    "wsd-s",
)
ENTRIES = tuple(load_paper(slug) for slug in SLUGS)
TAGS_PAGE = Path(__file__).parents[2] / "docs" / "tags.md"
SECTIONS = ("forget", "audit", "retain", "learn", "optimize", "recall", "image")
each = pytest.mark.parametrize("entry", ENTRIES, ids=SLUGS)


def vocabulary() -> tuple[str, ...]:
    """The tags that the documentation explains, in its order."""
    return tuple(re.findall(r"^- `([^`]+)`: .+", TAGS_PAGE.read_text(encoding="utf-8"), re.MULTILINE))


def test_there_are_exactly_these_papers() -> None:
    assert len(SLUGS) == 73
    assert paper_slugs() == tuple(sorted(SLUGS)) == SLUGS


@each
def test_a_paper_is_described_completely(entry: PaperEntry) -> None:
    paper = entry.paper
    assert len(paper.title) > 10 and paper.title == paper.title.strip()
    assert paper.authors and not re.search(r"\d", paper.authors)
    assert 1990 <= paper.year <= 2026
    assert 40 <= len(paper.summary) <= 300
    assert paper.summary[0].isupper() and paper.summary.endswith(".") and "  " not in paper.summary


@each
def test_the_arxiv_number_gives_the_year(entry: PaperEntry) -> None:
    assert entry.paper.arxiv is not None
    assert re.fullmatch(r"\d{4}\.\d{5}", entry.paper.arxiv)
    assert entry.paper.year == 2000 + int(entry.paper.arxiv[:2])
    assert entry.paper.url == f"https://arxiv.org/abs/{entry.paper.arxiv}"


@each
def test_tags_are_from_the_vocabulary_and_begin_with_the_section(entry: PaperEntry) -> None:
    assert set(entry.paper.tags) <= set(vocabulary())
    assert len(set(entry.paper.tags)) == len(entry.paper.tags)
    assert entry.paper.tags[0] in SECTIONS


@each
def test_the_file_opens_with_the_summary(entry: PaperEntry) -> None:
    module = importlib.import_module(f"palimpsest.claims.{entry.slug.replace('-', '_')}")
    assert " ".join((module.__doc__ or "").split()).startswith(entry.paper.summary)


def test_the_vocabulary_has_no_double_and_no_unused_tag() -> None:
    assert len(set(vocabulary())) == len(vocabulary())
    assert set(vocabulary()) == {tag for entry in ENTRIES for tag in entry.paper.tags}


def test_no_two_papers_share_a_summary_a_title_or_an_arxiv_number() -> None:
    for values in zip(*((e.paper.summary, e.paper.title, e.paper.arxiv) for e in ENTRIES)):
        assert len(set(values)) == len(ENTRIES)


@pytest.mark.parametrize(
    ("slug", "part"), [(entry.slug, part) for entry in ENTRIES for part in entry.parts], ids=lambda value: str(value)
)
def test_every_part_imports_and_is_a_method_or_a_noun(slug: str, part: str) -> None:
    """A paper on measuring may be a module beside the folders of methods: curves, watch."""
    module = importlib.import_module(f"palimpsest.{part}")
    assert module.METHOD is not None if "." in part else module.__all__


@each
def test_claims_say_what_they_test(entry: PaperEntry) -> None:
    for claim in entry.claims:
        assert entry.parts, f"{entry.slug} tests a claim without naming the parts that it tests"
        assert claim.says.endswith(".") and claim.run.__qualname__ != "Claim.run"
