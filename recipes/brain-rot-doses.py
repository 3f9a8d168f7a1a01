"""The doses of ``brain-rot.yaml`` by three definitions of junk, from one first training, so that their curves compare.

Popular short posts (the paper's M1), long posts that a judge calls junk (its M2), and short pieces of the prose itself
(the length of M1 alone).  Every treatment has its own control, of as many tokens in as many steps; what heals is tried
on the first.

    palimpsest run recipes/brain-rot-doses.py --allow-imports
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from palimpsest import Recipe, parse_recipe
from palimpsest.yaml_text import parse

TREATMENTS = {"popular and short": "engagement", "called junk": "quality", "short prose": "length"}
HEALED = "popular and short"


def treated(stage: dict[str, Any], feed: str) -> dict[str, Any]:
    """The same stage with another feed."""
    terms = [{**term, "on": feed if term["on"] == "feed" else term["on"]} for term in stage["objective"]]
    found = {**stage, "objective": terms}
    return {**found, "select": {feed: stage["select"]["feed"]}} if "select" in stage else found


def recipe() -> Recipe:
    """One variant for each treatment and arm."""
    raw: dict[str, Any] = parse(Path(__file__).with_name("brain-rot.yaml").read_text(encoding="utf-8"))
    feed, arms = raw["roles"].pop("feed"), raw["variants"]
    raw["roles"] |= {f"{name} feed": {**feed, "part": part} for name, part in TREATMENTS.items()}
    raw["variants"] = {
        f"{name}: {arm}": [treated(stage, f"{name} feed") for stage in stages]
        for name in TREATMENTS
        for arm, stages in arms.items()
        if name == HEALED or "," not in arm
    }
    named = {"name": "brain-rot-doses", "title": "Doses of three kinds of junk in continued pre-training"}
    return parse_recipe({**raw, **named, "seeds": [0, 1, 2]})
