"""What is wrong with a recipe's file, with ``--set`` or with a class of the user's own is said in one sentence."""

from __future__ import annotations

import re
import sys
from typing import Any

import pytest


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--set", "seeds"], r"--set seeds: write it as place=value, such as objective\.0\.npo\.beta=0\.2\."),
        (["--set", "=3"], r"--set =3: write it as place=value"),
        (["--set", "stage.0.name=x"], r"the recipe has no stage; did you mean stages\?"),
        (["--set", "stages.1.name=x"], r"stages\.1 is no entry of a list of 1; count from 0\."),
        (["--set", "stages.²=x"], r"stages\.² is no entry of a list of 1"),
        (["--set", "name.first=x"], r"name is a value, so it has no first; set the value itself\."),
        (["--set", "train.lr=1"], r"train: write it inside a stage, since this recipe lists its stages\."),
        (["--set", "roles.fresh.rows=3"], r"the recipe has no roles\.fresh; there are: "),
        (
            ["--set", "stages.0.objective.0.gradient_ascnt.x=1"],
            r"the recipe has no stages\.0\.objective\.0\.gradient_ascnt; did you mean gr",
        ),
        (["--set", "stages.0.train.rewarm.warmup=1"], r"stages\.0\.train\.rewarm: there is no such key; .* warmup\?"),
        (["--set", "seeds=[1"], r"--set seeds=\[1: the value is not YAML \(.*\); correct it\."),
        (["--set", "seeds=[0, 0]"], r"seeds: give at least one number, each once\."),
        (["--set", "stages.0.train.lr=fast"], r"stages\.0\.train\.lr: .*number.*'fast'"),
        (["--set", "nmae=x"], r"nmae: there is no such key; did you mean name\?"),
    ],
)
def test_overrides(project: Any, flags: list[str], says: str) -> None:
    said = project.refused(*flags)
    assert re.search(says, said), said


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("name: x\nroles: {a: [b}\n", r"broken\.yaml line 2: this is not YAML \(.*\); correct it\."),
        ("name: a\nname: b\n", r"broken\.yaml line 2: this is not YAML \(the key 'name' stands here twice\)"),
        ("name: \x07\n", r"broken\.yaml line 1: this is not YAML \(it holds a control character\)"),
        ("", r"A recipe is a mapping with the keys .*; this is empty\."),
        ("- a\n", r"A recipe is a mapping with the keys .*; this is a list\."),
        ("a: &a [*a]\n", r"nested too deeply, or holds itself by an alias; write it out\."),
        ("a: " + "[" * 3000, r"this is not YAML \(it is nested too deeply\)"),
        ("a: !!python/object/apply:os.system [ls]\n", r"line 1: this is not YAML \(could not determine a constructor"),
        (
            "\n".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9) if i else 1}]" for i in range(9)),
            r"has at most 100,000",
        ),
    ],
)
def test_files_that_are_no_yaml(project: Any, text: str, says: str) -> None:
    file = project.folder / "broken.yaml"
    file.write_text(text)
    status, err = project.call("run", str(file))
    assert status == 2 and len(err.splitlines()) == 1 and "Traceback" not in err, err
    assert re.search(says, err), err


def test_recipes_that_cannot_be_read(project: Any) -> None:
    def said(name: str, *flags: str) -> str:
        status, err = project.call("run", str(project.folder / name), *flags)
        assert status == 2 and len(err.splitlines()) == 1, err
        return str(err)

    assert re.search(r"There is no recipe .*nowhere\.yaml; check the path and name a YAML file\.", said("nowhere.yaml"))
    assert re.search(r"is a folder; name the YAML file in it\.", said(""))
    (project.folder / "latin.yaml").write_bytes(b"name: caf\xe9\n")
    assert re.search(r"latin\.yaml is not UTF-8 text \(byte 9\); save it as UTF-8\.", said("latin.yaml"))


def test_python_recipes(project: Any) -> None:
    """They run only when imports are allowed, are checked like any other, and take --set."""
    file = project.folder / "made.py"

    def said(code: str, *flags: str) -> str:
        file.write_text(code)
        status, err = project.call("run", str(file), "--out", str(project.folder / "out"), *flags)
        lines = [x for x in err.splitlines() if x and not x.startswith(("[", "    ", "Loading"))]
        assert len(lines) == (status != 0) and "Traceback" not in err, err
        return str(lines[0]) if lines else "went well"

    good = f"from palimpsest import parse_recipe\ndef recipe():\n    return parse_recipe({project.recipe!r})\n"
    assert "made.py is Python, which runs only with --allow-imports; add that flag if you trust it." in said(good)
    allow = "--allow-imports"
    assert "made.py defines no recipe(); write def recipe() -> Recipe." in said("x = 1\n", allow)
    assert "recipe() returned int, not a Recipe; return a Recipe." in said("def recipe(): return 3\n", allow)
    assert re.search(r"made\.py line 2: KeyError \('x'\); correct the Python", said("def recipe():\n {}['x']\n", allow))
    assert re.search(r"made\.py line 1: SyntaxError \(.*\); correct", said("def recipe(:\n", allow))
    assert re.search(r"made\.py line 1: ModuleNotFoundError", said("import nothing_of_this_name\n", allow))
    object_inside = (
        good.replace("    return ", "    made = ") + "    made.roles['forget'] = object()\n    return made\n"
    )
    assert "a recipe holds text, numbers, lists and mappings, not a object; use plain values." in said(
        object_inside, allow
    )
    assert "stages.0.train: Give either epochs or steps" in said(good, allow, "--set", "stages.0.train.steps=null")
    assert said(good, allow, "--set", "stages.0.train.steps=1") == "went well"


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("def Loss():\n    pass\n", r"objective\.0: 'mine_\w+:Loss' is no objective; name a subclass of Objective\."),
        (
            "from palimpsest import Objective\nclass Loss(Objective):\n    pass\n",
            r"objective\.0: 'mine_\w+:Loss' has no settings; write @dataclass\(frozen=True\) above the class\.",
        ),
        (
            "from dataclasses import dataclass\n@dataclass(frozen=True)\nclass Loss:\n    pass\n",
            r"objective\.0: 'mine_\w+:Loss' is no objective; name a subclass of Objective\.",
        ),
        (
            "\n1 / 0\n",
            r"'mine_\w+:Loss' failed \(ZeroDivisionError: division by zero; \S*mine_\w+\.py:2\); correct its code\.",
        ),
        (
            "import sys\nsys.nothing\n",
            r"objective\.0: 'mine_\w+:Loss' failed \(AttributeError: module 'sys' has .*; \S*mine_\w+\.py:2\); ",
        ),
        ("x = 1\n", r"objective\.0: 'mine_\w+:Loss' could not be loaded .*; write it as package\.module:Class"),
    ],
)
def test_classes_of_the_user(project: Any, monkeypatch: pytest.MonkeyPatch, code: str, says: str) -> None:
    name = f"mine_{abs(hash(code))}"
    (project.folder / f"{name}.py").write_text(code)
    monkeypatch.syspath_prepend(str(project.folder))
    project.recipe["stages"][0]["objective"][0] = {"on": "forget", f"{name}:Loss": {}}
    said = project.refused("--allow-imports")
    assert re.search(says, said), said
    sys.modules.pop(name, None)


@pytest.mark.parametrize("path", ["losses.py", "./losses.py", "./losses", "part/losses.py"])
def test_a_file_in_place_of_a_module(project: Any, path: str) -> None:
    project.recipe["stages"][0]["objective"][0] = {"on": "forget", f"{path}:Loss": {}}
    said = project.refused("--allow-imports")
    assert said.endswith(f"'{path}:Loss' names a file; write losses:Loss, a module on PYTHONPATH or beside the recipe.")
