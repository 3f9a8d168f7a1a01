"""``palimpsest new`` writes files that a person can fill in, and whose test fails until that is done."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from palimpsest import cli
from palimpsest.blanks import write_blanks
from palimpsest.card import parse_card
from palimpsest.names import FAMILIES, build
from palimpsest.objective import on


@pytest.fixture
def checkout(tmp_path):
    (tmp_path / "src" / "palimpsest" / "objectives").mkdir(parents=True)
    (tmp_path / "src" / "palimpsest" / "objectives" / "__init__.py").write_text('"""Losses."""\n')
    return tmp_path


@pytest.fixture
def load(monkeypatch):
    def load(path: Path):
        spec = importlib.util.spec_from_file_location(path.stem, path)
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, path.stem, module)  # dataclasses look their module up
        spec.loader.exec_module(module)
        return module

    return load


@pytest.mark.parametrize("noun", FAMILIES)
def test_every_noun_has_blanks_that_import_and_carry_a_card(noun, checkout, load):
    method, test, *_ = write_blanks(noun, "my_method", checkout)
    assert method == checkout / "src" / "palimpsest" / noun / "my_method.py"
    assert test == checkout / "tests" / "methods" / "test_my_method.py"
    module = load(method)
    assert module.METHOD is module.MyMethod
    card = parse_card(module.__doc__)
    for field in ("summary", "equation", "paper", "code", "tags", "needs", "differs", "see"):
        assert "<" in str(getattr(card, field)), f"the card's {field} is not a blank"
    ast.parse(test.read_text())


def run_tests(test: Path, checkout: Path) -> subprocess.CompletedProcess[str]:
    """The written test, against a package in which the checkout's folder is found as ``palimpsest.objectives``."""
    (checkout / "conftest.py").write_text(
        "import palimpsest.objectives\n"
        f"palimpsest.objectives.__path__.insert(0, {str(checkout / 'src' / 'palimpsest' / 'objectives')!r})\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(checkout), str(test)]
    return subprocess.run(command, capture_output=True, text=True, cwd=checkout)


def test_the_written_test_fails_until_both_are_filled(checkout):
    method, test = write_blanks("objectives", "my_loss", checkout)
    done = run_tests(test, checkout)
    assert done.returncode == 1
    assert "2 failed" in done.stdout
    assert "objectives/my_loss.py still has the blank <One plain sentence" in done.stdout
    assert "No value of MyLoss is tested yet" in done.stdout
    method.write_text('"""Filled."""\n\n\ndef my_loss(x):\n    return 2 * x\n\n\nMETHOD = my_loss\n')
    assert "1 failed" in run_tests(test, checkout).stdout
    filled = test.read_text().replace("expected, found = 0.0, None", "expected, found = 2.0, my_loss.my_loss(1)")
    test.write_text(filled)
    done = run_tests(test, checkout)
    assert done.returncode == 0 and "2 passed" in done.stdout


def test_existing_files_are_never_overwritten(checkout):
    method, _ = write_blanks("objectives", "my_loss", checkout)
    method.write_text("mine")
    with pytest.raises(FileExistsError, match=r"my_loss\.py exists already"):
        write_blanks("objectives", "my_loss", checkout)
    assert method.read_text() == "mine"
    method.unlink()
    with pytest.raises(FileExistsError, match=r"test_my_loss\.py exists already"):
        write_blanks("objectives", "my_loss", checkout)
    assert not method.exists(), "a file was written although the other one was in the way"


NAMES = ("MyLoss", "my-loss", "my loss", "1loss", "_loss", "my__loss", "loss_", "", "../x", "class", "é")


@pytest.mark.parametrize("name", NAMES)
def test_names_that_are_not_snake_case_are_refused(name, checkout):
    with pytest.raises(ValueError, match="snake case"):
        write_blanks("objectives", name, checkout)


@pytest.mark.parametrize(
    ("noun", "says"), [("objective", "did you mean objectives"), ("x", "there are: objectives, edits")]
)
def test_an_unknown_noun_names_those_there_are(noun, says, checkout):
    with pytest.raises(ValueError, match=says):
        write_blanks(noun, "my_loss", checkout)


def test_in_a_folder_that_is_no_checkout_they_lie_beside_the_recipes(tmp_path, monkeypatch, capsys):
    """The class is one that a recipe can name, and the test there fails until both are filled."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert cli.main(["new", "objectives", "loss_of_mine"]) == 0
    printed = capsys.readouterr().out
    assert "names it as loss_of_mine:LossOfMine, with --allow-imports" in printed and printed.endswith(
        "pytest test_loss_of_mine.py\n"
    )
    assert sorted(p.name for p in tmp_path.iterdir()) == ["loss_of_mine.py", "test_loss_of_mine.py"]
    method = build("loss_of_mine:LossOfMine", "objectives", allow_imports=True)
    assert on("task", method).name == "task/LossOfMine"
    done = run_tests(tmp_path / "test_loss_of_mine.py", tmp_path)
    assert "2 failed" in done.stdout and "loss_of_mine.py still has the blank <One plain sentence" in done.stdout


def test_the_verb_says_what_it_wrote(checkout, monkeypatch, capsys):
    monkeypatch.chdir(checkout)
    assert cli.main(["new", "laws", "my_law"]) == 0
    printed = capsys.readouterr().out
    assert "src/palimpsest/laws/my_law.py" in printed and "tests/methods/test_my_law.py" in printed
    assert (checkout / "src" / "palimpsest" / "laws" / "__init__.py").exists()
