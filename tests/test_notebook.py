"""docs/first-map.ipynb runs from top to bottom, and uses the project's public names only."""

import ast
import json
import pathlib

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
NOTEBOOK = ROOT / "docs" / "first-map.ipynb"
# What notebooks and forks may rely on. A script's `parse_args` and `main` are public.
PUBLIC = {
    "networks": {"build_model"},
    "losses": {"partial_cross_entropy", "focal_loss", "dice_loss", "jaccard_loss", "LOSSES",
               "build_loss"},
    "metrics": {"ConfusionMatrix"},
    "data": {"point_labels", "write_prepared", "TileDataset"},
    "geo.raster": {"open_raster", "downscale_classes"},
    "engine.checkpoint": {"load_model"},
}
SCRIPTS = {"train", "evaluate", "predict", "prepare_data", "sweep", "export"}
FOLDERS = {path.parent.name for path in ROOT.glob("*/*.py")}


def code_cells():
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


def own_imports(source):
    """(module, name) of each import from this project; name None: the module itself."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            found += [(node.module, alias.name) for alias in node.names]
        if isinstance(node, ast.Import):
            found += [(alias.name, None) for alias in node.names]
    ours = SCRIPTS | FOLDERS | {path.stem for path in ROOT.glob("*.py")}
    return [(module, name) for module, name in found if module.split(".")[0] in ours]


def test_notebook__imports_public_names_only_and_stores_no_output():
    imported = []
    for cell in code_cells():
        assert cell["outputs"] == []
        imported += own_imports("".join(cell["source"]))
    assert {module for module, _ in imported} >= {"train", "data", "losses", "metrics", "networks"}
    for module, name in imported:
        assert name in PUBLIC.get(module, ()) or (module in SCRIPTS and name is None), module


@pytest.mark.slow
def test_notebook__runs_from_top_to_bottom(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    namespace = {}
    for number, cell in enumerate(code_cells()):
        source = "".join(cell["source"])
        exec(compile(source, f"cell {number} of {NOTEBOOK.name}", "exec"), namespace)
    assert namespace["scores"]["miou"] > 0.7  # five classes: the commonest everywhere gives 0.1
    assert namespace["fit"]["written"]
    assert "the 5 points are among the 20: True" in capsys.readouterr().out
    whole = namespace["classes"].size * namespace["pixel_m"] ** 2
    areas = [area_m2 for _, area_m2, _, _ in namespace["polygons"]]
    assert 10 < len(areas) and sum(areas) == pytest.approx(whole)
    borders, on_map = np.split(np.asarray(namespace["panels"]), 2)
    assert (borders == 255).all(-1).mean() > 0.01 and (on_map == 0).all(-1).mean() > 0.01
