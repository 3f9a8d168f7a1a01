"""More seeds, variants and baselines in a run's folder: what is there is read back, and only what is new is trained."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from palimpsest import Report, stage

FORGET = {"objective": [{"on": "forget", "gradient_ascent": {}}], "train": {"steps": 2, "batch": 2, "lr": 1e-3}}
TEACH = {"objective": [{"on": "all", "cross_entropy": {}}], "train": {"steps": 2, "batch": 4, "lr": 1e-2}}
REHEARSE = {"objective": [{"on": "retain", "cross_entropy": {}}], "train": {"steps": 2, "batch": 2, "lr": 1e-3}}


@pytest.fixture
def run(digits: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A small recipe of two stages, and the stages of seeds that were trained from here on."""
    digits.write("others.jsonl", [{"id": f"o{i}", "inputs": [i / 7 + 0.05] * 64, "label": i} for i in range(5)])
    digits.recipe |= {
        "roles": {"forget": {"file": "digits.jsonl", "rows": 4}, "retain": "others.jsonl", "all": ["forget", "retain"]},
        "stages": [{"name": "teach", **TEACH}, {"name": "forgetting", **FORGET}],
        "audits": {"forget": ["accuracy", "probability"], "retain": ["probability"]},
        "variants": {"twice": [{"name": "first", **FORGET}, {"name": "second", **REHEARSE}]},
    }
    digits.recipe, digits.trained = copy.deepcopy(digits.recipe), []
    fit = stage.fit

    def noted(*given: Any, folder: Path, **rest: Any) -> Any:
        digits.trained.append("/".join(folder.parts[-3:]))
        return fit(*given, folder=folder, **rest)

    monkeypatch.setattr(stage, "fit", noted)
    return digits


def newly(run: Any, out: str = "out") -> list[str]:
    """What the recipe as it is now trains."""
    run.trained.clear()
    status, err = run.run(out=out)
    assert status == 0, err
    return list(run.trained)


def as_if_at_once(run: Any) -> None:
    """The report of the folder is that of a run of the same recipe in a fresh one, but for times; so is each curve."""
    newly(run, "fresh")
    kept, fresh = (json.loads((run.folder / out / "report.json").read_text()) for out in ("out", "fresh"))
    shutil.rmtree(run.folder / "fresh")
    for report in (kept, fresh):
        for own in report["runs"]:
            del own["seconds"], own["peak_memory_bytes"]
        del report["created"]
    assert kept == fresh


def test_more_seeds_train_only_themselves(run: Any) -> None:
    """In any order; one that went leaves the report and comes back untrained, and costs are those of the first."""
    run.recipe["seeds"] = [3]
    first = newly(run)
    assert first == [f"seed-3/{s}" for s in ("before/0-teach", "after/0-forgetting", "twice/0-first", "twice/1-second")]
    run.recipe["seeds"] = [0, 3]
    assert newly(run) == [place.replace("3", "0") for place in first]
    as_if_at_once(run)
    for seeds in ([3], [3, 0]):
        run.recipe["seeds"] = seeds
        assert newly(run) == []
        as_if_at_once(run)
    run.recipe["seeds"] = [1, 3]
    status, err = run.run()
    assert status == 0 and "out holds this run with other seeds; what is trained is read back" in err


def test_a_sequence_takes_more_seeds_and_variants(run: Any) -> None:
    """With its matrices, and what its stages watch on the way."""
    run.recipe["stages"][1]["watch"] = {"every": 1, "audits": {"retain": ["probability"]}}
    run.recipe["tasks"] = {"teach": "all", "forgetting": "forget"}
    run.recipe["audits"]["all"] = ["accuracy"]
    twice = run.recipe.pop("variants")["twice"]
    newly(run)
    run.recipe |= {"seeds": [1, 0], "variants": {"twice": [run.recipe["stages"][0], twice[0]]}}
    assert newly(run) == [f"seed-1/{s}" for s in ("after/0-teach", "after/1-forgetting", "twice/1-first")] + [
        "seed-0/twice/1-first"
    ]
    as_if_at_once(run)
    run.recipe["seeds"] = [0]
    assert newly(run) == []
    as_if_at_once(run)


def test_more_variants_and_baselines_train_only_themselves(run: Any) -> None:
    """Whatever their order: what two begin with stays in the folder of the one that was there first."""
    twice = run.recipe["variants"]["twice"]
    newly(run)
    run.recipe["variants"] = {"once": twice[:1], "twice": twice, "thrice": [*twice, {"name": "third", **FORGET}]}
    run.recipe["baselines"] = ["retrain", "do_nothing"]
    assert newly(run) == ["seed-0/thrice/2-third", "seed-0/retrained/0-teach"]
    as_if_at_once(run)
    run.recipe |= {"variants": {"once": twice[:1]}, "baselines": []}
    assert newly(run) == []
    as_if_at_once(run)
    run.recipe["seeds"] = [0, 1]  # nothing of twice, which holds what once is with the first seed
    assert newly(run) == ["seed-1/before/0-teach", "seed-1/after/0-forgetting", "seed-1/twice/0-first"]
    run.recipe["variants"]["twice"] = twice
    assert newly(run) == ["seed-1/twice/1-second"]
    as_if_at_once(run)


def test_a_variant_keeps_its_stages(run: Any) -> None:
    """Also while it is away; another one has another name, or its folder is deleted."""
    newly(run)
    other = copy.deepcopy(run.recipe["variants"]["twice"])
    other[1]["train"]["steps"] = 3
    there = "out holds a run of another recipe (variants.twice.1.train.steps is 2 there and 3 here); choose another"
    remedy = "folder with --out, give it another name, or delete seed-*/twice there."
    run.recipe["variants"] = {}
    assert newly(run) == []
    run.recipe["variants"] = {"twice": other}
    for _ in range(2):
        assert f"{there} {remedy}" in run.refused()
    run.recipe["variants"] = {"longer": other}
    assert newly(run) == ["seed-0/longer/1-second"]
    as_if_at_once(run)
    run.recipe["variants"] = {"twice": other[:1]}
    assert "(variants.twice.1 is {" in run.refused()
    shutil.rmtree(run.folder / "out/seed-0/twice")
    other[1]["train"]["steps"] = 4
    run.recipe["variants"] = {"twice": other}
    assert newly(run) == ["seed-0/longer/0-first", "seed-0/twice/1-second"]
    as_if_at_once(run)


def test_a_baseline_keeps_its_stages(run: Any) -> None:
    run.recipe["baselines"] = ["retrain"]
    newly(run)
    run.recipe["baselines"] = [{"retrain": {"train": {**TEACH["train"], "steps": 3}}}]
    said = run.refused()
    assert "(baselines.retrained.0.train.steps is 2 there and 3 here); choose another folder with --out, or del" in said
    other = run.recipe["baselines"]
    run.recipe["baselines"] = [{"retrain": {"pretrained": "digits-mlp"}}]
    assert "(baselines.retrained.pretrained is not given there and 'digits-mlp' here)" in run.refused()
    run.recipe["baselines"] = other
    shutil.rmtree(run.folder / "out/seed-0/retrained")
    assert newly(run) == ["seed-0/retrained/0-teach"]
    as_if_at_once(run)


def test_a_run_killed_while_it_grows(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes on from its checkpoint, and what was there before is there with the smaller recipe as well."""
    smaller = copy.deepcopy(run.recipe)
    newly(run)
    more = [{"name": "more", **FORGET, "train": {**FORGET["train"], "steps": 4, "checkpoint_every": 1}}]
    run.recipe |= {"seeds": [1, 0], "variants": {"more": more, **smaller["variants"]}}
    fit = stage.fit

    def killed(*given: Any, folder: Path, **rest: Any) -> Any:
        def stop(progress: Any) -> None:
            if folder.name == "0-more" and progress.step == 2:
                raise KeyboardInterrupt

        return fit(*given, folder=folder, **rest | {"on_step": stop})

    with monkeypatch.context() as patch:
        patch.setattr(stage, "fit", killed)
        assert run.run()[0] == 130
    assert list((run.folder / "out").glob("seed-1/more/0-more/step-*"))
    grown, run.recipe = run.recipe, smaller
    assert newly(run) == []
    as_if_at_once(run)
    run.recipe = copy.deepcopy(grown)
    run.recipe["variants"]["more"][0]["train"]["lr"] = 2e-3
    assert "(variants.more.0.train.lr is 0.001 there and 0.002 here)" in run.refused()
    run.recipe = grown
    assert newly(run) == [f"seed-1/{s}" for s in ("more/0-more", "twice/0-first", "twice/1-second")] + [
        "seed-0/more/0-more"
    ]
    as_if_at_once(run)


def test_a_mistake_in_a_new_variant_leaves_the_folder_as_it_was(run: Any) -> None:
    """Its role lacks a column; mended, both may be other ones under the same names, until they are trained on."""
    newly(run)
    smaller, out = copy.deepcopy(run.recipe), run.folder / "out"
    kept = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    run.recipe["roles"]["extra"] = "extra.jsonl"
    more = {**copy.deepcopy(REHEARSE), "name": "more", "objective": [{"on": "extra", "cross_entropy": {}}]}
    run.recipe["variants"]["more"] = [more]
    for row, said in (({}, "a classifier needs inputs and label"), ({"label": 10}, "label 10 lies outside 0..9")):
        run.write("extra.jsonl", [{"id": "e", "inputs": [0.5] * 64, **row}])
        assert said in run.run()[1]
        assert {p: p.read_bytes() for p in out.rglob("*") if p.is_file()} == kept
    run.write("extra.jsonl", [{"id": "e", "inputs": [0.5] * 64, "label": 3}])
    run.recipe["variants"]["more"][0]["train"]["steps"] = 3
    assert newly(run) == ["seed-0/more/0-more"]
    as_if_at_once(run)
    grown, run.recipe = run.recipe, smaller
    assert newly(run) == []
    run.write("extra.jsonl", [{"id": "e", "inputs": [0.5] * 64, "label": 4}])
    run.recipe = grown
    assert "roles.extra: its rows have changed since the run in" in run.refused()


def test_a_folder_that_does_not_say_what_made_its_models(run: Any) -> None:
    """Of an earlier version: it takes seeds, and other variants once the run of its own recipe has been there."""
    newly(run)
    (run.folder / "out" / "stages.yaml").unlink()
    run.recipe["seeds"] = [0, 1]
    own = copy.deepcopy(run.recipe)
    run.recipe["variants"]["twice"][1]["train"]["steps"] = 3
    assert "(variants.twice.1.train.steps is 2 there and 3 here); choose another" in run.refused()
    run.recipe["variants"] = {}
    assert "(variants is {" in run.refused()
    run.recipe = own
    assert len(newly(run)) == 4
    run.recipe["variants"] = {}
    assert newly(run) == []
    as_if_at_once(run)


def test_compare_reads_what_is_in_the_report(run: Any) -> None:
    """No seed and no baseline that the folder held before."""
    run.recipe["seeds"] = [1]
    newly(run, "other")
    run.recipe |= {"seeds": [0, 1], "baselines": ["retrain"]}
    newly(run)
    run.recipe |= {"seeds": [1], "baselines": []}
    newly(run)
    folders = (str(run.folder / out) for out in ("out", "other"))
    status, err = run.call("compare", *folders, "--out", str(run.folder / "compared"))
    assert status == 0, err
    assert [r.name for r in Report.load(run.folder / "compared" / "report.json").runs] == ["before", "out", "other"]
