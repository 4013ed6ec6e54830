"""Whole scenes: time and memory of predict.py beside the usual loop, and what a margin costs.

    python bench/scenes.py predict     5000 x 5000 px of 10 bands, beside the usual loop
    python bench/scenes.py memory      30,000 x 30,000 px of 10 bands, and half of it
    python bench/scenes.py memory --encoder efficientnet_lite0 --height 6000
    python bench/scenes.py margins --checkpoint A/best.pt B/best.pt --scene scene.tif

Rows go to results/scenes.csv. Files are made in --folder and stay there. predict needs rasterio.
"""

import argparse
import pathlib

import numpy as np
import tifffile
from experiments import RESULTS, ROOT, call
from measure import append_numbers, measured

from geo.raster import open_raster, write_geotiff

BANDS, CLASSES = 10, 8
WINDOWS = (512, 640)  # px, of the usual loop and of what is compared with it
OVERLAP = 64  # px


def imagery(rows, width, bands, seed):
    """(rows, W, C) uint16 that deflates like imagery: fields of 32 px with noise."""
    random = np.random.default_rng(seed)
    fields = random.integers(500, 4000, (-(-rows // 32), -(-width // 32), bands), dtype=np.uint16)
    noise = random.integers(0, 64, (min(rows, 512), min(width, 512), bands), dtype=np.uint16)
    noise = np.tile(noise, (-(-rows // len(noise)), -(-width // noise.shape[1]), 1))
    return fields.repeat(32, 0)[:rows].repeat(32, 1)[:, :width] + noise[:rows, :width]


def train_network(folder, encoder=None):
    """Train a small U-Net for ten bands for one epoch, if it is missing; return its checkpoint.

    Args:
        folder: where its run and its data go.
        encoder: of the network; None is a U-Net of width 8 and depth 3.
    """
    run = folder / (f"run_{encoder}" if encoder else "run")
    if not run.exists():
        from data import write_prepared
        images = [imagery(64, 64, BANDS, seed) for seed in range(10)]
        labels = [np.full((64, 64), seed % CLASSES) for seed in range(10)]
        write_prepared(folder / "set", images, labels, [f"class {k}" for k in range(CLASSES)])
        flags = ["--encoder", encoder] if encoder else ["--width", 8, "--depth", 3]
        call("train.py", "--data", folder / "set", "--out", run, "--epochs", 1, "--points", 0,
             *flags)
    return run / "last.pt"


def write_scene(folder, height, width):
    """Write a scene of ten bands of uint16 in row blocks, if it is missing; return its path."""
    path = folder / f"scene_{height}x{width}.tif"
    if not path.exists():
        blocks = (imagery(min(512, height - row), width, BANDS, row)
                  for row in range(0, height, 512))
        write_geotiff(path, blocks, height, width, BANDS, "uint16", level=1)
    return path


def predict(args):
    """A scene predicted with the exact margin and one of 32 px, beside the usual loop."""
    side = args.side or 5000
    scene = write_scene(args.folder, side, side)
    checkpoint = train_network(args.folder)
    command = ["predict.py", "--checkpoint", checkpoint, "--device", "cpu", "--out",
               args.folder / "maps", scene]
    for _ in range(args.repeats):
        yield {"case": f"{side} px, exact margin", **measured(*command)}
        for window in WINDOWS:
            yield {"case": f"{side} px, margin 32, window {window}",
                   **measured(*command, "--margin", OVERLAP // 2, "--window", window)}
            yield {"case": f"{side} px, the usual loop, windows of {window} px",
                   **measured("bench/scenes.py", "usual", "--scene", scene, "--side", window,
                              "--checkpoint", checkpoint, "--folder", args.folder)}


def usual_loop(args):
    """What people write: overlapping windows, blended into probabilities of the whole scene."""
    import rasterio
    import torch

    from engine.checkpoint import load_model
    model, meta = load_model(args.checkpoint[0])
    model = model.to(memory_format=torch.contiguous_format)
    mean, std = (np.array(meta[key], np.float32)[:, None, None] for key in ("mean", "std"))
    with rasterio.open(args.scene) as file, torch.no_grad():
        total = np.zeros((CLASSES, file.height, file.width), np.float32)
        weight = np.zeros((file.height, file.width), np.float32)
        for row in range(0, file.height, args.side - OVERLAP):
            for col in range(0, file.width, args.side - OVERLAP):
                height = min(args.side, file.height - row)
                width = min(args.side, file.width - col)
                image = file.read(window=rasterio.windows.Window(col, row, width, height))
                image = torch.from_numpy((image.astype(np.float32) - mean) / std)
                probabilities = model(image[None]).softmax(1)[0].numpy()
                total[:, row:row + height, col:col + width] += probabilities
                weight[row:row + height, col:col + width] += 1
    classes = (total / weight).argmax(0).astype(np.uint8)
    tifffile.imwrite(args.folder / "usual.tif", classes, compression="zlib")


def memory(args):
    """Time and memory of predicting a scene and its upper half, or one of --height."""
    side = args.side or 30000
    checkpoint = train_network(args.folder, args.encoder)
    for height in [args.height] if args.height else (side, side // 2):
        scene = write_scene(args.folder, height, side)
        yield {"case": f"{height} x {side} x {BANDS} uint16, {args.encoder or 'U-Net of width 8'}",
               **measured("predict.py", "--checkpoint", checkpoint, "--device", "cpu",
                          "--out", args.folder / "maps", scene)}


def margins(args):
    """Share of pixels whose class differs from the whole scene's at once, by margin."""
    from engine.checkpoint import load_checkpoint, load_model

    def classes(checkpoint, window, margin):
        out = args.folder / "margins"
        call("predict.py", "--checkpoint", checkpoint, "--out", out, "--window", window,
             "--margin", margin, "--device", "cpu", args.scene)
        with open_raster(out / f"{pathlib.Path(args.scene).stem}_classes.tif") as raster:
            return raster.read(0, 0, raster.height, raster.width)

    for checkpoint in args.checkpoint:
        radius = load_model(checkpoint)[0].radius
        name = load_checkpoint(checkpoint)["model"]["name"]
        whole = classes(checkpoint, 2**20, 0)
        for margin in sorted({0, 16, 32, 64, 128, radius or 192}):
            window = 2 * margin + 128
            differing = float((classes(checkpoint, window, margin) != whole).mean())
            yield {"case": f"{name}, {checkpoint}, radius {radius} px, margin {margin} px, window "
                           f"{window} px", "differing_percent": 100 * differing}


MEASUREMENTS = {"predict": predict, "memory": memory, "margins": margins}


def main(args):
    """Measure, and append a row per number."""
    args.folder = args.folder.resolve()
    args.folder.mkdir(parents=True, exist_ok=True)
    if args.what == "usual":
        usual_loop(args)
        return
    for measurement in MEASUREMENTS[args.what](args):
        case = f"{args.what}, {measurement.pop('case')}"
        append_numbers(args.table, case, measurement)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0],
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    flag = parser.add_argument
    flag("what", choices=[*MEASUREMENTS, "usual"])
    flag("--side", type=int, help="px, of the scene; usual: of its windows")
    flag("--height", type=int, help="px, of memory's only scene; not given: --side, and half of it")
    flag("--encoder", help="of memory's network; not given: a U-Net of width 8")
    flag("--folder", type=pathlib.Path, default=ROOT / "runs" / "scenes", help="for files")
    flag("--repeats", type=int, default=5, help="turns of predict")
    flag("--checkpoint", nargs="+", default=[], help="of trained networks")
    flag("--scene", help="one that they were not trained on")
    flag("--table", type=pathlib.Path, default=RESULTS / "scenes.csv", help="rows are added to it")
    main(parser.parse_args())
