"""The page of the benches shows what the scripts wrote, whatever form their rows have."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def pages():
    sys.path.insert(0, str(ROOT / "docs"))
    try:
        spec = importlib.util.spec_from_file_location("bench_pages", ROOT / "docs" / "bench_pages.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules["bench_pages"] = module
        spec.loader.exec_module(module)
        yield module
    finally:
        sys.path.remove(str(ROOT / "docs"))


def made(folder, name, content, about='"""Time of a | b.\n\n    python x.py\n\nMore.\n"""'):
    (folder / "bench").mkdir(exist_ok=True)
    (folder / "results").mkdir(exist_ok=True)
    (folder / "bench" / f"{name.replace('-', '_')}.py").write_text(about)
    (folder / "results" / f"{name}.json").write_text(json.dumps(content))
    return folder / "results", folder / "bench"


@pytest.mark.parametrize(
    "content",
    [
        [{"way": "o|d", "seconds": {"ours": 0.25}, "shape": [2, 3], "times": [1.0] * 9, "kept": True}],
        {"rows": [{"way": "o|d", "seconds": {"ours": 0.25}, "shape": [2, 3], "kept": True}], "torch": "2.13"},
        {"way": "o|d", "seconds": {"ours": 0.25}, "shape": [2, 3], "kept": True},
    ],
    ids=["rows", "rows and settings", "one row"],
)
def test_every_form_becomes_a_table(pages, tmp_path, content):
    (bench,) = pages.load_benches(*made(tmp_path, "some-thing", content))
    assert bench.rows == [{"way": "o|d", "seconds, ours": "0.25", "shape": "2 × 3", "kept": "yes"}]
    text = pages.benches_page([bench])
    assert "## some-thing" in text and "Time of a | b." in text and "```sh\npython x.py\n```" in text
    assert "| o\\|d | 0.25 | 2 × 3 | yes |" in text
    assert ("Measured with torch: 2.13." in text) == (isinstance(content, dict) and "torch" in content)


def test_a_file_without_its_script_is_named(pages, tmp_path):
    results, scripts = made(tmp_path, "gone", [])
    (scripts / "gone.py").unlink()
    with pytest.raises(ValueError, match=r"gone\.json has no script gone\.py"):
        pages.load_benches(results, scripts)
    results, scripts = made(tmp_path, "gone", [])
    (results / "gone.json").write_text("{")
    with pytest.raises(ValueError, match=r"gone\.json is no JSON"):
        pages.load_benches(results, scripts)


def test_what_is_committed_has_a_page(pages):
    benches = pages.load_benches(ROOT / "results" / "bench")
    text = pages.benches_page(benches)
    assert benches and all(bench.rows and f"## {bench.name}" in text for bench in benches)
