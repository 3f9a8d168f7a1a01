"""``palimpsest verify``: what it writes, what it refuses, and how figures become a verdict."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import threading
import time
from types import ModuleType

import pytest
import torch
from torch.optim import optimizer as optimizers

from palimpsest import claim, cli, verification
from palimpsest.claim import Claim, Evidence, Figure, Paper
from palimpsest.claims._evidence import Condition, evidence, exact, figure, over_seeds
from palimpsest.environment import commit_of
from palimpsest.statistics import Interval
from palimpsest.verification import evidence_file, verify


class Doubles(Claim):
    """Shown when the mean of the doubled seeds exceeds 1."""

    says = "Twice a seed is more than one."

    def run(self, budget, seeds):
        doubled = over_seeds([2.0 * s for s in seeds])
        return evidence([Condition("twice the seed", doubled, "above", 1.0)], [], {"budget": budget})


class Waits(Claim):
    """Shown when nothing was computed for a tenth of a second, here or in a process of its own."""

    says = "Waiting is not work."

    def run(self, budget, seeds):
        time.sleep(0.3)
        work = "import time\nwhile time.process_time() < 0.2: pass"
        subprocess.run([sys.executable, "-c", work], check=True)
        return Evidence("shown", "It is so.", ())


class Endless(Claim):
    """Shown when infinity is measured, which must not reach the file."""

    says = "There is no largest number."

    def run(self, budget, seeds):
        return Evidence("shown", "It is so.", (Figure("largest", math.inf),))


class Trains(Claim):
    """Shown when it was told of a step in a loop of its own with each seed, and once more after the last."""

    says = "A claim that trains is not silent."
    heard: threading.Event

    def run(self, budget, seeds):
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1)
        for _ in seeds:
            optimizer.step()
            self.listen()
        self.listen()
        return evidence([], [], {"seeds": len(seeds), "last": seeds[-1]})

    def listen(self):
        for _ in range(2):  # what is heard first may have been said before
            self.heard.clear()
            assert self.heard.wait(60), "nothing was told"


class Gives(Claim):
    """Never shown: Ctrl-C comes while it works."""

    says = "Somebody has no time."

    def run(self, budget, seeds):
        raise KeyboardInterrupt


@pytest.fixture
def paper(monkeypatch):
    """A paper whose claims a test chooses; its slug is ``fake-paper``."""

    def write(*claims):
        module = ModuleType("palimpsest.claims.fake_paper")
        module.PAPER = Paper("A paper that is not there", "Nobody et al.", 2024)
        module.PARTS = ("objectives.npo",)
        for one in claims:
            setattr(module, one.__name__, one)
            monkeypatch.setattr(one, "__module__", module.__name__)
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setattr(claim, "paper_slugs", lambda: ("fake-paper",))

    return write


def test_the_file_holds_what_the_docs_read(paper, tmp_path):
    paper(Doubles)
    told = []
    record = verify("fake-paper", "cpu", [1, 2, 3], tmp_path / "results", note=told.append)
    kept = json.loads((tmp_path / "results" / "fake-paper.json").read_text())
    assert kept == record
    assert list(kept) == [
        "paper", "budget", "seeds", "hardware", "commit", "environment", "date", "seconds", "processor_seconds",
        "claims",
    ]  # fmt: skip
    assert kept["paper"] == "fake-paper" and kept["budget"] == "cpu" and kept["seeds"] == [1, 2, 3]
    assert kept["environment"]["python"] and "processors" in kept["hardware"]
    (one,) = kept["claims"]
    assert one["claim"] == "Doubles" and one["says"] == Doubles.says and one["seconds"] >= 0
    found = one["evidence"]
    assert sorted(found) == ["because", "figures", "settings", "verdict"]
    reach = 4.302653 * 2 / math.sqrt(3)  # t of 97.5 % and two degrees of freedom, standard deviation 2
    assert found["verdict"] == "not shown" and found["settings"] == {"budget": "cpu"}
    assert found["figures"][0] == {
        "name": "twice the seed",
        "value": 4.0,
        "low": pytest.approx(4 - reach, abs=1e-4),
        "high": pytest.approx(4 + reach, abs=1e-4),
        "unit": "",
    }
    assert found["because"] == "twice the seed: 4 [-0.968, 8.97], not above 1."
    assert told[0] == "[1/1] Doubles: Twice a seed is more than one." and "not shown" in told[1]


def test_the_verdict_follows_from_the_interval(paper, tmp_path):
    paper(Doubles)
    assert verify("fake-paper", "cpu", [10, 11, 12], tmp_path)["claims"][0]["evidence"]["verdict"] == "shown"
    alone = verify("fake-paper", "cpu", [10], tmp_path)["claims"][0]["evidence"]
    assert alone["verdict"] == "not shown" and "(no interval)" in alone["because"]
    assert alone["figures"][0]["low"] is None


def test_the_processors_time_counts_work_wherever_it_was_done(paper, tmp_path):
    paper(Waits)
    record = verify("fake-paper", "cpu", [0], tmp_path)
    (one,) = record["claims"]
    assert one["seconds"] > one["processor_seconds"] >= 0.2
    assert record["processor_seconds"] >= one["processor_seconds"]


def test_a_figure_that_is_not_finite_is_refused_by_name(paper, tmp_path):
    paper(Doubles, Endless)
    with pytest.raises(ValueError, match="Endless measured largest as inf"):
        verify("fake-paper", "cpu", [0, 1], tmp_path)
    assert list(tmp_path.iterdir()) == [], "a file was written although a claim failed"


def test_a_paper_without_claims_ends_with_a_sentence(paper, tmp_path, capsys):
    paper()
    assert cli.main(["verify", "fake-paper", "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "'fake-paper' has no claim that runs (implemented)" in error and error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_paper_suggests_the_nearest(capsys):
    assert cli.main(["verify", "nop"]) == 2
    assert "did you mean" in capsys.readouterr().err


def test_the_budget_gpu_needs_one(paper, tmp_path, monkeypatch):
    paper(Doubles)
    monkeypatch.setattr(verification.torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="needs a CUDA device"):
        verify("fake-paper", "gpu", [0], tmp_path)


@pytest.mark.parametrize("seeds", [[], [1, 1]])
def test_seeds_must_be_there_and_differ(paper, tmp_path, seeds):
    paper(Doubles)
    with pytest.raises(ValueError, match="--seeds"):
        verify("fake-paper", "cpu", seeds, tmp_path)


def test_the_verb_prints_verdict_and_reason(paper, tmp_path, capsys):
    paper(Doubles)
    assert cli.main(["verify", "fake-paper", "--seeds", "10", "11", "12", "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("SHOWN") and "twice the seed: 22" in printed.out
    assert str(tmp_path / "fake-paper.json") in printed.err


def test_a_claim_is_told_of_while_it_works(paper, tmp_path, monkeypatch):
    """With its seeds and the steps of whichever optimizer, from a thread and a hook that end with it."""
    paper(Trains)
    monkeypatch.setattr(verification, "_BEAT", 0.001)
    Trains.heard, told, threads = threading.Event(), [], threading.active_count()

    def working(text):
        told.append(text.partition(" s, ")[2])
        Trains.heard.set()

    record = verify("fake-paper", "cpu", [5, 7], tmp_path, working=working)
    assert record["claims"][0]["evidence"]["settings"] == {"seeds": 2, "last": 7}
    wanted = ["optimizer step 1, seed 1 of 2", "optimizer step 2, seed 2 of 2", "optimizer step 2"]
    assert [text for text in dict.fromkeys(told) if text in wanted] == wanted
    assert threading.active_count() == threads and not optimizers._global_optimizer_post_hooks


def test_a_listener_that_has_gone_is_told_nothing_more(paper, tmp_path, monkeypatch):
    paper(Trains)
    monkeypatch.setattr(verification, "_BEAT", 0.001)
    monkeypatch.setattr(Trains, "listen", lambda self: gone.wait(60))
    gone, told, uncaught = threading.Event(), [], []
    monkeypatch.setattr(threading, "excepthook", uncaught.append)

    def working(text):
        told.append(text)
        gone.set()
        raise BrokenPipeError

    verify("fake-paper", "cpu", [1, 2], tmp_path, working=working)
    assert len(told) == 1 and not uncaught


def test_ctrl_c_keeps_the_evidence_as_it_was(paper, tmp_path, monkeypatch, capsys):
    (tmp_path / "fake-paper.json").write_text("earlier")
    paper(Doubles, Gives)
    threads = threading.active_count()
    assert cli.main(["verify", "fake-paper", "--out", str(tmp_path)]) == 130
    said = capsys.readouterr().err.splitlines()[-1]
    assert said == "Stopped by you before the last claim had run; evidence is written of all or of none."
    assert [file.name for file in tmp_path.iterdir()] == ["fake-paper.json"]
    assert (tmp_path / "fake-paper.json").read_text() == "earlier"
    assert threading.active_count() == threads and not optimizers._global_optimizer_post_hooks


def test_a_claim_says_what_it_took_the_last_time_with_as_many_seeds(paper, tmp_path):
    paper(Doubles)
    file, told = tmp_path / "fake-paper.json", []
    record = verify("fake-paper", "cpu", [1, 2], tmp_path)
    record["claims"][0]["seconds"] = 47.2
    file.write_text(json.dumps(record))
    verify("fake-paper", "cpu", [1], tmp_path, note=told.append)
    file.write_text(json.dumps(record))
    verify("fake-paper", "cpu", [3, 4], tmp_path, note=told.append)
    assert [text.endswith("(47 s the last time)") for text in told if text.startswith("[1/1]")] == [False, True]


def test_each_budget_has_its_file(tmp_path):
    assert evidence_file(tmp_path, "npo", "cpu") == tmp_path / "npo.json"
    assert evidence_file(tmp_path, "npo", "gpu") == tmp_path / "npo-gpu.json"


def git(folder, *arguments):
    done = subprocess.run(
        ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b", *arguments],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout.strip()


def test_the_commit_is_that_of_the_checkout_and_says_when_files_differ(tmp_path):
    package = tmp_path / "src"
    package.mkdir()
    assert commit_of(package) == "unknown"
    git(tmp_path, "init", "-q")
    (package / "a.py").write_text("1\n")
    assert commit_of(package) == "unknown", "a folder that git does not track has no commit"
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "one")
    head = git(tmp_path, "rev-parse", "HEAD")
    assert commit_of(package) == head
    (tmp_path / "results.json").write_text("evidence\n")
    assert commit_of(package) == head, "evidence beside the package does not make it dirty"
    (package / "a.py").write_text("2\n")
    assert commit_of(package) == f"{head}-dirty"


ABOVE = Condition("a", Interval(2.0, 1.5, 2.5), "above", 1.0)
AT = Condition("b", Interval(2.0, 1.0, 2.5), "above", 1.0)


@pytest.mark.parametrize(
    ("conditions", "needed", "verdict"),
    [
        ([ABOVE], 1, "shown"),
        ([AT], 1, "not shown"),  # an interval that touches the threshold is not beyond it
        ([ABOVE, AT], 1, "partly"),
        ([AT, ABOVE], 1, "not shown"),
        ([ABOVE, AT], 2, "not shown"),
        ([ABOVE, ABOVE, AT], 2, "partly"),
        ([Condition("c", Interval(2.0, math.nan, math.nan), "above", 1.0)], 1, "not shown"),
        ([Condition("d", Interval(0.5, 0.2, 0.8), "below", 1.0)], 1, "shown"),
        ([Condition("e", exact(3), "above", 2.5)], 1, "shown"),
    ],
)
def test_conditions_make_the_verdict(conditions, needed, verdict):
    found = evidence(conditions, [Figure("beside", 1.0)], {}, needed)
    assert found.verdict == verdict
    assert [f.name for f in found.figures] == [*(c.name for c in conditions), "beside"]
    assert found.because.count(";") == len(conditions) - 1


def test_an_interval_over_seeds_is_students():
    assert over_seeds([1.0, 2.0, 3.0, 4.0]).low == pytest.approx(2.5 - 3.182446 * 1.2909944 / 2, abs=1e-5)
    assert math.isnan(over_seeds([1.0]).low)
    with pytest.raises(ValueError, match="no seed"):
        over_seeds([])


def test_figures_leave_out_ends_that_say_nothing():
    assert figure("n", exact(3)) == Figure("n", 3.0)
    assert figure("n", over_seeds([2.0])) == Figure("n", 2.0)
    assert figure("n", Interval(2.0, 1.0, 3.0), "s") == Figure("n", 2.0, 1.0, 3.0, "s")
