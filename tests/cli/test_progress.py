"""What a long audit tells: how far it is, now and then, in whole lines, and nothing where it is quick."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from torch import nn

from palimpsest import verbs
from palimpsest.adapters.causal_lm import CausalLM
from palimpsest.adapters.causal_lm_subject import CausalLMSubject
from palimpsest.adapters.classifier import Classifier, ClassifierSubject
from palimpsest.audit import Row, Telling
from palimpsest.audits.relearning import relearned
from palimpsest.loop import Training
from palimpsest.recipe_source import parse_recipe
from palimpsest.sharded_subject import Sharded
from palimpsest.zoo.models import tiny_llama

ROWS: list[Row] = [{"prompt": f"who {i}", "completion": " it is" * (i + 1)} for i in range(5)]


class Clock:
    """A clock that is set by hand, and a standard error that keeps what is written."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, terminal: bool) -> None:
        self.now, self.written = 100.0, list[str]()
        monkeypatch.setattr(verbs.time, "perf_counter", lambda: self.now)
        out = SimpleNamespace(write=self.written.append, flush=lambda: None, isatty=lambda: terminal)
        monkeypatch.setattr("sys.stderr", out)


def test_lines_of_an_audit_in_a_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line every ten seconds at most, each written at once."""
    clock = Clock(monkeypatch, terminal=False)
    console = verbs.Console()
    console.part(1, 1, "before: audits")
    for second in range(1, 26):
        clock.now = 100.0 + second
        console.answered("forget/rouge", second, 25, float(second))
    says = "    forget/rouge: {} % of the rows  {} left\n"
    assert clock.written[1:] == [says.format(40, "0:15"), says.format(80, "0:05")]


def test_a_quick_audit_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch, terminal=False)
    console = verbs.Console()
    console.part(1, 1, "before: audits")
    clock.now += 9.9
    console.answered("forget/rouge", 1, 2, 9.9)
    clock.now += 30
    console.answered("forget/rouge", 2, 2, 39.9)
    assert len(clock.written) == 1


def test_lines_of_an_audit_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """They take each other's place, and the next part begins on a line of its own."""
    clock = Clock(monkeypatch, terminal=True)
    console = verbs.Console()
    console.part(1, 2, "before: audits")
    clock.now += 0.6
    console.answered("forget/rouge", 1, 4, 0.6)
    clock.now += 0.1
    console.answered("forget/rouge", 2, 4, 0.7)
    console.part(2, 2, "after")
    assert clock.written[1:3] == ["\r\033[K    forget/rouge: 25 % of the rows  0:01 left", "\n"]


@pytest.mark.parametrize("terminal", [False, True])
def test_lines_of_a_claim(monkeypatch: pytest.MonkeyPatch, terminal: bool) -> None:
    """Told of every half second, it is shown as often as an audit, each line written at once."""
    clock = Clock(monkeypatch, terminal)
    console = verbs.Console()
    for claim in ("[1/2] One: it is so.", "[2/2] Two: it is too."):
        begun = clock.now = clock.now + 0.25
        console.note(claim)
        for beat in range(1, 51):
            clock.now = begun + beat / 2
            console.working(f"{beat / 2} s")
    if terminal:
        lines = ["\n", *(f"\r\033[K    {beat / 2} s" for beat in range(1, 51))]
        assert clock.written[51:] == [lines[0], "[2/2] Two: it is too.\n", *lines[1:]]
    else:
        assert clock.written[:3] == ["[1/2] One: it is so.\n", "    10.0 s\n", "    20.0 s\n"]
        assert clock.written[3:] == ["[2/2] Two: it is too.\n", "    10.0 s\n", "    20.0 s\n"]


def language_model() -> CausalLMSubject:
    model, tokenizer = tiny_llama(300, 1, 16)
    return CausalLMSubject(CausalLM(tokenizer), model, tokens_a_batch=1)


def told(subject: Telling) -> list[tuple[int, int]]:
    """Where the subject's calls are kept."""
    calls: list[tuple[int, int]] = []
    subject.told = lambda answered, asked: calls.append((answered, asked))
    return calls


@pytest.mark.parametrize("question", ["logp", "matches", "embed", "generate", "sample", "through Sharded"])
def test_a_language_model_tells_after_every_batch(question: str) -> None:
    subject = language_model()
    calls = told(subject)
    ask: dict[str, object] = {
        "generate": lambda: subject.generate(ROWS, 2),
        "sample": lambda: subject.sample(ROWS, 2, count=1, seeds=range(5)),
        "through Sharded": lambda: Sharded(subject).logp(ROWS),
    }
    ask |= {name: lambda name=name: getattr(subject, name)(ROWS) for name in ("logp", "matches", "embed")}
    ask[question]()  # type: ignore[operator]
    if question in ("generate", "sample"):  # a budget below one row's length still takes a row with the longest
        assert calls[-1] == (5, 5) and [a for a, _ in calls] == sorted({a for a, _ in calls})
    else:
        assert calls == [(i, 5) for i in range(1, 6)]


def test_a_classifier_tells_after_every_batch() -> None:
    rows = [{"inputs": [0.1, 0.2], "label": 0}] * 5
    subject = ClassifierSubject(Classifier(classes=3), nn.Linear(2, 3), rows_a_batch=2)
    calls = told(subject)
    subject.predict(rows)
    assert calls == [(2, 5), (4, 5), (5, 5)]


def test_a_copy_that_relearns_tells_the_same_listener() -> None:
    subject = language_model()
    calls = told(subject)
    again = relearned(subject, ROWS, "forget", Training(steps=1, batch=1))
    again.logp(ROWS)
    assert calls[-1] == (5, 5)


class Listening:
    """Events that keep what audits tell."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, int, int]] = []

    def part(self, number: int, parts: int, label: str) -> None: ...

    def progress(self, label: str, progress: object) -> None: ...

    def note(self, text: str) -> None: ...

    def answered(self, label: str, answered: int, asked: int, seconds: float) -> None:
        assert seconds >= 0
        self.heard.append((label, answered, asked))


def test_a_run_says_which_audit_is_how_far(tmp_path: Path) -> None:
    from palimpsest.run import run

    rows = "".join(f'{{"inputs": {[i / 600] * 64}, "label": {i % 10}}}\n' for i in range(600))
    (tmp_path / "rows.jsonl").write_text(rows)
    recipe = parse_recipe(
        {
            "name": "measured",
            "model": {"pretrained": "digits-mlp", "adapter": "classifier"},
            "roles": {"task": "rows.jsonl"},
            "audits": {"task": ["accuracy", "probability"]},
        },
        audit_only=True,
    )
    events = Listening()
    run(recipe, tmp_path / "out", folder=tmp_path, events=events)
    assert events.heard == [(f"task/{a}", n, 600) for a in ("accuracy", "probability") for n in (512, 600)]
