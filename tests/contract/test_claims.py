"""Every claim of every paper can be run by ``palimpsest verify``; none is run here."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

from palimpsest.claim import Budget, Claim, Evidence, load_paper, paper_slugs

CLAIMS = [(slug, claim) for slug in paper_slugs() for claim in load_paper(slug).claims]
each = pytest.mark.parametrize(("slug", "claim"), CLAIMS, ids=[f"{slug}/{claim.__name__}" for slug, claim in CLAIMS])
CLAIMED = ("flat", "loku", "muse", "npo", "salun", "uld")


def test_the_papers_that_must_have_claims_have_them():
    assert {slug for slug, _ in CLAIMS} >= set(CLAIMED)


@each
def test_a_claim_says_one_sentence(slug, claim):
    assert claim.says.endswith(".") and claim.says[0].isupper()
    assert 30 <= len(claim.says) <= 160 and "\n" not in claim.says and ". " not in claim.says


@each
def test_run_takes_a_budget_and_seeds(slug, claim):
    assert not inspect.isabstract(claim) and issubclass(claim, Claim)
    claim()  # takes nothing
    signature = inspect.signature(claim.run, eval_str=True)
    assert list(signature.parameters) == ["self", "budget", "seeds"]
    assert signature.parameters["budget"].annotation == Budget and signature.return_annotation is Evidence
    assert all(p.default is inspect.Parameter.empty for p in signature.parameters.values())


@each
def test_the_docstring_states_before_measuring_what_counts_as_shown(slug, claim):
    text = " ".join((inspect.getdoc(claim) if "__doc__" in vars(claim) else "").split())
    assert "Shown when" in text and any(c.isdigit() for c in text), f"{claim.__name__} states no threshold"


@each
def test_two_claims_of_a_paper_say_different_things(slug, claim):
    assert [c.says for c in load_paper(slug).claims].count(claim.says) == 1


def test_files_with_an_underscore_are_no_papers():
    assert not any(slug.startswith(("-", "_")) or slug in ("facts", "news", "evidence") for slug in paper_slugs())


def test_loading_all_papers_imports_no_torch():
    code = (
        "import sys; from palimpsest.claim import load_paper, paper_slugs\n"
        "for slug in paper_slugs(): load_paper(slug)\n"
        "print([m for m in ('torch', 'transformers', 'peft') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
