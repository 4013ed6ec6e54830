"""Whole scenes: speed beside rasterio and GDAL, memory, and what a margin costs; the README's tables of scenes.

    python bench/scenes.py windows                          a file read in windows, beside rasterio
    python bench/scenes.py mode                             a class mask brought down by 10, beside GDAL: time and memory
    python bench/scenes.py predict                          5000 x 5000 x 10 px, beside the usual loop: CPU s and MB
    python bench/scenes.py memory                           30 000 x 30 000 x 10 px, and half of it: most resident MB
    python bench/scenes.py margins --checkpoint A/best.pt B/best.pt --scene scene.tif     share of pixels that differ

Rows go to --table, a measurement each; the files that are read are made in --folder and kept there. Peers are measured
in turns with ours, and medians of --repeats compared: a ratio above 1 says that ours is faster. The first three need
rasterio.
"""

import argparse
import pathlib
import statistics
import sys
import time

import bring_down
import numpy as np
from measure import append_numbers, measured
from run_table import ROOT

sys.path.insert(0, str(ROOT))
from geo.raster import open_raster, write_geotiff  # noqa: E402

BANDS, CLASSES = 10, 8
WINDOWS, OVERLAP = (512, 640), 64  # px, of the usual loop and of what is compared with it


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0],
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("what", choices=["windows", "mode", "predict", "memory", "margins", "usual"])
    parser.add_argument("--side", type=int, help="of the scene, px; not given: as the table has it")
    parser.add_argument("--window", type=int, default=WINDOWS[0], help="usual: side of its windows, px")
    parser.add_argument("--folder", default="runs/scenes", help="for the files that are read and written")
    parser.add_argument("--repeats", type=int, default=9, help="turns of ours and the peer's")
    parser.add_argument("--checkpoint", nargs="+", default=[], help="margins: of trained networks")
    parser.add_argument("--scene", help="margins: a scene that the networks were not trained on")
    parser.add_argument("--table", type=pathlib.Path, default=ROOT / "results" / "scenes.csv", help="CSV that rows are added to")
    args = parser.parse_args()
    args.folder = pathlib.Path(args.folder)
    args.folder.mkdir(parents=True, exist_ok=True)
    for row in {"windows": windows, "mode": mode, "predict": predict, "memory": memory, "margins": margins,
                "usual": usual}[args.what](args):
        print("  ".join(f"{key} {value}" for key, value in row.items()), flush=True)
        append_numbers(args.table, {"what": args.what, **row})


def in_turns(ours, peer, repeats):
    """Medians of wall-clock and CPU seconds of two functions, called in turns, and the peer's time over ours."""
    seconds = {"ours": [], "peer": []}
    for _ in range(repeats):
        for name, function in (("ours", ours), ("peer", peer)):
            wall, cpu = time.perf_counter(), time.process_time()
            function()
            seconds[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    (ours_wall, ours_cpu), (peer_wall, peer_cpu) = (map(statistics.median, zip(*values)) for values in seconds.values())
    return {"ours_wall_s": ours_wall, "peer_wall_s": peer_wall, "wall_ratio": peer_wall / ours_wall,
            "ours_cpu_s": ours_cpu, "peer_cpu_s": peer_cpu, "cpu_ratio": peer_cpu / ours_cpu}


def ground(rows, width, bands, seed):
    """(rows, W, C) uint16 that deflates like imagery: fields of 32 px with noise."""
    random = np.random.default_rng(seed)
    fields = random.integers(500, 4000, (-(-rows // 32), -(-width // 32), bands), dtype=np.uint16)
    noise = random.integers(0, 64, (min(rows, 512), min(width, 512), bands), dtype=np.uint16)
    noise = np.tile(noise, (-(-rows // len(noise)), -(-width // noise.shape[1]), 1))[:rows, :width]
    return fields.repeat(32, 0)[:rows].repeat(32, 1)[:, :width] + noise


def windows(args):
    """Windows of 1024 px one after the other out of tiles of 512 px, four bands of uint16."""
    import rasterio
    from rasterio.windows import Window
    side = args.side or 4096
    pixels = ground(side, side, 4, 0)
    starts = [(row, col) for row in range(0, side, 1024) for col in range(0, side, 1024)]
    for compress, predictor, layout in [("deflate", 1, "tiles"), ("deflate", 2, "tiles"), ("lzw", 1, "tiles"),
                                        ("lzw", 2, "tiles"), ("none", 1, "tiles"), ("none", 1, "strips")]:
        path = args.folder / f"windows_{compress}_{predictor}_{layout}_{side}.tif"
        options = {"tiled": True, "blockxsize": 512, "blockysize": 512} if layout == "tiles" else {"blockysize": 16}
        options |= {"predictor": predictor} if compress != "none" else {}
        if not path.exists():
            with rasterio.open(path, "w", driver="GTiff", height=side, width=side, count=4, dtype="uint16",
                               compress=compress, interleave="pixel", **options) as file:
                file.write(np.moveaxis(pixels, 2, 0))

        def ours():
            with open_raster(path) as raster:
                for row, col in starts:
                    raster.read(row, col, 1024, 1024)

        def peer():
            with rasterio.open(path) as file:
                for row, col in starts:
                    file.read(window=Window(col, row, 1024, 1024))
        yield {"case": f"{compress}, predictor {predictor}, {layout}", **in_turns(ours, peer, args.repeats)}


def mode(args):
    """A class mask of nine classes, brought down by 10: clean fields, with 2 % of speckle, and pure noise.

    The times are of calls in turns within this process, the memory is that of a process for each.
    """
    import rasterio  # noqa: F401, here, so that its absence is told before anything is written
    side = args.side or 10000
    random = np.random.default_rng(0)
    fields = random.integers(0, 9, (side // 90 + 1, side // 70 + 1)).astype(np.uint8)
    clean = fields.repeat(90, 0).repeat(70, 1)[:side, :side]
    for name, share in [("clean", 0), ("speckled", 0.02), ("noise", 1)]:
        path = (args.folder / f"mask_{name}_{side}.tif").resolve()
        if not path.exists():
            noise = random.integers(0, 9, clean.shape).astype(np.uint8)
            mask = np.where(random.random(clean.shape, dtype=np.float32) < share, noise, clean)
            write_geotiff(path, [mask], side, side, 1, "uint8")
        differing = int((bring_down.ours(path) != bring_down.gdal(path)).sum()) if side % 10 == 0 else -1
        memory = {f"{who}_resident_mb": measured("bench/bring_down.py", call, path)["resident_mb"]
                  for who, call in (("ours", "ours"), ("peer", "gdal"))}
        yield {"case": f"mode by 10, {name}", "differing_px": differing, **memory,
               **in_turns(lambda: bring_down.ours(path), lambda: bring_down.gdal(path), args.repeats)}


def untrained_checkpoint(args):
    """A U-Net of width 8 and depth 3 for ten bands, whose norms have seen data; returns its path."""
    import torch

    from engine.checkpoint import save_checkpoint
    from engine.meta import checkpoint_meta
    from networks import build_model
    torch.manual_seed(0)
    kwargs = {"bands": BANDS, "classes": CLASSES, "width": 8, "depth": 3}
    model = build_model("unet", **kwargs)
    with torch.no_grad():
        model(torch.randn(4, BANDS, 64, 64))
    meta = {"name": "made", "classes": [{"name": f"class {k}", "colour": [30 * k, 90, 200]} for k in range(CLASSES)],
             "ignore": 255, "mean": [2250.0] * BANDS, "std": [1000.0] * BANDS, "bands": BANDS, "dtype": "uint16",
             "gsd_m": 10.0, "rgb": [2, 1, 0]}
    path = args.folder / "untrained.pt"
    save_checkpoint(path, {"name": "unet", "kwargs": kwargs, "state": model.state_dict()}, checkpoint_meta(meta),
                    {"epoch": 0, "labelled_pixels": 0}, {})
    return path


def write_scene(args, height, width):
    """A scene of ten bands of uint16, written strip by strip; returns its path."""
    path = args.folder / f"scene_{height}x{width}.tif"
    if not path.exists():
        strips = (ground(min(512, height - row), width, BANDS, row) for row in range(0, height, 512))
        write_geotiff(path, strips, height, width, BANDS, "uint16", level=1)
    return path


def predict(args):
    """A scene predicted with a margin of 32 px and with the exact one, beside the loop that people write."""
    side = args.side or 5000
    scene, checkpoint = write_scene(args, side, side).resolve(), untrained_checkpoint(args).resolve()
    folder = args.folder.resolve()
    common = ["predict.py", "--checkpoint", checkpoint, "--device", "cpu", "--out", folder / "maps", scene]
    for _ in range(args.repeats):
        yield {"case": f"{side} px, exact margin", **measured(*common)}
        for window in WINDOWS:
            yield {"case": f"{side} px, margin 32, window {window}",
                   **measured(*common, "--margin", OVERLAP // 2, "--window", window)}
            yield {"case": f"{side} px, the usual loop, windows of {window} px",
                   **measured("bench/scenes.py", "usual", "--side", side, "--window", window, "--folder", folder)}


def usual(args):
    """What people write: overlapping rasterio windows, blended into an array of the whole scene's probabilities."""
    import rasterio
    import torch
    from rasterio.windows import Window

    from engine.checkpoint import load_model
    model, meta = load_model(args.folder / "untrained.pt")
    model = model.to(memory_format=torch.contiguous_format)
    mean, std = (np.array(meta[key], np.float32)[:, None, None] for key in ("mean", "std"))
    with rasterio.open(args.folder / f"scene_{args.side}x{args.side}.tif") as file, torch.no_grad():
        total = np.zeros((CLASSES, file.height, file.width), np.float32)
        weight = np.zeros((file.height, file.width), np.float32)
        for row in range(0, file.height, args.window - OVERLAP):
            for col in range(0, file.width, args.window - OVERLAP):
                height, width = min(args.window, file.height - row), min(args.window, file.width - col)
                image = (file.read(window=Window(col, row, width, height)).astype(np.float32) - mean) / std
                probabilities = model(torch.from_numpy(image)[None]).softmax(1)[0].numpy()
                total[:, row:row + height, col:col + width] += probabilities
                weight[row:row + height, col:col + width] += 1
        classes = (total / weight).argmax(0).astype(np.uint8)
        with rasterio.open(args.folder / "usual.tif", "w", driver="GTiff", height=file.height, width=file.width,
                           count=1, dtype="uint8", compress="deflate") as out:
            out.write(classes, 1)
    return []


def memory(args):
    """The most memory that predicting takes, for a scene and for its upper half."""
    side = args.side or 30000
    checkpoint, maps = untrained_checkpoint(args).resolve(), args.folder.resolve() / "maps"
    for height in (side, side // 2):
        scene = write_scene(args, height, side).resolve()
        yield {"case": f"{height} x {side} x {BANDS} uint16", **measured(
            "predict.py", "--checkpoint", checkpoint, "--device", "cpu", "--out", maps, scene)}


def margins(args):
    """Share of a scene's pixels whose class differs from the whole scene's at once, by network and margin."""
    import predict as script
    from engine.checkpoint import load_checkpoint, load_model

    def classes(checkpoint, window, margin):
        path, = script.main(script.parse_args([
            "--checkpoint", checkpoint, "--out", str(args.folder / "margins"), "--window", str(window), "--margin",
            str(margin), "--device", "cpu", args.scene]))
        with open_raster(path) as raster:
            return raster.read(0, 0, raster.height, raster.width)

    if not args.checkpoint or not args.scene:
        raise ValueError("margins needs --checkpoint and --scene")
    for checkpoint in args.checkpoint:
        model, name = load_model(checkpoint)[0], load_checkpoint(checkpoint)["model"]["name"]
        whole = classes(checkpoint, 2**20, 0)
        for margin in sorted({0, 16, 32, 64, 128, model.radius or 192}):
            window = 2 * margin + 128
            differing = 100 * float((classes(checkpoint, window, margin) != whole).mean())
            yield {"case": f"{name}, {checkpoint}, radius {model.radius} px, margin {margin} px, window {window} px",
                   "differing_percent": differing}


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError, ImportError) as error:
        print(f"scenes.py: {error}", file=sys.stderr)
        sys.exit(2)
