"""The bench of pre-training: it runs, goes on where it was stopped, chooses rates fairly and judges rightly."""

from __future__ import annotations

import importlib.util
import json
import math
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

BENCH = Path(__file__).parents[2] / "bench"


@pytest.fixture(scope="module")
def pretrain():
    sys.path.insert(0, str(BENCH))
    try:
        spec = importlib.util.spec_from_file_location("pretrain", BENCH / "pretrain.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules["pretrain"] = module
        spec.loader.exec_module(module)
        yield module
    finally:
        sys.path.remove(str(BENCH))


@pytest.fixture
def small(pretrain):
    """A size of six steps, and text without sense."""
    size = replace(pretrain.SIZES["tiny"], width=64, vocabulary=40, batch=2, length=8, steps=8, windows=3)
    windows = torch.randint(0, 40, (30, 9), generator=torch.Generator().manual_seed(0))
    return size, pretrain.Text(windows[:24], windows[24:27], windows[27:], "digest")


def plan(pretrain, small, file, seeds=(0,), seconds=1e9, run_seconds=1e9):
    size, text = small
    kept = pretrain.Kept(file, {"text": text.digest})
    machine = pretrain.Machine("cpu", False)
    return pretrain.Plan(text, size, machine, kept, seeds, seconds, run_seconds, time.perf_counter())


def test_every_optimizer_runs_and_a_second_call_has_nothing_left_to_do(pretrain, small, tmp_path):
    file = tmp_path / "runs.json"
    first = plan(pretrain, small, file)
    first.all(rates=1)
    written = json.loads(file.read_text())
    assert [run["arm"] for run in written["runs"]] == list(pretrain.ARMS) and not first.missed
    assert all(math.isfinite(run["loss"]) and len(run["losses"]) == 3 for run in written["runs"])
    assert len(written["rows"]) == 5 and written["order"].count("<") == 4 and len(written["papers"]) == 5
    again = plan(pretrain, small, file, seconds=0)
    again.all(rates=1)
    assert again.kept.runs == written["runs"] and not again.missed
    with pytest.raises(SystemExit, match=r"another text \(digest\); name another file"):
        pretrain.Kept(file, {"text": "another"})


def test_the_rest_of_the_model_has_the_rate_of_adamw(pretrain, small, tmp_path, monkeypatch):
    done = []

    def train(run, *_):
        done.append(run)
        loss = abs(run.rate - 6e-3)
        return {"loss": loss, "losses": [loss], "seconds": 1.0, "curve": [], "parameters": 1, "state_bytes": 1}

    monkeypatch.setattr(pretrain, "train", train)
    plan(pretrain, small, None, seeds=(0, 1)).all(rates=3)
    choosing = [run for run in done if run.seed == pretrain.CHOOSING]
    assert len(choosing) == 15 and {run.steps for run in choosing} == {2}
    assert all(run.rest == run.rate for run in choosing if run.arm == "AdamW")
    assert all(run.rest == pytest.approx(6e-3) for run in done if run.arm != "AdamW")
    final = {run.arm: run.rate for run in done if run.seed == 1}
    assert final["AdamW"] == pytest.approx(6e-3) and final["LOST"] == pytest.approx(3e-3)


def test_without_time_nothing_is_begun_and_a_slow_run_is_cut_off(pretrain, small):
    late = plan(pretrain, small, None, seconds=0)
    late.all(rates=3)
    assert len(late.missed) == 3 and not late.kept.runs
    slow = plan(pretrain, small, None, run_seconds=0)
    assert slow.loss(pretrain.Run("AdamW", 1e-3, 1e-3, 8, 0)) == math.inf
    assert slow.kept.runs[0]["stopped_after"] == 1 and pretrain.summary(slow.kept.runs, (0,))["rows"] == []


def test_what_the_papers_say_is_held_to_intervals(pretrain):
    def runs(arm, shift):
        noise = torch.rand(40, generator=torch.Generator().manual_seed(0))
        return [
            {"arm": arm, "rate": 1.0, "seed": s, "losses": (noise + shift + 0.001 * s).tolist(), "seconds": 1.0}
            | {"parameters": 1, "state_bytes": 1}
            for s in (0, 1, 2)
        ]

    found = pretrain.summary([*runs("AdamW", 0.2), *runs("GaLore", 0.1), *runs("Fira", 0.0)], (0, 1, 2))
    assert found["order"] == "Fira < GaLore < AdamW"
    verdicts = {claim: verdict.partition(":")[0] for claim, verdict in found["papers"].items()}
    assert verdicts == {
        "AdamW below GaLore (GaLore)": "the opposite",
        "Fira below GaLore (Fira)": "shown",
        "Fira below AdamW (Fira)": "shown",
    }
    same = pretrain.summary([*runs("AdamW", 0.0), *runs("Fira", 0.0)], (0, 1, 2))
    assert same["papers"]["Fira below AdamW (Fira)"].startswith("not shown")


def test_rates_lie_around_the_middle(pretrain):
    assert pretrain.grid(0.01, 1) == [0.01]
    assert pretrain.grid(0.01, 3) == pytest.approx([0.01 / 3, 0.01, 0.03])


def test_no_window_is_read_twice_before_all_were_read_once(pretrain, small):
    size, text = small
    read = torch.cat(list(pretrain.batches(text, size, 12, seed=0)))
    assert sorted(map(tuple, read.tolist())) == sorted(map(tuple, text.read.tolist()))
    assert not torch.equal(read, torch.cat(list(pretrain.batches(text, size, 12, seed=1))))
