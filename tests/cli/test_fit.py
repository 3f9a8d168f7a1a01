"""``palimpsest fit``: what it asks for, what it says, and the example of the documentation."""

from __future__ import annotations

import argparse
import re
import shlex
from pathlib import Path

import pytest

from palimpsest.cli import main, parser
from palimpsest.laws.power_law import PowerLaw

PAGE = (Path(__file__).parents[2] / "docs" / "recipes.md").read_text(encoding="utf-8")
TABLE = "size,loss\n1e5,2.97\n2e5,2.74\n5e5,2.47\n1e6,2.33\n2e6,2.21\n"


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Five runs, in columns of the law's own names."""
    file = tmp_path / "table.csv"
    file.write_text(TABLE.replace("size", "x"))
    return file


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["fit", *arguments]) == 2
    said = capsys.readouterr().err.strip()
    assert "\n" not in said and "role" not in said and "recipe" not in said
    return said


def test_the_example_of_the_documentation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    section = PAGE.partition("## A law through several runs")[2].partition("\n## ")[0]
    rows, command, printed = re.findall(r"```(?:csv|text|)\n(.*?)```", section, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    Path("sizes.csv").write_text(rows)
    program, *arguments = shlex.split(command)
    assert program == "palimpsest" and main(arguments) == 0
    assert capsys.readouterr().out == printed


def test_the_help_names_the_columns() -> None:
    (verbs,) = [a for a in parser()._actions if isinstance(a, argparse._SubParsersAction)]
    said = " ".join(verbs.choices["fit"].format_help().split())
    law = PowerLaw()
    assert f"power_law reads its {law.variable} and {law.target}" in said and "loss = E + A x^-alpha" in said


def test_every_point_is_predicted_and_named(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", str(table), "--predict", "x=1e9", "--predict", "x=1e10"]) == 0
    lines = capsys.readouterr().out.splitlines()[-2:]
    assert [line.partition(" = ")[0] for line in lines] == ["at x=1e9: loss", "at x=1e10: loss"]
    assert lines[0].partition(" = ")[2] != lines[1].partition(" = ")[2]


def test_columns_of_other_names(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", str(table)]) == 0
    usual = capsys.readouterr().out
    table.write_text(TABLE)
    assert main(["fit", str(table), "--law", "{power_law: {variable: size}}", "--predict", "size=1e7"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(usual.replace("x^-", "size^-")) and "at size=1e7: loss = " in out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--predict", "x=1,x=2"], r"--predict x=1,x=2: it gives x twice; write --predict once for each point\."),
        (["--predict", "y=1"], r"--predict y=1: the law's variables are x\."),
        (["--predict", "x=many"], r"--predict x=many: write it as variable=number\."),
        (
            ["--law", "{power_law: {variabel: size}}"],
            r"--law: power_law has no field 'variabel'; it has: variable, tar",
        ),
        (["--law", "powerlaw"], r"--law: There is no law 'powerlaw'; did you mean 'power_law'"),
        (["--law", "[a"], r"--law \[a: this is not YAML \(.*\); write a law's name\."),
        (["--law", "{power_law: {variable: size}}"], r"needs the column 'size', which row 1 of the table lacks"),
    ],
)
def test_what_cannot_be_is_one_sentence(
    arguments: list[str], says: str, table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert re.search(says, refused([str(table), *arguments], capsys))


def test_a_table_that_is_not_there_or_empty(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gone = str(table.with_name("gone.csv"))
    assert refused([gone], capsys).endswith(
        f"There is no table {gone}; check the path, and name a .csv, .jsonl or .parquet file."
    )
    for text in ("", "x,loss\n"):
        table.write_text(text)
        assert "table.csv holds no rows; write some into it" in refused([str(table)], capsys)
