"""The README's snippets run as they stand, one after the other, and keep their promise of ten lines."""

from __future__ import annotations

import re
import sys
import types
from pathlib import Path

import pytest
import yaml

from palimpsest.recipe import load_recipe, parse_recipe
from palimpsest.yaml_text import parse

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.S)


def test_snippets_run_and_do_what_the_text_says(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = types.ModuleType("readme")
    monkeypatch.setitem(sys.modules, "readme", module)
    names = vars(module)
    for snippet in blocks("python"):
        exec(compile(snippet.replace("smollm2-135m", "tiny-llama"), "README.md", "exec"), names)
    printed = capsys.readouterr().out
    assert printed.startswith("Interval(value=")
    result, model = names["result"], names["model"]
    assert result.steps == 2
    assert set(result.curves) == {"forget/npo", "retain/Focal", "retain/kl_to_reference"}
    changed = names["patch"].norms
    entries = model.get_parameter("model.norm.weight").numel()
    assert changed == {"model.norm.weight": pytest.approx(0.1 * entries**0.5)}


def test_snippets_are_at_most_ten_lines() -> None:
    for snippet in [*blocks("python"), *blocks("yaml")]:
        assert len([line for line in snippet.splitlines() if line.strip()]) <= 10, snippet


def test_the_recipe_is_valid() -> None:
    text, excerpt = blocks("yaml")
    assert parse_recipe(parse(text)).stages[0].objective[0]["npo"] == {"beta": 0.1}
    assert excerpt in (ROOT / "recipes" / "two-tasks.yaml").read_text(encoding="utf-8")


def test_the_recipes_folder_is_valid() -> None:
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
