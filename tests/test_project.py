"""The project's own promises: pins agree, imports point down, package, notebooks and files keep their budgets.

`python -m tests.test_project` prints the package's lines of code per room.
"""

from __future__ import annotations

import ast
import io
import os
import re
import shutil
import subprocess
import tokenize
import tomllib
from collections import Counter
from graphlib import TopologicalSorter
from pathlib import Path

import nbformat
import pytest
import yaml

from ocrlab.paths import NOTEBOOKS, RESULTS, ROOT

ROOMS = ["paths", "scoring", "machine", "pages", "reading", "study", "experiments", "report", "playground", "commands"]
FLOORS = {room: floor for floor, room in enumerate(ROOMS)}
SOURCES = sorted((ROOT / "ocrlab").glob("*/**/*.py"))
MODULES = {
    ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file
    for file in (ROOT / "ocrlab").rglob("*.py")
}
#: The package stays thin: whoever adds lines cuts others. 11,000 was met before what a real model needs came (LOG.md).
LINES_OF_CODE = 12_600
FILES, LINES_PER_FILE = 100, 400


def _name(requirement: str) -> str:
    return re.split(r"[<>=!~\[ ;]", requirement, maxsplit=1)[0].lower().replace("_", "-")


def _pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return {_name(line): line.split("==")[1] for line in lines if line.strip() and not line.startswith("#")}


def _project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_pyproject_constraints_and_environment_agree() -> None:
    from packaging.requirements import Requirement

    project, pins = _project(), _pins()
    extras = [r for group in project["optional-dependencies"].values() for r in group]
    for text in project["dependencies"] + extras:
        requirement = Requirement(text)
        if requirement.marker and not requirement.marker.evaluate() and _name(text) not in pins:
            continue  # another system's package; the range is all there is
        assert requirement.specifier.contains(pins[_name(text)]), f"{text} against the pin {pins[_name(text)]}"
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))["dependencies"]
    assert [_name(text) for text in environment] == ["python", "pip"], "the rest comes by make.py, with the right torch"
    assert pins["torch"] == "2.13.0"


def test_what_is_installed_is_what_is_pinned() -> None:
    import importlib.metadata

    for name, pin in _pins().items():
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        assert version.split("+")[0] == pin, name


def _named(tree: ast.AST) -> set[str]:
    """Return the modules of the package that a file's imports and strings name, docstrings apart."""
    names, documented = set(), (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    owners = (node for node in ast.walk(tree) if isinstance(node, documented))
    prose = {id(node.body[0].value) for node in owners if isinstance(node.body[0], ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            # `from ocrlab.pages import page` names the module and not the room's own file.
            whole = {f"{node.module}.{a.name}" for a in node.names}
            names |= whole if whole <= set(MODULES) else {node.module, *whole}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
            names |= set(re.findall(r"\bocrlab(?:\.\w+)+", node.value))
    return {name for name in names if name in MODULES and "." in name}


@pytest.mark.parametrize("file", SOURCES, ids=lambda f: str(f.relative_to(ROOT)))
def test_imports_point_down(file: Path) -> None:
    room = file.relative_to(ROOT / "ocrlab").parts[0]
    for name in _named(ast.parse(file.read_text(encoding="utf-8"))):
        target = name.split(".")[1]
        assert target == room or FLOORS[target] < FLOORS[room], f"{file}: {room} names {name}"


def test_no_module_imports_itself_over_others() -> None:
    graph = {name: _named(ast.parse(file.read_text(encoding="utf-8"))) - {name} for name, file in MODULES.items()}
    TopologicalSorter({name: found for name, found in graph.items() if "." in name}).prepare()


def test_strings_that_name_modules_count_as_imports() -> None:
    found = _named(
        ast.parse('"""See ocrlab.study.experiment."""\nx = ["ocrlab.reading.reader", "import ocrlab.paths; go()"]')
    )
    assert found == {"ocrlab.reading.reader", "ocrlab.paths"}


def _code_lines(text: str) -> int:
    """Return how many lines hold code: blank lines, comments and docstrings do not count."""
    layout = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    tokens = [token for token in tokenize.generate_tokens(io.StringIO(text).readline) if token.type not in layout]
    lines = {line for token in tokens for line in range(token.start[0], token.end[0] + 1)}
    documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, documented) and ast.get_docstring(node, clean=False) is not None:
            lines -= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    return len(lines)


def _lines_by_room() -> Counter[str]:
    rooms: Counter[str] = Counter()
    for file in MODULES.values():
        rooms[file.relative_to(ROOT / "ocrlab").parts[0]] += _code_lines(file.read_text(encoding="utf-8"))
    return rooms


def test_the_package_stays_thin() -> None:
    lines = _lines_by_room().total()
    assert lines <= LINES_OF_CODE, (
        f"ocrlab/ has {lines:,} lines of code, {lines - LINES_OF_CODE:,} above LINES_OF_CODE: cut something, or move"
        " what one notebook uses into it (`python -m tests.test_project` counts per room); a raise needs a reason in"
        " LOG.md"
    )
    assert len(MODULES) <= FILES, f"ocrlab/ has {len(MODULES)} Python files, {FILES} are allowed: merge two"
    for file in MODULES.values():
        length = len(file.read_text(encoding="utf-8").splitlines())
        assert length <= LINES_PER_FILE, f"{file}: {length} lines, {LINES_PER_FILE} are allowed: split or shorten it"


def test_lines_of_code_leave_out_prose_and_count_other_strings() -> None:
    function = 'def f():\n    """Return\n\n    one.\n    """\n\n    # why\n    return (\n        1\n    )  # here\n'
    assert _code_lines(f'"""A module."""\n\nx = """one\n\nthree"""\n{function}') == 3 + 1 + 3


@pytest.mark.parametrize("file", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda f: f.stem)
def test_notebooks_keep_the_house_style(file: Path) -> None:
    notebook = nbformat.read(file, as_version=4)
    nbformat.validate(notebook)
    assert file.stat().st_size <= 60_000
    assert len(notebook.cells) <= 40
    assert notebook.cells[0].source.startswith("# ") and "?" in notebook.cells[0].source.splitlines()[0]
    tagged = [c for c in notebook.cells if "parameters" in c.metadata.get("tags", [])]
    assert len(tagged) == 1
    for before, cell in zip(notebook.cells, notebook.cells[1:], strict=False):
        if cell.cell_type == "code":
            assert before.cell_type == "markdown", f"a sentence before every code cell: {cell.source[:60]}"
            assert len(cell.source.splitlines()) <= 25
            assert "!" not in cell.source[:1] and "chdir" not in cell.source
            assert not any(o.output_type == "error" for o in cell.outputs)
            checked = "nbval-check-output" in cell.metadata.get("tags", [])
            assert bool(cell.outputs) == checked, "outputs stay in git only where nbval compares them"
    assert any("What we learned" in c.source for c in notebook.cells)


@pytest.mark.skipif(os.name == "nt" or shutil.which("make") is None, reason="there is no make here")
def test_help_lists_targets_that_exist() -> None:
    text = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    listed = re.findall(r"^  make (\S+)", text, re.M)
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    assert sorted(listed) == sorted(set(targets)) and len(listed) >= 9


def test_readme_names_only_commands_that_exist() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    for used in re.findall(r"`?make ([a-z-]+)", text):
        assert used in targets, used
    for path in re.findall(r"\]\((?!http)([^)#]+)\)", text):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("run", sorted(RESULTS.glob("reference-*")), ids=lambda f: f.name)
def test_committed_runs_keep_their_budget(run: Path) -> None:
    files = [f for f in run.rglob("*") if f.is_file()]
    # Readings 0.4 MB, figures 0.6, pages 1.1 (a quarter of it the readings'), executed notebooks 0.6.
    assert sum(f.stat().st_size for f in files) <= 3_200_000
    site = [f for f in files if f.parent == run or f.parent.name == "figures"]
    assert sum(f.stat().st_size for f in site) <= 3_000_000
    assert all(f.stat().st_size <= 100_000 for f in files if f.suffix == ".png")
    assert (run / "run.json").is_file() and (run / "index.html").is_file()
    texts = [f for f in files if f.suffix in {".html", ".ipynb", ".json", ".jsonl", ".md"}]
    own = re.compile(rb"/(?:tmp|home|root|Users|work)/[^\s\"'<]*site-packages")
    assert not [f.name for f in texts if own.search(f.read_bytes())], "paths of the machine that ran it"


if __name__ == "__main__":
    for name, count in _lines_by_room().most_common():
        print(f"{count:6,}  {name}")
    print(f"{_lines_by_room().total():6,}  of {LINES_OF_CODE:,} allowed, in {len(MODULES)} of {FILES} files")
