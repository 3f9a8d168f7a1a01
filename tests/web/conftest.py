"""A realistic report made from synthetic scores, and a reader of pages, shared by the tests of the page."""

import math
from html.parser import HTMLParser

import numpy as np
import pytest
import torch

from palimpsest.audit import Scores
from palimpsest.measure import build_report
from palimpsest.page import render
from palimpsest.report import Curve, Matrix, Run, StageFigure

NASTY = [
    "<script>alert(1)</script>",
    "</script><script>alert(2)</script><!--",
    '"><img src=x onerror=alert(3)>',
    "</style><svg onload=alert(4)>]]>",
    "right\u202eto left\u202c, a bell \x07, a null \x00, \u2028 and \u2029, "
    "half \ud83d of an emoji, \U0001f469\u200d\U0001f52c",
    "שלום عالم 你好 Zürich e\u0301 $title ${data} {{body}}",
]


def answers(rng, share, target, wrong):
    return [t if rng.random() < share else w for t, w in zip(target, wrong)]


def sample(name="npo on forget10", seeds=(0, 1, 2), forget=0.35, nasty=()):
    """A report as a run would make it, from synthetic scores: 120 questions a role, five runs, three seeds."""
    rng = np.random.default_rng(7)
    count = 120
    authors = [
        "Basil Mahfouz Al-Kuwaiti",
        "Nikolai Abilov",
        "Takashi Nakamura",
        "Raven Marais",
        "Evelyn Desmet",
        "Xin Lee",
    ]
    subjects = ["father work as", "first novel win", "mother teach", "best-known essay discuss"]
    facts = [
        "He worked as a florist in Kuwait City, which later gave his novels their recurring gardens.",
        "It won the Tolstoy Literary Award for its portrait of a family of two cultures.",
        "She taught mathematics at a village school and read poetry to her pupils on Fridays.",
        "It discusses the ethics of memory and the right of a city to forget.",
    ]
    wrong = [
        "He was an engineer who built bridges.",
        "I am not sure which prize the novel received.",
        "She taught at a school in the capital, but little else is known about her work.",
        "The essay is about travel writing in the nineteenth century, and about trains.",
    ]
    ids = tuple(f"{role[0]}{i:03d}" for role in ("q",) for i in range(count))
    skill = rng.normal(0, 0.6, count)
    levels = {
        "before": (0.98, 0.96, 0.92, 0.93, 8.1),
        "after": (forget, 0.22, 0.53, 0.91, 8.3),
        "retrained": (0.31, 0.24, 0.49, 0.93, 8.0),
        "gradient_ascent": (0.05, 0.01, 0.28, 0.42, 21.0),
        "do_nothing": (0.98, 0.96, 0.92, 0.93, 8.1),
    }
    measurements = {}
    for run, (know, verbatim, leak, rouge, perplexity) in levels.items():
        for seed in seeds if run not in ("before", "do_nothing") else seeds[:1]:
            noise = np.random.default_rng([seed, len(run)])
            known = (noise.random(count) < know).astype(float)
            copied = 1 / (1 + np.exp(-(skill + noise.normal(math.log(verbatim / (1 - verbatim)), 0.7, count))))
            member = np.concatenate([noise.normal(2.0 * (leak - 0.5), 0.7, count), noise.normal(0, 0.7, count)])
            recall = np.clip(noise.normal(rouge, 0.05, count) + 0.04 * skill, 0, 1)
            text = [facts[i % 4] if known[i] else wrong[i % 4] for i in range(count)]
            for place, bad in enumerate(nasty):
                text[place] = bad
                known[place] = run == "before"
            found = [
                Scores(
                    "knowledge_memorization",
                    torch.tensor(known),
                    ids,
                    "nearer:retrained",
                    "forget",
                    outputs=tuple(text),
                ),
                Scores("verbatim_memorization", torch.tensor(copied), ids, "nearer:retrained", "forget"),
                Scores(
                    "privacy_leakage",
                    torch.tensor(member),
                    (*(f"forget/{i}" for i in ids), *(f"holdout/{i}" for i in ids)),
                    "nearer:retrained",
                    "forget",
                    "auc",
                    "relative",
                    torch.tensor([1] * count + [0] * count),
                ),
                Scores("rouge", torch.tensor(recall), ids, "higher", "retain"),
                Scores(
                    "perplexity",
                    torch.tensor(perplexity * np.exp(noise.normal(0, 0.02, count) + 0.2 * skill)),
                    ids,
                    "lower",
                    "retain",
                ),
                Scores(
                    "accuracy",
                    torch.tensor((noise.random(count) < rouge * 0.7).astype(float)),
                    ids,
                    "higher",
                    "world facts",
                ),
            ]
            measurements.setdefault(run, {})[seed] = found
    cost = {"seconds": 412.3, "tokens": 1_228_800, "steps": 300, "peak_memory_bytes": 5_912_000_000}
    runs = [
        Run("before", "before", "before"),
        Run(
            "after",
            "after",
            "NPO",
            **cost,
            trainable_parameters=134_515_008,
            companions=({"name": "reference model", "seconds": 3.1, "memory": "0.5 GiB"},),
        ),
        Run(
            "retrained",
            "baseline",
            "retrained",
            seconds=3920.0,
            tokens=11_059_200,
            steps=2700,
            peak_memory_bytes=5_212_000_000,
            trainable_parameters=134_515_008,
        ),
        Run(
            "gradient_ascent",
            "baseline",
            "gradient ascent",
            seconds=198.0,
            tokens=614_400,
            steps=300,
            peak_memory_bytes=3_100_000_000,
            trainable_parameters=134_515_008,
        ),
        Run("do_nothing", "baseline", "do nothing", seconds=0.0, tokens=0, steps=0),
    ]
    steps = np.arange(0, 301, 5)
    curves = [
        Curve(
            run, quantity, tuple(zip(steps.tolist(), (shape(steps, rate) + rng.normal(0, 0.03, len(steps))).tolist()))
        )
        for run, rate in (("after", 0.012), ("gradient_ascent", 0.03))
        for quantity, shape in (
            ("loss on forget", lambda s, r: 0.4 + 3 * (1 - np.exp(-r * s))),
            ("loss on retain", lambda s, r: 2.1 + (r > 0.02) * 0.006 * s + 0.2 * np.exp(-s / 80)),
            ("forget/knowledge_memorization", lambda s, r: 0.05 + 0.93 * np.exp(-r * s)),
        )
    ]
    rows = {
        ("forget", ids[i]): {"prompt": f"What did {authors[i % 6]}'s {subjects[i % 4]}?", "completion": facts[i % 4]}
        for i in range(count)
    }
    for place, bad in enumerate(nasty):
        rows["forget", ids[place]] = {"prompt": bad, "completion": bad}
    matrix = Matrix(
        "accuracy",
        ("stage 1: letters", "stage 2: sums", "stage 3: maps"),
        ("letters", "sums", "maps"),
        ((0.97, 0.12, 0.08), (0.71, 0.95, 0.10), (0.55, 0.83, 0.94)),
        figures=(
            StageFigure("overall_performance", 0.773, 0.742, 0.801),
            StageFigure("backward_transfer", -0.27, -0.33, -0.21),
            StageFigure("forward_transfer"),
        ),
    )
    recipe = (
        "model: {pretrained: smollm2-135m}\nobjective:\n  - {on: forget, npo: {beta: 0.1}}\n"
        "  - {on: retain, cross_entropy: {}, weight: 1.0}\ntrain: {epochs: 5, batch: 32}\nseeds: [0, 1, 2]\n"
    )
    return build_report(
        name,
        measurements,
        runs,
        curves,
        {
            "forget/knowledge_memorization": "nearer retrained",
            "forget/privacy_leakage": "nearer retrained",
            "retain/perplexity": {"change": "< 3 %"},
            "retain/rouge": {"change": "> -0.05"},
            "world facts/accuracy": {"at least": 0.6},
        },
        recipe,
        {"palimpsest": "0.1.0", "torch": "2.13.0", "python": "3.11", "device": "NVIDIA H100 80GB", "commit": "3f2a91c"},
        rows,
        warnings=["The seeds 1 and 2 were measured with a batch of 16, because 32 did not fit into memory."],
        matrices=[matrix],
        created="2026-03-01T10:00:00+00:00",
        resamples=500,
    )


class Elements(HTMLParser):
    """Collects what a browser would see: elements with their attributes, and the text inside each kind."""

    def __init__(self, page):
        super().__init__(convert_charrefs=True)
        self.found, self.texts, self.open = [], {}, []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        self.open.append(tag)

    def handle_endtag(self, tag):
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data):
        for tag in {*self.open}:
            self.texts[tag] = self.texts.get(tag, "") + data

    def all(self, tag):
        return [attributes for name, attributes in self.found if name == tag]


@pytest.fixture(scope="session")
def make_report():
    return sample


@pytest.fixture(scope="session")
def read_page():
    return Elements


@pytest.fixture(scope="session")
def hostile():
    return NASTY


@pytest.fixture(scope="session")
def report():
    return sample()


@pytest.fixture(scope="session")
def nasty():
    return render(sample(name=NASTY[0], seeds=(0,), nasty=NASTY))
