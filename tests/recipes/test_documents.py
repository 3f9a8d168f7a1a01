"""The recipe for long documents on the page about recipes: cut before anything else, and measured piece by piece."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from palimpsest.loaded import load_model
from palimpsest.recipe import RecipeError
from palimpsest.recipe_check import check
from palimpsest.recipe_source import parse_recipe
from palimpsest.role_data import fingerprints, load_roles
from palimpsest.run import run
from palimpsest.yaml_text import parse
from palimpsest.zoo.models import tiny_llama

PAGE = (Path(__file__).parents[2] / "docs" / "recipes.md").read_text(encoding="utf-8")
Rows = list[dict[str, Any]]


def document(key: str, words: int) -> dict[str, Any]:
    return {"id": key, "text": " ".join(f"{key} {i * i % 13}" for i in range(words))}


NOTES = [document("long", 60), document("short", 3), document("longer", 90)]


def written(folder: Path, name: str, rows: Rows) -> None:
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture
def recipe(tmp_path: Path) -> dict[str, Any]:
    """The page's own, for a model of a few weights, short rows and two steps."""
    for part in tiny_llama(400, 2, 32):
        part.save_pretrained(tmp_path / "my-model")
    written(tmp_path, "notes.jsonl", NOTES)
    written(tmp_path, "other-notes.jsonl", [document("other", 50)])
    (block,) = (b for b in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL) if "name: notes" in b)
    found: dict[str, Any] = parse(block)
    found["model"] |= {"pretrained": str(tmp_path / "my-model"), "max_length": 48}
    found["train"] = {"steps": 2, "batch": 4, "lr": 1e-3}
    return found


def test_long_documents_are_trained_on_and_measured_in_pieces(recipe: dict[str, Any], tmp_path: Path) -> None:
    rows, _ = load_roles(parse_recipe(recipe), tmp_path)
    run(parse_recipe(recipe), tmp_path / "out", folder=tmp_path)
    lines = [json.loads(x) for x in (tmp_path / "out/seed-0/after/scores.jsonl").read_text().splitlines()]
    pieces = [str(row["id"]) for row in rows["held out"]]
    assert len(pieces) > 2 and pieces == [f"other#{i + 1}" for i in range(len(pieces))]
    assert all(piece in json.dumps(lines) for piece in pieces)
    run(parse_recipe(recipe), tmp_path / "out", folder=tmp_path)  # the data of a finished run is known again


def test_every_document_is_whole_again_and_ends_once(recipe: dict[str, Any], tmp_path: Path) -> None:
    parsed = parse_recipe(recipe)
    rows = load_roles(parsed, tmp_path)[0]["notes"]
    adapter = load_model(parsed).adapter
    for whole in NOTES:
        own = [row for row in rows if str(row["id"]).partition("#")[0] == whole["id"]]
        assert "".join(row["text"] for row in own) == whole["text"]
        assert (len(own) == 1) == (whole["id"] == "short"), "only what is too long is cut"
        ids = [adapter.encode(row)["input_ids"].tolist() for row in own]
        assert max(map(len, ids)) <= 48
        assert [i[-1] == adapter.tokenizer.eos_token_id for i in ids] == [False] * (len(own) - 1) + [True]


def test_another_length_makes_other_rows(recipe: dict[str, Any], tmp_path: Path) -> None:
    found = []
    for length in (48, 64):
        recipe["model"]["max_length"] = length
        found.append(fingerprints(*load_roles(parse_recipe(recipe), tmp_path)))
    assert found[0]["notes"] != found[1]["notes"]


def test_a_mix_counts_pieces(recipe: dict[str, Any], tmp_path: Path) -> None:
    recipe["roles"]["stream"] = {"mix": {"notes": 0.5, "held out": 0.5}, "rows": 6}
    rows, _ = load_roles(parse_recipe(recipe), tmp_path)
    known = {str(row["id"]) for role in ("notes", "held out") for row in rows[role]}
    assert len(rows["stream"]) == 6 and {str(row["id"]) for row in rows["stream"]} <= known


def test_a_piece_that_is_trained_on_is_no_measurement(recipe: dict[str, Any], tmp_path: Path) -> None:
    written(tmp_path, "other-notes.jsonl", NOTES[:1])
    with pytest.raises(
        RecipeError, match=r"audits\.held out: \d+ of its rows, such as 'long#1', also stand in the trai"
    ):
        run(parse_recipe(recipe), tmp_path / "out", folder=tmp_path)


def test_without_it_a_long_row_is_refused(recipe: dict[str, Any], tmp_path: Path) -> None:
    recipe["roles"]["notes"]["split"] = False
    with pytest.raises(
        RecipeError, match=r"roles\.notes: notes row 1 has \d+ tokens, but max_length is 48; .* \(split: true in a file"
    ):
        run(parse_recipe(recipe), tmp_path / "out", folder=tmp_path)


def test_only_texts_of_language_models_are_cut(recipe: dict[str, Any], tmp_path: Path) -> None:
    written(tmp_path, "notes.jsonl", [NOTES[1], {"prompt": "a", "completion": "b"}])
    with pytest.raises(RecipeError, match=r"roles\.notes: notes row 2 is no plain text, and only such rows can be cut"):
        load_roles(parse_recipe(recipe), tmp_path)
    recipe["roles"]["notes"]["split"] = "tokens"
    with pytest.raises(RecipeError, match=r"roles\.notes\.split: write true or false, not 'tokens'\."):
        check(parse_recipe(recipe))
    recipe["roles"]["notes"]["split"] = True
    recipe["model"] = {"pretrained": "mlp", "adapter": "classifier"}
    with pytest.raises(
        RecipeError, match=r"roles\.notes\.split: only rows of a language model have tokens; remove it\."
    ):
        check(parse_recipe(recipe))
