"""A recipe with tasks: a sequence that is audited after every stage, and the matrix that comes of it."""

from __future__ import annotations

import re

import numpy as np
import pytest

from palimpsest.continual import StageMatrix, backward_transfer
from palimpsest.loop import Interrupted
from palimpsest.page import render
from palimpsest.plans import plans
from palimpsest.recipe import RecipeError
from palimpsest.recipe_source import parse_recipe
from palimpsest.run import Quiet, run
from palimpsest.run_folder import read_scores

TRAIN = {"steps": 12, "batch": 32, "lr": 3e-3}
WATCH = {"every": 4, "audits": {"test_early": ["accuracy"], "test_late": ["accuracy"]}}


def raw(**changes):
    def stage(name, on, *more):
        terms = [{"on": on, "cross_entropy": {}}, *more]
        return {"name": name, "objective": terms, "train": TRAIN, "watch": WATCH}

    replay = {"on": "early", "cross_entropy": {}}
    data = {
        "model": {"pretrained": "digits-mlp", "adapter": "classifier"},
        "roles": {
            "early": {"zoo": "digits", "classes": [0, 1]},
            "late": {"zoo": "digits", "classes": [2, 3]},
            "both": ["early", "late"],
            "test_early": {"zoo": "digits", "part": "test", "classes": [0, 1]},
            "test_late": {"zoo": "digits", "part": "test", "classes": [2, 3]},
            "never": {"zoo": "digits", "part": "test", "classes": [9]},
        },
        "stages": [stage("first", "early"), stage("second", "late")],
        "tasks": {"first": "test_early", "second": "test_late"},
        "variants": {
            "replay": [stage("first", "early"), stage("second", "late", replay)],
            "joint": [stage("all", "both")],
        },
        "audits": {"test_early": ["accuracy", "probability"], "test_late": ["accuracy"], "never": ["accuracy"]},
        "baselines": ["do_nothing"],
        "seeds": [0, 1],
    }
    return {**data, **changes}


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    return run(parse_recipe(raw()), tmp_path_factory.mktemp("tasks") / "out")


def test_the_matrix_holds_every_stage_and_task(report):
    naive, replay = report.matrices  # one run that trains on all at once has none, nor an audit of one task only
    assert (naive.run, replay.run, naive.audit) == ("after", "replay", "accuracy")
    assert naive.stages == ("before", "first", "second")
    assert naive.roles == ("test_early", "test_late", "never")
    values = np.array(naive.values)
    assert values.shape == (3, 3) and (values[2, 2] < 0.2)
    last = {s.role: s.value for s in report.scores if s.run == "after" and s.audit == "accuracy"}
    assert values[2] == pytest.approx([last[role] for role in naive.roles])


def test_figures_are_those_of_the_matrix_with_intervals(report):
    naive, replay = report.matrices
    figures = {f.name: f for f in naive.figures}
    own = StageMatrix.of(naive.values, (1, 2, None), better="higher")
    transfer = figures["backward_transfer"]
    assert transfer.value == pytest.approx(float(backward_transfer(own)))
    defined = [f for m in (naive, replay) for f in m.figures if not np.isnan(f.value)]
    spread = [f for f in defined if not np.isnan(f.low)]
    assert {f.name.split()[0] for f in defined} - {f.name.split()[0] for f in spread} == {"share_recovered"}
    assert all(f.low <= f.value <= f.high for f in spread) and any(f.low < f.high for f in spread)
    assert np.isnan(figures["forward_transfer"].value)  # no level of chance was given
    other = {f.name: f for f in replay.figures}["backward_transfer"]
    assert transfer.high < -0.3 < other.low, "without replay the first task is forgotten, with it it is not"


def test_what_happened_between_the_stages_stands_beside(report):
    for matrix in report.matrices:
        figures = {f.name: f for f in matrix.figures}
        worst, end = figures["worst_case_performance (every 4 steps)"], figures["overall_performance"]
        assert worst.value <= end.value + 1e-9 and worst.low <= worst.value <= worst.high
        curves = {c.name: c.points for c in report.curves if c.run == matrix.run}
        assert [step for step, _ in curves["second: test_early/accuracy (every 4 steps)"]] == [0, 4, 8, 12]
    naive = {f.name: f.value for f in report.matrices[0].figures}
    assert naive["windowed_forgetting_10 (every 4 steps)"] > 0.3


def test_a_variant_has_paired_differences_to_the_run_after(report):
    naive, replay = report.matrices
    own, after = ({f.name: f.value for f in m.figures} for m in (replay, naive))
    differences = {f.name: f for f in replay.differences}
    assert not naive.differences and differences.keys() == own.keys()
    for name, found in differences.items():
        assert found.value == pytest.approx(own[name] - after[name], nan_ok=True)
    for name in ("backward_transfer", "worst_of_earlier (every 4 steps)"):
        assert 0.3 < differences[name].low <= differences[name].value <= differences[name].high
    assert np.isnan(differences["share_recovered (every 4 steps)"].low)


SHOWN = {
    "overall performance": "ACC, MFN",
    "average performance": "MAA",
    "backward transfer": "BWT",
    "forward transfer": "FWT",
    "forward transfer from start": "FWT",
    "forgetting max": "F",
    "forgetting peak": "",
    "forgetting initial": "",
    "forgotten per gained": "FUAR",
    "held out change": "X-Delta",
    "worst of earlier (every 4 steps)": "min-ACC",
    "worst case performance (every 4 steps)": "WC-ACC",
    "windowed forgetting 10 (every 4 steps)": "WF",
    "windowed forgetting 100 (every 4 steps)": "WF",
    "windowed plasticity 10 (every 4 steps)": "WP",
    "windowed plasticity 100 (every 4 steps)": "WP",
}


def cells_of(page, table=0):
    """Name of a figure, with its letters -> the cells of its row in a table of the stages, one for each run."""
    text = page.partition('id="stages"')[2].split("</table>")[table]
    rows = re.findall(r'<tr><th scope="row">(.*?)</th>(.*?)</tr>', text)
    plain = [(re.sub(r"<[^>]+>", "", name), re.findall(r"<td[^>]*>(.*?)</td>", cells)) for name, cells in rows]
    return {name: [re.sub(r"<[^>]+>", "", c).replace("\u00a0", " ").strip() for c in cells] for name, cells in plain}


def test_the_page_shows_every_figure_by_its_letters_a_column_a_run_and_a_dash_where_undefined(report):
    page = render(report)
    found = cells_of(page)
    for name, letters in SHOWN.items():
        cells = found[f"{name} {letters}".strip()]
        assert len(cells) == 2
        if name == "forward transfer":
            assert cells == ["–", "–"], "no level of chance was given"
        else:
            assert all(re.fullmatch(r"−?[\d.]+ \[−?[\d.]+, −?[\d.]+\]", cell) for cell in cells), (name, cells)
    less = cells_of(page, 1)["windowed forgetting 10 (every 4 steps) WF"]
    assert len(less) == 1 and re.fullmatch(r"−[\d.]+ \[−[\d.]+, −[\d.]+\]", less[0]), "replay minus naive"
    assert "Intervals are over items and seeds." in page
    assert "replay, stage by stage" in page and "accuracy after each stage of" in page
    assert "--share:" in page


def test_forward_transfer_against_chance(tmp_path):
    """The second task before its own stage, less what guessing scores; the first has nothing before it."""
    given = run(parse_recipe(raw(chance={"accuracy": 0.1}, seeds=[0], variants={})), tmp_path)
    (matrix,) = given.matrices
    figure = next(f for f in matrix.figures if f.name == "forward_transfer")
    assert figure.value == pytest.approx(matrix.values[1][1] - 0.1) and figure.low <= figure.value <= figure.high


def test_stopped_between_two_stages_the_matrix_is_the_same(report, tmp_path):
    class Stop(Quiet):
        def part(self, number, parts, label):
            assert number <= parts
            if label.startswith("replay: second"):
                raise KeyboardInterrupt

    recipe = parse_recipe(raw(seeds=[0]))
    with pytest.raises(KeyboardInterrupt):
        run(recipe, tmp_path / "out", events=Stop())
    kept = read_scores(tmp_path / "out" / "seed-0" / "after" / "0-first" / "scores.jsonl")
    assert {(scores.role, scores.name) for scores in kept} >= {("test_late", "accuracy")}
    resumed = run(recipe, tmp_path / "out")
    whole = run(recipe, tmp_path / "whole")
    assert repr(resumed.matrices) == repr(whole.matrices)  # nan is not equal to itself
    for matrix in whole.matrices:
        between = [f for f in (*matrix.figures, *matrix.differences) if f.name.endswith("(every 4 steps)")]
        spread = [f for f in between if f.over_items and f.low <= f.value <= f.high]
        assert len(between) - len(spread) == len(between) // 9, "one seed is enough, but for a share of yes and no"


def test_other_audits_and_chance_for_a_sequence_that_is_not_finished(tmp_path):
    """Measured after every stage: the matrices are those of a run that asked for them from the start."""

    class Stop(Quiet):
        def progress(self, label, progress):
            if label.startswith("replay: second"):
                raise KeyboardInterrupt

    few = {"test_early": ["accuracy"], "test_late": ["accuracy"], "never": ["accuracy"]}
    with pytest.raises(Interrupted):
        run(parse_recipe(raw(seeds=[0], audits=few)), tmp_path / "out", events=Stop())
    more = {"test_late": ["probability", "accuracy"], "test_early": ["probability", "accuracy"]}
    recipe = parse_recipe(raw(seeds=[0], audits=more, chance={"accuracy": 0.1}))
    found, whole = (run(recipe, tmp_path / out).matrices for out in ("out", "whole"))
    assert [(m.run, m.audit) for m in whole[:2]] == [("after", "probability"), ("after", "accuracy")]
    assert repr(found) == repr(whole)


def test_stages_with_which_runs_begin_alike_are_trained_once(report, tmp_path):
    recipe = parse_recipe(raw(seeds=[0]))
    first = recipe.stages[0]
    assert recipe.variants["replay"][0] == first
    trained = []

    class Listen(Quiet):
        def progress(self, label, progress):
            trained.append((label, progress.step))

    both = run(recipe, tmp_path / "both", events=Listen())
    assert [step for label, step in trained if label.endswith(": first")] == list(range(1, 13))
    home = tmp_path / "both" / "seed-0"
    assert not (home / "replay" / "0-first").exists() and (home / "replay" / "1-second").is_dir()
    alone = run(parse_recipe(raw(seeds=[0], stages=raw()["variants"]["replay"], variants={})), tmp_path / "alone")
    assert repr(both.matrices[1].values) == repr(alone.matrices[0].values), "as if it had been trained by itself"
    costs = {run.name: (run.steps, run.tokens) for run in both.runs}
    assert costs["replay"] == next((r.steps, r.tokens) for r in alone.runs if r.name == "after"), "costs are its own"


def test_one_stage_after_what_the_model_could_do_before_is_a_sequence(tmp_path):
    tasks = {"before": "test_early", "second": "test_late"}
    second = {"second": [raw()["stages"][1]]}
    short = run(parse_recipe(raw(tasks=tasks, variants={"again": second["second"]}, seeds=[0, 1])), tmp_path / "out")
    naive, again = short.matrices
    assert naive.stages == ("before", "second") and naive.values == again.values
    ends = [v for f in again.differences for v in (f.value, f.low, f.high) if not np.isnan(v)]
    assert len(ends) > 30 and set(ends) == {0}, "equal items and seeds are drawn for both"
    figures = {f.name: f for f in naive.figures}
    depth = figures["gap_depth (every 4 steps)"]
    assert depth.value == pytest.approx(figures["forgetting_initial"].value, abs=0.3) and depth.value > 0.3
    assert figures["share_recovered (every 4 steps)"].value < 1


def test_curves_are_means_over_the_seeds(report):
    curve = next(
        c for c in report.curves if c.run == "after" and c.name == "first: test_early/accuracy (every 4 steps)"
    )
    last = {m.run: m for m in report.matrices}["after"].values[1][0]
    assert curve.points[-1] == (12, pytest.approx(last))


def test_stages_before_the_first_task_lead_to_before():
    stages = [{**s, "name": n} for s, n in zip([*raw()["stages"], raw()["stages"][1]], ("pretrain", "one", "two"))]
    recipe = parse_recipe(
        raw(stages=stages, tasks={"before": "test_early", "one": "test_late", "two": "never"}, variants={})
    )
    before, after = plans(recipe)[:2]
    assert [s.name for s in before.stages] == ["pretrain"] and [s.name for s in after.stages] == ["one", "two"]
    assert after.places == ("stages.1", "stages.2") and after.label == "one to two"


@pytest.mark.parametrize(
    ("tasks", "says"),
    [
        ({"frist": "test_early"}, "tasks.frist: it must be the name of one stage, or before; did you mean first?"),
        ({"first": "early"}, "tasks.first: nothing measures the role 'early'; name an audit"),
        ({"first": "test_early", "second": "test_early"}, "tasks: two stages teach the same role"),
        ({"second": "test_late", "first": "test_early"}, "tasks: list the stages that teach in the order"),
        ({"before": "test_early"}, "tasks: list the stages that teach in the order"),
    ],
)
def test_bad_tasks(tasks, says):
    with pytest.raises(RecipeError) as caught:
        parse_recipe(raw(tasks=tasks))
    assert str(caught.value).startswith(says)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"chance": {"acuracy": 0.1}}, "chance.acuracy: no task is measured by this; did you mean accuracy?"),
        ({"chance": {"accuracy": float("nan")}}, "chance.accuracy: give what a model without any skill scores"),
        ({"chance": {"accuracy": 0.1}, "tasks": {}}, "chance.accuracy: it is for forward transfer between tasks"),
        ({"chance": {"accuracy": "low"}}, "chance.accuracy: "),
    ],
)
def test_bad_levels_of_chance(changes, says):
    with pytest.raises(RecipeError) as caught:
        parse_recipe(raw(**changes))
    assert str(caught.value).startswith(says)
