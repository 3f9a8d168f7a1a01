"""The README's snippets run as they stand, one after the other, and keep their promise of ten lines."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import re
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn

from palimpsest import Training, fit
from palimpsest.recipe_source import load_recipe, parse_recipe
from palimpsest.yaml_text import parse

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.S)


WISHES = {
    "Change one loss term.": r"class Focal\(Objective\)",
    "A different loss for each data set, forget and retain together.": r'on\("forget", .*\) \+ .* on\("retain", ',
    "In your own loop.": r"losses\.total\.backward\(\)",
    "A reference model that costs no memory and no forward pass.": r"cache\(roles, model, ",
    "The same numbers for any batch split and any number of processes.": r"accumulation=2",
    "Before and after, paired.": r"paired_bootstrap\(before, after\)",
    "An edit undone.": r"with patch\.applied\(model\):",
}
"""What users of other libraries ask for, as the README heads it, and what its snippet shows."""


@pytest.fixture(scope="module")
def shown() -> dict[str, Any]:
    """The names of all snippets, run one after the other, with ``printed`` and the weights ``before`` each of them."""
    module, printed, before = types.ModuleType("readme"), io.StringIO(), {}
    names = vars(module)
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.setitem(sys.modules, "readme", module)
        for snippet in blocks("python"):
            before[snippet] = weights(names["model"]) if "model" in names else {}
            exec(compile(snippet.replace("smollm2-135m", "tiny-llama"), "README.md", "exec"), names)
    return {**names, "printed": printed.getvalue(), "before": before}


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def before(shown: dict[str, Any], words: str) -> dict[str, torch.Tensor]:
    """The weights before the snippet that holds ``words``."""
    (found,) = (state for snippet, state in shown["before"].items() if words in snippet)
    return found


@pytest.mark.parametrize("wish", WISHES)
def test_each_wish_has_its_snippet(wish: str) -> None:
    found = re.search(rf"\*\*{re.escape(wish)}\*\*[^`]*(?:`[^`\n]+`[^`]*)*```python\n(.*?)```", README, re.S)
    assert found is not None, wish
    assert re.search(WISHES[wish], found[1]), found[1]


def test_snippets_run_and_do_what_the_text_says(shown: dict[str, Any]) -> None:
    assert shown["printed"].startswith("Interval(value=")
    assert shown["result"].steps == 2
    assert set(shown["result"].curves) == {"forget/npo", "retain/Focal", "retain/kl_to_reference"}
    assert set(shown["reference"].columns) == {"forget", "retain"} and shown["reference"].head is not None


def test_the_part_that_stands_alone_follows_its_schedule(shown: dict[str, Any]) -> None:
    optimizer, scheduler = shown["optimizer"], shown["scheduler"]
    assert type(optimizer).__name__ == "Fira" and optimizer.param_groups[0]["lr"] == 0.0  # its warm-up begins
    x, rates = torch.randn(8, 64), []
    for _ in range(100):
        shown["net"]["head"](shown["net"]["mlp"](x)).square().mean().backward()
        optimizer.step()
        scheduler.step()
        rates.append(optimizer.param_groups[0]["lr"])
    assert max(rates) == 0.01 and rates[-2] < 0.002


def test_the_batch_split_of_the_snippet_changes_nothing(shown: dict[str, Any]) -> None:
    """The snippet's two micro-batches a step, held against one."""
    model = copy.deepcopy(shown["model"])
    model.load_state_dict(before(shown, "result = fit("))
    training = Training(steps=2, batch=4, lr=1e-5)
    result = fit(model, shown["roles"], shown["objective"], training, reference=shown["reference"], seed=0)
    whole, split = weights(model), before(shown, "paired_bootstrap")
    for name, value in whole.items():
        torch.testing.assert_close(value, split[name], rtol=0, atol=2e-7)
    for name, points in result.curves.items():
        assert [v for _, v in points] == pytest.approx([v for _, v in shown["result"].curves[name]], rel=1e-5, abs=1e-6)


def test_the_micro_batches_of_ones_own_loop_change_nothing(shown: dict[str, Any]) -> None:
    """The snippet again, with two micro-batches and with one, by the gradient at its step."""
    (snippet,) = (text for text in blocks("python") if "prepare(learned" in text)
    unstepped, found = snippet.replace("optimizer.step(), optimizer.zero_grad()", ""), []
    for accumulation in (2, 1):
        names = {**shown, "model": copy.deepcopy(shown["model"])}
        names["model"].zero_grad()
        exec(compile(unstepped.replace("accumulation=2", f"accumulation={accumulation}"), "README.md", "exec"), names)
        assert len(names["batches"]) == accumulation
        found.append({name: p.grad for name, p in names["model"].named_parameters()})
    for name, value in found[0].items():
        torch.testing.assert_close(value, found[1][name], rtol=1e-4, atol=1e-6)


def test_the_edit_of_the_snippet_is_undone_to_the_last_bit(shown: dict[str, Any]) -> None:
    model, state = shown["model"], before(shown, "patch.applied")
    entries = model.get_parameter("model.norm.weight").numel()
    assert shown["patch"].norms == {"model.norm.weight": pytest.approx(0.1 * entries**0.5)}
    assert len(shown["changed"]) == 1 and isinstance(shown["changed"][0], str)
    assert all(torch.equal(value, state[name]) for name, value in weights(model).items())


def test_snippets_are_at_most_ten_lines() -> None:
    for snippet in [*blocks("python"), *blocks("yaml")]:
        assert len([line for line in snippet.splitlines() if line.strip()]) <= 10, snippet


def test_the_recipe_is_valid() -> None:
    text, excerpt = blocks("yaml")
    assert parse_recipe(parse(text)).stages[0].objective[0]["npo"] == {"beta": 0.1}
    assert excerpt in (ROOT / "recipes" / "two-tasks.yaml").read_text(encoding="utf-8")


def test_the_recipes_folder_is_valid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for text in ("german.jsonl", "legal.jsonl"):
        (tmp_path / text).touch()  # what is not shipped; whether it is there is asked first
    files = sorted((ROOT / "recipes").glob("*.*"))
    assert {file.suffix for file in files} == {".yaml", ".py"}
    for file in files:
        assert load_recipe(file, allow_imports=True).name == file.stem


def test_named_files_and_commands_exist() -> None:
    for link in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / link).exists(), link
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    assert set(re.findall(r"(?:^|`)make ([a-z]+)", README, re.M)) <= targets
    assert yaml.safe_load(README.split("```yaml\n")[1].split("```")[0])["train"]["batch"] == 32


def test_the_table_of_findings_is_that_of_its_study() -> None:
    study = json.loads((ROOT / "results" / "studies" / "tofu-small.json").read_text(encoding="utf-8"))
    scores = {(s["run"], s["role"]): s for s in study["scores"] if s["audit"] == "rouge"}
    names = {"before": "taught, nothing forgotten", "retrained": "retrained without them"}
    runs = {names.get(run["name"], run["label"]): run["name"] for run in study["runs"]}
    lines = README.partition("## What it finds")[2].partition("\n## ")[0].splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")][1:]
    assert {row[0] for row in rows} == set(runs) - {"do nothing"}
    for label, *cells in rows:
        for role, cell in zip(("forget", "known"), cells, strict=True):
            score = scores[runs[label], role]
            assert cell == f"{score['value']:.2f} ({score['low']:.2f} to {score['high']:.2f})" and score["n"] == 40
