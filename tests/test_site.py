"""What builds the documentation site: links out of docs/, and faults that must end the build."""

import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def site(monkeypatch, tmp_path):
    """The script, for a repository of its own in `tmp_path`."""
    spec = importlib.util.spec_from_file_location("build_docs", ROOT / "scripts" / "build_docs.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "build_docs", module)
    spec.loader.exec_module(module)
    for name, folder in {"ROOT": "", "DOCS": "docs", "PAGES": "build/pages", "SITE": "build/site"}.items():
        monkeypatch.setattr(module, name, tmp_path / folder)
    return module


def write(folder, files):
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_every_link_of_this_repository_leads_to_a_file(site, monkeypatch):
    monkeypatch.setattr(site, "ROOT", ROOT)
    monkeypatch.setattr(site, "DOCS", ROOT / "docs")
    site.stage()  # anchors are checked by make docs
    assert (site.PAGES / "repository/CONTRIBUTING.md").is_file()


def test_links_out_of_docs_lead_to_pages_of_the_site(site, tmp_path):
    write(
        tmp_path,
        {
            "docs/how-to/a.md": "[b](../b.md#part), [code](../../src/x.py), [read](../../README.md), [up](https://h/x.md)\n"
            "```\n[as it is](../../src/x.py)\n```\n",
            "docs/b.md": "[numbers](../results/x.json)\n",
            "README.md": "[a](docs/how-to/a.md) ![picture](docs/p.png)\n",
            "src/x.py": "code = '```'\n",
            "results/x.json": "{}",
            "docs/p.png": "",
            "unlinked.py": "",
        },
    )
    site.stage()
    pages = tmp_path / "build" / "pages"
    assert {str(path.relative_to(pages)) for path in pages.rglob("*") if path.is_file()} == {
        "how-to/a.md", "b.md", "p.png", "repository/README.md", "repository/src/x.py.md", "repository/results/x.json"
    }  # fmt: skip
    assert (pages / "how-to/a.md").read_text() == (
        "[b](../b.md#part), [code](../repository/src/x.py.md), [read](../repository/README.md), [up](https://h/x.md)\n"
        "```\n[as it is](../../src/x.py)\n```\n"
    )
    assert "[a](../how-to/a.md) ![picture](../p.png)" in (pages / "repository/README.md").read_text()
    assert "````python\ncode = '```'\n````" in (pages / "repository/src/x.py.md").read_text()
    (tmp_path / "docs/b.md").write_text("")
    site.stage()
    assert not (pages / "repository/results/x.json").exists(), "what no page leads to any more is removed"


def test_a_link_to_nothing_ends_the_build(site, tmp_path):
    write(tmp_path, {"docs/a.md": "[code](../src/gone.py)\n"})
    with pytest.raises(SystemExit, match=r"docs/a\.md links to \.\./src/gone\.py, which does not exist"):
        site.stage()


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ('<a href="b.html#here">', None),
        ('<a href="b.html#%C3%A9">', None),
        ('<a href="#own" id="own">', None),
        ('<a href="https://elsewhere/x">', None),
        ('<img src="data:image/png;base64,AA">', None),
        ('<a href="gone.html">', "a.html: gone.html does not exist"),
        ('<img src="gone.png">', "a.html: gone.png does not exist"),
        ('<a href="b.html#gone">', "a.html: b.html#gone has no such anchor"),
        ('<a href="#gone"><meta name="gone">', "a.html: #gone has no such anchor"),
        ("<p>first\n* second</p><pre>* code</pre>", "a.html shows Markdown: * second"),
        ('<script src="https://cdn/x.js"></script>', "a.html loads https://cdn/x.js"),
        ('<link rel="stylesheet" href="//cdn/x.css">', "a.html loads //cdn/x.css"),
    ],
)
def test_faults_of_a_built_site(site, tmp_path, body, fault):
    write(tmp_path, {"a.html": body, "b.html": '<h2 id="here"></h2><a name="é"></a>'})
    assert site.find_faults(tmp_path) == ([fault] if fault else [])
