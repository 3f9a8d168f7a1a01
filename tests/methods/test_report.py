"""Expectations, verdicts and the report's data: every rule with figures whose answer is known beforehand."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch

from palimpsest.audit import Scores
from palimpsest.measure import build_report
from palimpsest.page.tables import figure_table
from palimpsest.report import Change, Curve, Report, Run, Score
from palimpsest.verdict import Expectation, decimals, judge, number, parse_expectation

NOISE = np.random.default_rng(0).normal(0, 0.05, 200)


def scores(level, better="higher", name="accuracy", role="retain", noise=1.0, **fields):
    """200 items around ``level`` with a standard deviation of 0.05, so a change has an interval of about 0."""
    items = torch.as_tensor(level + noise * NOISE)
    return Scores(name, items, tuple(f"i{i}" for i in range(len(NOISE))), better, role, **fields)


def noisy(level, seed, count=30):
    items = torch.as_tensor(np.random.default_rng(seed).normal(level, 0.3, count))
    return Scores("accuracy", items, tuple(f"i{i}" for i in range(count)), "higher", "retain")


def decide(spec, before, after, reference=None):
    arms = [None if arm is None else [arm] for arm in (before, after, reference)]
    return judge("after", "retain", "accuracy", parse_expectation(spec), *arms, resamples=400)


# ----------------------------------------------------------------------------------------- expectations


@pytest.mark.parametrize(
    ("spec", "wanted"),
    [
        ("nearer retrained", Expectation("nearer", "nearer retrained", reference="retrained")),
        (" higher ", Expectation("higher", "higher")),
        ("lower", Expectation("lower", "lower")),
        ({"change": "< 3 %"}, Expectation("change", "change < 3 %", high=3, strict=True, percent=True)),
        ({"change": ">-0.05"}, Expectation("change", "change > -0.05", low=-0.05, strict=True)),
        ({"change": "within 2%"}, Expectation("change", "change within 2 %", low=-2, high=2, percent=True)),
        ({"change": "<= 1e-3"}, Expectation("change", "change <= 0.001", high=0.001)),
        ({"at least": 0.9}, Expectation("value", "at least 0.9", low=0.9)),
        ({"at most": 1}, Expectation("value", "at most 1", high=1)),
    ],
)
def test_expectations_are_read(spec, wanted):
    assert parse_expectation(spec) == wanted


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("nearer", "'nearer' is no expectation; write"),
        ("up", "'up' is no expectation"),
        ({"change": "3 %"}, "'3 %' is no margin; write"),
        ({"change": "within -2 %"}, "a margin of at least 0, not -2"),
        ({"at lest": 0.9}, "'at lest' is no expectation"),
        ({"at least": "much"}, "'at least' takes a number, not 'much'"),
        ({"at least": True}, "takes a number"),
        ({"at least": 1, "at most": 2}, "is no expectation"),
        ({}, "is no expectation"),
        (3, "3 is no expectation"),
    ],
)
def test_a_wrong_expectation_ends_with_its_place(spec, sentence):
    with pytest.raises(ValueError, match=r"^expect\.retain/accuracy: ") as error:
        parse_expectation(spec, "expect.retain/accuracy")
    assert sentence in str(error.value) and str(error.value).endswith(".")


# --------------------------------------------------------------------------------------------- verdicts


@pytest.mark.parametrize(
    ("spec", "before", "after", "better", "finding"),
    [
        ("higher", 0.5, 0.6, "higher", "learned"),
        ("higher", 0.5, 0.4, "higher", "lost"),
        ("lower", 0.5, 0.4, "higher", "forgotten"),
        ("lower", 0.5, 0.6, "higher", "failed"),
        ("lower", 2.0, 1.5, "lower", "learned"),
        ("lower", 2.0, 2.5, "lower", "lost"),
        ("higher", 2.0, 2.5, "lower", "forgotten"),
        ({"change": "< 3 %"}, 10.0, 10.2, "lower", "retained"),
        ({"change": "< 3 %"}, 10.0, 10.4, "lower", "lost"),
        ({"change": "> -3 %"}, -10.0, -10.2, "higher", "retained"),
        ({"change": "> -3 %"}, -10.0, -10.4, "higher", "lost"),
        ({"change": "> -0.05"}, 0.9, 0.88, "higher", "retained"),
        ({"change": "> -0.05"}, 0.9, 0.7, "higher", "lost"),
        ({"change": "within 0.05"}, 0.9, 1.0, "higher", "lost"),
        ({"change": "> 0"}, 0.5, 0.5, "higher", "not shown"),
        ({"change": ">= 0"}, 0.5, 0.5, "higher", "retained"),
        ({"change": "> 0.2"}, 0.5, 0.8, "higher", "learned"),
        ({"change": "> 0.2"}, 0.5, 0.6, "higher", "failed"),
        ({"change": "< -50 %"}, 0.9, 0.3, "higher", "forgotten"),
        ({"at least": 0.9}, 0.5, 0.95, "higher", "learned"),
        ({"at least": 0.9}, 0.95, 0.94, "higher", "retained"),
        ({"at least": 0.9}, 0.95, 0.5, "higher", "lost"),
        ({"at least": 0.9}, 0.4, 0.5, "higher", "failed"),
        ({"at most": 0.1}, 0.9, 0.05, "higher", "forgotten"),
        ({"at most": 0.1}, 0.05, 0.05, "higher", "not shown"),
        ({"at most": 0.1}, 0.05, 0.9, "higher", "failed"),
        ({"at most": 9.0}, 12.0, 8.0, "lower", "learned"),
        ({"at most": 9.0}, 8.0, 12.0, "lower", "lost"),
    ],
)
def test_verdicts_follow_the_rules(spec, before, after, better, finding):
    assert decide(spec, scores(before, better), scores(after, better)).verdict == finding


@pytest.mark.parametrize("spec", ["higher", {"change": "within 0.05"}, {"change": "< 5 %"}, {"at least": 1.0}])
def test_what_the_items_do_not_decide_is_not_shown(spec):
    found = decide(spec, noisy(1.0, 1), noisy(1.0, 2))
    assert found.verdict == "not shown"
    assert any(word in found.sentence for word in ("is not shown", "crosses the margin", "does not settle"))


def test_nearer_retrained():
    before, after, retrained = scores(0.98), scores(0.35), scores(0.31)
    found = decide("nearer retrained", before, after, retrained)
    assert found.verdict == "forgotten"
    shift = [round(float(v), 2) for v in (before.items.mean(), after.items.mean(), retrained.items.mean())]
    assert found.sentence.startswith(
        f"retain / accuracy fell from {shift[0]:.2f} to {shift[1]:.2f} (change -0.63, 95 % interval -0.63 to -0.63); "
        f"the retrained model has {shift[2]:.2f}, so 94 % of the gap is closed, "
        "and the result lies outside its interval"
    )
    inside = decide("nearer retrained", before, scores(0.311), retrained)
    assert "the result lies inside its interval" in inside.sentence
    over = decide("nearer retrained", before, scores(0.21), retrained)
    assert over.verdict == "forgotten" and "closed and overshot by 15 %" in over.sentence
    away = decide("nearer retrained", before, scores(1.5), retrained)
    assert away.verdict == "failed" and "the gap has grown" in away.sentence and "opposite is shown" in away.sentence
    assert decide("nearer retrained", retrained, retrained, retrained).sentence.endswith("there was no gap to close.")
    assert decide("nearer retrained", retrained, after, retrained).verdict == "failed"
    unclear = decide("nearer retrained", noisy(1.0, 1), noisy(0.95, 2), noisy(0.9, 3))
    assert unclear.verdict == "not shown" and "coming nearer is not shown" in unclear.sentence


def test_overshooting_further_than_the_gap_is_no_forgetting():
    found = decide("nearer retrained", scores(0.5), scores(0.0), scores(0.4))
    assert found.verdict == "failed" and "the gap has grown" in found.sentence


def test_without_the_reference_nothing_is_shown():
    found = decide("nearer retrained", scores(0.9), scores(0.1))
    assert found.verdict == "not shown" and "no run is named 'retrained'" in found.sentence


def test_a_single_item_shows_nothing():
    one = [Scores("accuracy", torch.tensor([v]), ("a",)) for v in (0.9, 0.1, 0.2)]
    for spec in ("lower", "nearer retrained", {"change": "within 1"}, {"at most": 0.5}):
        found = judge("after", "retain", "accuracy", parse_expectation(spec), *[[s] for s in one])
        assert found.verdict == "not shown" and "no interval from a single item" in found.sentence


def test_numbers_in_sentences():
    assert [number(v) for v in (0.98, -0.6349, 12.34, 1234.5, 0.0123, 0.0, -0.001, math.nan)] == [
        "0.98",
        "-0.63",
        "12.3",
        "1,234",
        "0.012",
        "0.00",
        "-0.0010",
        "–",
    ]
    assert number(-0.0001, 2) == "0.00"
    assert decimals(math.nan) == 2 and decimals(250, 0.1) == 0


# --------------------------------------------------------------------------------------------- building

RUNS = [Run("before", "before"), Run("after", "after", "NPO", seconds=1.5), Run("retrained", "baseline")]


def binary(values, run="", role="forget", outputs=True):
    items = torch.tensor(values, dtype=torch.float32)
    ids = tuple(f"q{i}" for i in range(len(values)))
    return Scores(
        "known", items, ids, "nearer:retrained", role, outputs=tuple(f"{run} {i}" for i in ids) if outputs else None
    )


def test_a_report_holds_figures_changes_and_comparisons():
    before, after, retrained = [1] * 20, [0] * 15 + [1] * 5, [0] * 16 + [1] * 4
    report = build_report(
        "run",
        {
            "before": {0: [binary(before, "before"), scores(0.9)]},
            "after": {0: [binary(after, "after"), scores(0.88)]},
            "retrained": {0: [binary(retrained, "retrained")]},
        },
        RUNS,
        expect={"forget/known": "nearer retrained", "retain/accuracy": {"change": "> -0.05"}},
        rows={("forget", "q0"): {"prompt": "Who?", "completion": "Nobody."}},
        created="2026-01-01",
    )
    figures = {(s.run, s.role): s for s in report.scores}
    assert figures["after", "forget"].value == 0.25 and figures["after", "forget"].n == 20
    assert figures["after", "forget"].per_seed == (0.25,)
    changes = {(c.run, c.role): c for c in report.changes}
    known = changes["after", "forget"]
    assert known.change == -0.75 and known.low <= -0.75 <= known.high < 0
    assert known.test == "McNemar, exact" and known.p == pytest.approx(2 / 2**15)
    assert known.p_holm >= known.p
    assert changes["after", "retain"].test == "paired permutation"
    assert ("retrained", "retain") not in changes
    (versus,) = [v for v in report.versus if v.run == "after"]
    assert versus.reference == "retrained" and versus.value == pytest.approx(0.05)
    assert [v.verdict for v in report.verdicts] == ["forgotten", "retained"]
    assert len(report.items) == 10 and report.items[0].id == "q0" and report.items[0].prompt == "Who?"
    assert report.items[0].outputs == {"before": "before q0", "after": "after q0", "retrained": "retrained q0"}
    assert [abs(item.change) for item in report.items] == [1.0] * 10
    assert report.seeds == (0,) and report.created == "2026-01-01"


def test_the_items_that_changed_most_come_first_in_either_direction():
    before, after = [0.5, 0.5, 0.5, 0.5], [0.4, 0.5, 0.9, 0.0]
    report = build_report("run", {"before": {0: [binary(before)]}, "after": {0: [binary(after)]}}, RUNS)
    assert [item.id for item in report.items] == ["q3", "q2", "q0", "q1"]
    assert report.items[0].change == pytest.approx(-0.5)
    quiet = {"before": {0: [binary(before, outputs=False)]}, "after": {0: [binary(after, outputs=False)]}}
    assert build_report("run", quiet, RUNS).items == ()


def test_seeds_are_averaged_and_one_measurement_serves_all_seeds():
    report = build_report(
        "run",
        {"before": {0: [scores(0.5)]}, "after": {seed: [scores(0.5 + 0.1 * seed)] for seed in (1, 2, 3)}},
        RUNS,
        expect={"retain/accuracy": "higher"},
    )
    after = next(s for s in report.scores if s.run == "after")
    mean = float(scores(0.7).items.mean())
    assert after.value == pytest.approx(mean) and len(after.per_seed) == 3
    (change,) = report.changes
    assert change.test == "paired bootstrap" and change.change == pytest.approx(0.2)
    assert 0 < change.low < 0.2 < change.high and report.verdicts[0].verdict == "learned"
    assert report.seeds == (0, 1, 2, 3)
    # Items do not vary in how they change, so the effect is the change over their spread, 0.2 / s, corrected.
    spread = float(scores(0).items.std())
    assert change.effect == pytest.approx(0.2 / spread * (1 - 3 / (8 * 200 - 9)), rel=1e-6)


def test_relative_and_ks_comparisons():
    def leak(shift):
        items = torch.cat([torch.linspace(0, 1, 20) + shift, torch.linspace(0, 1, 20)])
        groups = torch.tensor([1] * 20 + [0] * 20)
        ids = tuple(f"i{i}" for i in range(40))
        return Scores("leak", items, ids, "nearer:retrained", "forget", "auc", "relative", groups)

    def ratio(shift):
        return dataclasses.replace(scores(shift, name="ratio"), versus="ks")

    report = build_report(
        "run",
        {run: {0: [leak(s), ratio(s)]} for run, s in (("before", 0.5), ("after", 0.01), ("retrained", 0.0))},
        RUNS,
    )
    found = {v.audit: v for v in report.versus}
    after = next(s for s in report.scores if (s.run, s.audit) == ("after", "leak")).value
    assert found["leak"].kind == "relative" and found["leak"].value == pytest.approx(100 * (after - 0.5) / 0.5)
    assert found["ratio"].kind == "ks" and 0 < found["ratio"].value < 0.2 and found["ratio"].p > 0.05
    assert math.isnan(found["ratio"].low)


def test_variants_are_held_against_the_run_after_in_pairs():
    runs = [*RUNS, Run("other", "variant", "a variant"), Run("do_nothing", "baseline")]
    levels = {"before": 0.5, "after": 0.6, "retrained": 0.7, "other": 0.65, "do_nothing": 0.5}
    measured = {run: {s: [noisy(level, s)] for s in (0, 1)} for run, level in levels.items()}
    report = build_report("run", measured, runs)
    found = {(v.run, v.reference): v for v in report.versus}
    assert {run for run, reference in found if reference == "after"} == {"other"}
    difference = found["other", "after"]
    assert difference.kind == "difference" and difference.value == pytest.approx(0.05)
    # Items and seeds change alike, so that nothing is left to chance; unpaired, the interval would reach below 0.
    assert difference.low == pytest.approx(0.05) and difference.high == pytest.approx(0.05)
    assert found["other", "retrained"].value == pytest.approx(-0.05)
    (row,) = [row for row in figure_table(report).split("<tr") if "a variant" in row]
    assert "−0.050" in row and "+0.050" not in row, "the page's column is the one against retrained"


def test_what_is_missing_is_said():
    measured = {"before": {0: [scores(0.5)]}, "after": {0: [scores(0.5)], 1: []}}
    report = build_report("run", measured, RUNS, expect={"retain/fluency": "higher"})
    assert report.warnings == ("retain / accuracy of the run after was measured in 1 of 2 seeds only.",)
    assert (
        report.verdicts[0].verdict == "not shown" and "was not measured before and after" in report.verdicts[0].sentence
    )
    with pytest.raises(ValueError, match="'other' was measured but is not among the runs"):
        build_report("run", {"other": {0: [scores(0.5)]}}, RUNS)
    short = dataclasses.replace(scores(0.5), items=scores(0.5).items[:-1], ids=scores(0.5).ids[:-1])
    with pytest.raises(ValueError, match="'i199' is missing from one of them"):
        build_report("run", {"before": {0: [scores(0.5)]}, "after": {0: [short]}}, RUNS)
    with pytest.raises(ValueError, match=r"expect\.retain/accuracy: 'up' is no expectation"):
        build_report("run", measured, RUNS, expect={"retain/accuracy": "up"})


# ------------------------------------------------------------------------------------------------- file


def small():
    return build_report(
        "größe \u2028 </script> \ud83d",
        {"before": {0: [binary([1, 1, 0])]}, "after": {0: [binary([0, 1, 0])]}},
        [dataclasses.replace(RUNS[0], companions=({"name": "teacher", "seconds": 2.5},)), *RUNS[1:]],
        [Curve("after", "loss", ((0, 1.0), (1, math.nan)))],
        environment={"torch": "2", "device": torch.device("cpu")},
        rows={
            ("forget", "q0"): {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]}
        },
    )


def test_a_report_survives_its_file(tmp_path):
    report, path = small(), tmp_path / "report.json"
    report.save(path)
    read = Report.load(path)
    assert json.loads(read.to_json()) == json.loads(report.to_json())
    assert read.runs == report.runs and read.verdicts == report.verdicts and read.name == report.name
    assert isinstance(read.scores[0], Score) and isinstance(read.changes[0], Change)
    assert read.items[0].prompt == "user: Hi" and read.items[0].target == "Ho"
    assert [p.name for p in tmp_path.iterdir()] == ["report.json"]


def test_undefined_numbers_are_null_in_the_file(tmp_path):
    small().save(tmp_path / "report.json")
    text = (tmp_path / "report.json").read_text()
    data = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert data["curves"][0]["points"] == [[0, 1.0], [1, None]]
    assert math.isnan(Report.load(tmp_path / "report.json").curves[0].points[1][1])


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "report.json"
    small().save(path)
    old = path.read_text()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        dataclasses.replace(small(), name="new").save(path)
    assert path.read_text() == old and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"version": 2}, "the report has version 2 and this Palimpsest reads version 1"),
        ({"version": None}, "has version None"),
        ({"extra": 1}, "there is no field 'extra'"),
        ({"name": 3}, "name: this must be text, not '3'"),
        ({"seeds": [0.5]}, "seeds.0: this must be a whole number"),
        ({"seeds": 1}, "seeds: this must be a list"),
        ({"runs": [{"name": "a"}]}, "runs.0: the field 'kind' is missing"),
        ({"runs": [{"name": "a", "kind": "odd"}]}, "runs.0.kind: this must be one of 'before', 'after'"),
        ({"curves": [{"run": "a", "name": "b", "points": [[1]]}]}, "curves.0.points.0: this must be a list of 2"),
        ({"curves": [{"run": "a", "name": "b", "points": [[1, "x"]]}]}, "points.0.1: this must be a number or null"),
        ({"environment": []}, "environment: this must be an object"),
        ({"items": ["a"]}, "items.0: this must be an object"),
    ],
)
def test_a_file_that_is_no_report_is_refused_with_its_place(change, sentence):
    data = {**json.loads(small().to_json()), **change}
    with pytest.raises(ValueError, match=r"^file") as error:
        Report.from_data(data, "file")
    assert sentence in str(error.value)


def test_a_file_that_is_no_json_is_refused(tmp_path):
    for content in (b"{", b"\xff\xfe", b"[]", b"{}"):
        (tmp_path / "r.json").write_bytes(content)
        with pytest.raises(ValueError, match=r"r.json: this is no (JSON|report)"):
            Report.load(tmp_path / "r.json")
