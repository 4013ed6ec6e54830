"""Break the meanings that must not drift, one at a time, and see that a test fails for each.

    python tests/mutations.py

copies the project to a temporary folder, replaces one piece of text in one file, and runs the tests that should notice, up
to the first that fails. The table goes into README.md beside this file. A piece of text that is no longer there, and a
change that no test notices, are errors: exit code 1.
"""

import contextlib
import io
import multiprocessing
import os
import pathlib
import shutil
import sys
import tempfile

import pytest
import torch  # noqa: F401, so that no copy of this process has to

TESTS = pathlib.Path(__file__).resolve().parent
HEAD = """# Tests of the tests

`python -m pytest` runs the suite, `--slow` also what takes longer than five seconds, `--fuzz 1000` a thousand spoilt inputs.

Each row is a meaning broken on purpose, and the first test that failed for it. `python tests/mutations.py` repeats this and
writes this page.

| what was broken | in | first test that failed |
|---|---|---|
"""
# What is broken; the file; its text and what takes its place; the test files, or single tests of them, that should notice.
MUTATIONS = [
    ("the ignore index of a loss", "losses.py", "labelled = values != ignore\n", "labelled = values != ignore + 1\n", "losses"),
    ("the ignored label in the confusion matrix", "metrics.py", "others[self.ignore - self.classes] = 0",
     "others[:] = 0", "metrics"),
    ("the divisor of partial cross-entropy: every pixel in place of the labelled ones", "losses.py",
     "return (labels != ignore).count_nonzero().float()", "return torch.tensor(float(labels.numel()))", "losses"),
    ("the divisor with class weights: their number in place of their sum", "losses.py",
     "return (counts * weight).sum().float()", "return counts.sum().float()", "losses"),
    ("a batch without labels: 0 / 0", "losses.py", "return loss / _not_zero(total)", "return loss / total", "losses"),
    ("the divisor over the whole batch: that of each part of it", "train.py", "loss_function(logits.float(), part_layers[:, 0], totals[0], len(chunks[0]) * run.size)",
     "loss_function(logits.float(), part_layers[:, 0]) / (len(chunks[0]) * run.size)", "train::test_accumulating_equals_the_large_batch"),
    ("Dice masks the prediction too", "losses.py", "labelled = (labels != ignore)[:, None]  # (P, 1)",
     "labelled = torch.ones_like(labels, dtype=torch.bool)[:, None]", "losses"),
    ("frozen points: drawn anew at every visit", "data.py", "labels.scatter_(1, self.positions[indices], self.classes[indices])",
     "labels[:, :-1] = self.labels[indices].flatten(1).where(torch.rand(len(indices), side * side) < .1, self.ignore)", "data"),
    ("frozen points: a function of the seed alone, not of the tile", "data.py", "points, [seed, index])", "points, [seed])", "points"),
    ("nested points: another shuffle for each number of points", "data.py", "np.random.default_rng(key)",
     "np.random.default_rng([*key, points])", "points data"),
    ("points a class: k of all in place of k of each", "data.py", 'if per == "image":', 'if per != "":', "points"),
    ("labelled pixels of a run: N * k in place of the sum of min(k, labelled)", "data.py",
     "self.labelled_pixels = int(self.class_counts.sum())",
     "self.labelled_pixels = points * len(self.images) or int(self.class_counts.sum())", "data"),
    ("mean IoU over the classes present: absent ones score 0", "metrics.py", "return float(self.iou().nanmean())",
     "return float(self.iou().nan_to_num().mean())", "metrics"),
    ("rows of the confusion matrix are the truth", "metrics.py",
     "keys = truth * self.classes + prediction",
     "keys = prediction * self.classes + truth.clamp(max=self.classes - 1)", "metrics"),
    ("splits: blocks without a gap", "sources/splits.py", "start = end + BLOCK_GAP", "start = end - 1", "prepare_data"),
    ("splits: two seasons of a place are cut apart", "sources/splits.py", "[args.seed, *scene.site.encode()]",
     "[args.seed, *scene.name.encode()]", "splits"),
    ("splits: scenes of a place are drawn one by one", "sources/splits.py",
     "drawn = dict(zip(sites, draw_splits(len(sites), fractions, seed)))\n    return [drawn[scene.site] for scene in source.scenes]",
     "return draw_splits(len(source.scenes), fractions, seed)", "splits"),
    ("mean and deviation of the training tiles: of all tiles", "prepare_data.py", 'if tile.split == "train":\n                statistics',
     "if tile.split:\n                statistics", "prepare_data"),
    ("no label where a tile is filled up", "prepare_data.py", "filling, constant_values=NO_LABEL)", "filling, constant_values=0)",
     "prepare_data"),
    ("labels move by nearest pixel", "data.py", 'grid, mode="nearest", padding_mode="zeros"', 'grid, mode="bilinear", padding_mode="zeros"',
     "data"),
    ("no label where a shift uncovers", "data.py", "moved = torch.where(moved == 0, ignore, moved - 1)",
     "moved = torch.where(moved == 0, 0, moved - 1)", "data"),
    ("masks are scaled by nearest pixel", "sources/scenes.py", "mask = ScaledRaster(scene.mask, source, smooth=False)",
     "mask = ScaledRaster(scene.mask, source, smooth=True)", "scenes"),
    ("the margin: half the radius", "geo/windows.py", "if model.radius is None else model.radius",
     "if model.radius is None else model.radius // 2", "predict"),
    ("windows start on a multiple of the stride", "geo/windows.py",
     "return [*range(0, last, window - 2 * margin), last]",
     "return [*range(0, last, window - 2 * margin - 1), last - 1]", "windows"),
    ("windows keep their centre", "geo/windows.py", "[origin + margin for origin in origins[1:]]",
     "[origin for origin in origins[1:]]", "windows"),
    ("windows are evened out too far", "geo/windows.py", "stride) + 2 * margin\n", "stride) + margin\n", "windows"),
    ("the way up is cut two pixels too far", "geo/windows.py", "max(margin // factor - 3, 0)", "max(margin // factor - 1, 0)", "windows"),
    ("the radius of the network: a stride too small", "unet.py", "return reach + stem * stride - 1", "return reach - 1", "networks"),
    ("georeference: tie points move on the map's side of the file's half pixel", "geo/georeference.py",
     "pixels = ties[:, :2] + self.centre - (col, row)\n            ties[:, :2] = pixels / (across, down) - self.centre",
     "ties[:, :2] = (ties[:, :2] - (col, row)) / (across, down)", "georeference"),
    ("georeference of a window: its offset is lost", "geo/georeference.py", "ties[:, :2] + self.centre - (col, row)",
     "ties[:, :2] + self.centre", "georeference"),
    ("nearest takes the middle of a block", "geo/raster.py", "middle_row = min(factor // 2, down - 1)", "middle_row = 0", "raster_classes"),
    ("the checksum of a checkpoint", "engine/checkpoint.py", 'if content.get("sha256") != digest:', "if False:", "checkpoint"),
    ("a checkpoint runs no code", "engine/checkpoint.py", "weights_only=True", "weights_only=False", "checkpoint"),
    ("the previous checkpoint lives until the new one is whole", "engine/checkpoint.py", 'temporary = f"{path}.tmp"', "temporary = str(path)",
     "checkpoint"),
    ("dataset.json is compared with its arrays", "engine/meta.py", "array.shape != tuple(shape) or", "", "meta"),
    ("randomness is stateless: dropout from the step", "train.py", "torch.manual_seed(args.seed + run.epoch * steps + step)", "pass",
     "train::test_stopped_between_epochs_and_resumed_equals_never_stopped"),
    ("randomness is stateless: the order of an epoch", "data.py", "random = np.random.default_rng([seed, epoch])\n    if weights",
     "random = np.random.default_rng()\n    if weights", "data"),
    ("on resume the log is cut back", "engine/runs.py", "splitlines(keepends=True)[:epochs + 1 if epochs else 0]",
     "splitlines(keepends=True)", "runs::test_a_torn_row_of_the_log_is_cut_off"),
    ("one process writes to a run's folder", "engine/runs.py", "fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)", "pass",
     "runs::test_two_processes_do_not_write_to_one_folder"),
    ("the average of the weights is what is kept as best", "engine/runs.py", "scored = run.average or run.model", "scored = run.model",
     "runs::test_the_average_is_what_is_kept_as_best_and_rebuilt"),
    ("the divisor over all processes: that of each", "train.py",
     "totals = all_reduce(divisors(layers, run.weight, tiles.ignore))",
     "totals = divisors(layers, run.weight, tiles.ignore)", "ranks"),
    ("the divisor of superpixels over the whole batch: that of each part", "weak/teacher.py", "total=totals[1])", "total=None)", "weak"),
    ("the gradients of all processes are added up", "engine/distributed.py", "gradients = [p.grad for p in model.parameters() if p.grad is not None]",
     "gradients = []", "ranks"),
    ("augmentation copies pixels", "data.py", "* side / 2 + spare).round() - spare)", "* side / 2 + spare) - spare)", "data"),
    ("a crop holds a label: left where it was drawn", "data.py", "torch.where(stays, centre, moved)", "centre", "data"),
    ("missing pixels become the band's mean", "data.py", "torch.where(values.isfinite(), values, 0.0)", "values", "data"),
    ("a batch counts once: gradients are put back to 0", "train.py", "run.optimizer.zero_grad()\n", "pass\n",
     "train::test_a_step_leaves_no_gradient_for_the_next"),
]


class Failures:
    """A pytest plugin that lists the tests that failed."""

    def __init__(self):
        self.names = []

    def pytest_runtest_logreport(self, report):
        """Called by pytest after each part of each test."""
        if report.failed:
            self.names.append(report.nodeid.removeprefix("tests/"))


def first_failure(mutation):
    """Break a copy of the project in one place; returns the first test that fails there, or None where all pass.

    Raises:
        ValueError: the text to replace is not there, or more than once.
        RuntimeError: the tests could not be run, which proves nothing.
    """
    what, name, text, other, tests = mutation
    with tempfile.TemporaryDirectory() as place:
        folder = shutil.copytree(TESTS.parent, pathlib.Path(place, "copy"), ignore=shutil.ignore_patterns(
            ".git", "data", "runs", "__pycache__", "results", "docs"))
        whole = (folder / name).read_text(encoding="utf-8")
        if whole.count(text) != 1:
            raise ValueError(f"{name} holds {whole.count(text)} times, and not once: {text!r}")
        (folder / name).write_text(whole.replace(text, other), encoding="utf-8")
        os.chdir(folder)
        failures = Failures()
        files = [f"tests/test_{word.replace('::', '.py::') if '::' in word else word + '.py'}" for word in tests.split()]
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            code = pytest.main(["-x", "-q", "-p", "no:cacheprovider", *files], plugins=[failures])
        os.chdir(TESTS)
    if code not in (0, 1) or code != len(failures.names):
        raise RuntimeError(printed.getvalue())
    return failures.names[0] if failures.names else None


def main():
    """Try all mutations, each in a process of its own, and write README.md; returns the exit code."""
    rows, survivors = [], 0
    every = " ".join(sorted({word for *_, tests in MUTATIONS for word in tests.split()}))
    _, name, text, _, _ = MUTATIONS[0]
    with multiprocessing.get_context("fork").Pool(2, maxtasksperchild=1) as pool:  # which have torch from the first moment
        failed = pool.apply(first_failure, [("nothing", name, text, text, every)])
        if failed:
            raise RuntimeError(f"{failed} fails with nothing broken: mend it first")
        for (what, name, *_), failed in zip(MUTATIONS, pool.imap(first_failure, MUTATIONS)):
            survivors += failed is None
            rows.append(f"| {what} | `{name}` | {f'`{failed}`' if failed else '**none**'} |")
            print(rows[-1], flush=True)
    (TESTS / "README.md").write_text(HEAD + "\n".join(rows) + "\n", encoding="utf-8")
    return int(survivors > 0)


if __name__ == "__main__":
    sys.exit(main())
