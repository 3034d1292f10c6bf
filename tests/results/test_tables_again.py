"""`make tables`: what is made of rows is made again, the same."""

import json
import re
import shutil

import pytest

from experiments import readme, tables


@pytest.fixture
def results(tmp_path):
    """Some of the committed rows, in a folder of results of their own."""
    for name in ("table2", "table3", "beyond-teacher", "benchmarks"):
        (tmp_path / name).mkdir()
        for path in (readme.RESULTS / name).glob("*.json"):
            shutil.copy(path, tmp_path / name)
    for path in (tmp_path / "table2").glob("*"):
        if not path.name.startswith("mdp-s10-a5-t10-n10-"):
            path.unlink()
    return tmp_path


def test_a_second_time_changes_nothing(results):
    outside = readme.README.read_bytes()
    tables.rewrite(results)
    before = tables.digests(results)
    made = {path.relative_to(results).as_posix() for path in before if results in path.parents}
    assert {"table2.md", "table2.html", "figure3.png", "table3.md", "beyond-teacher.md", "benchmarks/cpu.md"} <= made
    tables.rewrite(results)
    assert tables.digests(results) == before
    assert readme.README.read_bytes() == outside


def test_a_new_row_is_in_the_table(results):
    tables.rewrite(results)
    (path, *_) = (results / "beyond-teacher").glob("*n10.json")
    rows = json.loads(path.read_text())
    rows[0]["mean"] = 1.2345
    path.write_text(json.dumps(rows))
    before = (results / "beyond-teacher.md").read_text()
    tables.rewrite(results)
    assert "1.2345" in (results / "beyond-teacher.md").read_text() != before


def test_a_page_of_another_commit_alone_is_no_new_page(tmp_path, monkeypatch):
    pages = iter(["rows, commit abc+: tables", "rows, commit 012: tables", "other rows, commit 012: tables"])

    def report(results, out):
        out.write_text(re.sub("rows,", "Made by <code>rl2jax report</code> 0.1.0,", next(pages), count=1))

    monkeypatch.setattr(tables, "report", report)
    page, texts = tmp_path / "report.html", []
    for _ in range(3):
        tables.rewrite_page(tmp_path)
        texts.append(page.read_text())
    assert "commit abc+" in texts[0]
    assert texts[1] == texts[0]
    assert texts[2].startswith("other Made by")
    assert "commit 012" in texts[2]
