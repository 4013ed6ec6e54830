"""The layout: which file may import which. A new file in a folder needs no entry here."""

import ast
import graphlib
import pathlib

ROOT = pathlib.Path(__file__).resolve().parents[1]
COMMANDS = {"train", "evaluate", "predict", "prepare_data", "sweep", "export"}
FOLDERS = {"networks", "weak", "geo", "sources", "engine", "report"}
ALLOWED = {"unet": set(), "losses": set(), "metrics": set(), "data": {"engine"}}


def rooms_imported(path):
    """The commands, ideas and folders of this project that a file imports, anywhere in it."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    modules = [node.module for node in nodes if isinstance(node, ast.ImportFrom)]
    for node in nodes:
        if isinstance(node, ast.Import):
            modules += [alias.name for alias in node.names]
    return {module.split(".")[0] for module in modules} & (COMMANDS | FOLDERS | ALLOWED.keys())


def test_the_ideas_import_nothing_and_data_only_the_engine():
    for name, allowed in ALLOWED.items():
        assert rooms_imported(ROOT / f"{name}.py") <= allowed, name


def test_folders_import_no_command_and_stand_in_no_cycle():
    graph = {folder: set() for folder in FOLDERS}
    for folder in FOLDERS:
        for path in (ROOT / folder).glob("*.py"):
            assert not rooms_imported(path) & COMMANDS, path
            graph[folder] |= rooms_imported(path) & FOLDERS - {folder}
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, which names the folders


def test_the_top_level_holds_the_commands_and_the_ideas_alone():
    assert {path.stem for path in ROOT.glob("*.py")} <= COMMANDS | ALLOWED.keys()
