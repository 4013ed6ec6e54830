"""The house: files import downwards only, the reading path stays an afternoon's, nothing is required that is not listed."""

import ast
import pathlib
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
# From the top down: a file imports files that stand below it.
ORDER = ["sweep", "search", "tables", "train", "runs", "predict", "maps", "evaluate", "compare", "reports",
         "prepare_data", "splits", "sentinel2", "datasets", "scenes", "labels", "windows", "checkpoint", "models", "unet", "segformer",
         "resnet", "weak", "crf", "data", "device", "facts", "suggest", "points", "losses", "tally", "metrics", "ranks", "raster", "georeference",
         "figures"]
READING_PATH = ["train", "predict", "evaluate", "prepare_data", "unet", "data", "losses", "metrics"]
REQUIRED = {"torch", "numpy", "PIL", "tifffile", "tqdm"}
OPTIONAL = {"tensorboard"}
FILES = sorted(ROOT.glob("*.py"))


def imported(path):
    """Names of all modules that a file imports, anywhere in it, and whether one is a star import."""
    names, star = set(), False
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module.split(".")[0])
            star = star or any(alias.name == "*" for alias in node.names)
    return names, star


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_imports_point_down_and_at_required_packages_only(path):
    assert path.stem in ORDER, f"{path.name} has no place in the table"
    names, star = imported(path)
    assert not star
    ours = names & set(ORDER)
    assert all(ORDER.index(name) > ORDER.index(path.stem) for name in ours), ours
    assert names - ours <= REQUIRED | OPTIONAL | set(sys.stdlib_module_names)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_file_has_its_tests(path):
    assert (ROOT / "tests" / f"test_{path.name}").exists()


def test_the_reading_path_is_an_afternoon():
    lines = sum(len((ROOT / f"{name}.py").read_text(encoding="utf-8").splitlines()) for name in READING_PATH)
    assert lines <= 2300


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_public_things_have_docstrings_and_functions_fit_a_screen(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree)
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            limit = 130 if isinstance(node, ast.ClassDef) else 60
            assert node.end_lineno - node.lineno < limit, f"{node.name} is {node.end_lineno - node.lineno + 1} lines long"
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{node.name} has no docstring"


def test_requirements_are_what_is_imported():
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").split()
    assert lines == ["torch==2.13.0", "numpy", "pillow", "tifffile[codecs]", "tqdm", "pytest"]
