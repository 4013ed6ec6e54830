"""Class maps of whole scenes: any number of files, of any size, with the network of a checkpoint.

    python predict.py --checkpoint runs/demo-unet-1/best.pt scene.tif other.jpg --out maps
    torchrun --nproc-per-node 2 predict.py --checkpoint best.pt scenes/*.tif --out maps     shares the scenes out

writes for each scene, named after it:
    <scene>_classes.tif   the class of every pixel as a palette GeoTIFF, 255 where the scene has no data; its legend for
                          GDAL and QGIS in <scene>_classes.tif.aux.xml and <scene>_classes.qml
    <scene>_overlay.png   the scene under its classes, at most 2,000 px, with a legend of the classes found
    <scene>_areas.csv     pixels and share of each class, and its area where the size of a pixel is known
With --probabilities also <scene>_probabilities.tif, a band a class, 255 being certainty and all bands 0 where there is
no data, and <scene>_confidence.tif, that of the class on the map; with --suggest <scene>_points.csv and
<scene>_points.png, the pixels to label next. Files take their names when all of a scene's are whole.

The scene is read in windows that overlap by a margin, and of each window only the centre is kept. With the default
margin, the radius of the network's receptive field, the result is that of the whole scene at once, in the memory of a
window and of the maps under a row of them. A network that looks at the whole image has no radius: its margin is 64 px,
and the result differs a little.
"""

import argparse
import dataclasses
import os
import pathlib
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from tqdm import tqdm

from data import normalise
from engine.checkpoint import load_model
from engine.cli import HelpFormatter
from engine.device import out_of_memory, pick_device
from engine.meta import display_limits
from geo.maps import NO_DATA, RowBlock, overview_stride, write_maps
from geo.windows import (
    WINDOW,
    axis_windows,
    discarded_margin,
    predict_window,
    valid_slices,
    window_and_margin,
)
from networks import fold_batch_norm
from report.figures import to_rgb
from sources.scenes import open_scene, resize, scaled, warn_of_unread
from weak.suggest import SQUARE, uncertainty


def parse_args(argv=None):
    """The command line; `python predict.py --help` shows it."""
    parser = argparse.ArgumentParser(description="Class maps of whole scenes with the network of a checkpoint.",
                                     epilog="example: python predict.py --checkpoint runs/demo/best.pt scene.tif",
                                     formatter_class=HelpFormatter)
    flag = parser.add_argument_group("what to map").add_argument
    flag("scenes", nargs="+", metavar="SCENE", help="GeoTIFF, TIFF, PNG or JPEG with the bands trained on, or a list "
         "of a scene's files, NAME.txt")
    flag("--checkpoint", required=True, help="best.pt or last.pt of a run")
    flag("--scale", type=float, help="resize the scenes by this factor first, as prepare_data.py's --scale; not given: "
         "what the training scenes were resized by")
    flag("--max-pixels", type=int, default=2**31, help="largest PNG or JPEG to decode, px")
    flag = parser.add_argument_group("what to write").add_argument
    flag("--out", default=".", help="folder for the maps")
    flag("--probabilities", action="store_true", help="also write those of every class, and the map's confidence")
    flag("--suggest", type=int, default=0, metavar="N", help="also name the N pixels of each scene to label next; "
         "0 is none")
    flag = parser.add_argument_group("how").add_argument
    flag("--window", type=int, help="largest side of what is read at a time, margins included, px; not given: 1024, or "
         "four margins where that is more")
    flag("--margin", type=int, help="px of a window's border that are thrown away; not given: the network's radius, "
         "which makes the result exact, or 64 where it has none; smaller is faster")
    flag("--tta", action="store_true", help="average the probabilities over the eight symmetries of the square: better "
         "maps in eight times the time")
    flag("--device", default="auto", choices=("auto", "cpu", "cuda", "mps"), help="where to compute; mps is not tested")
    return parser.parse_args(argv)


def main(args):
    """Predict every scene, or under torchrun this process's share of them; returns the paths of the class maps."""
    processes = max(1, int(os.environ.get("WORLD_SIZE", 1)))
    rank, local = (int(os.environ.get(name, 0)) if processes > 1 else 0 for name in ("RANK", "LOCAL_RANK"))
    device = pick_device(args.device)
    if device.type == "cuda":
        torch.cuda.set_device(local % torch.cuda.device_count())
    model, meta = load_model(args.checkpoint, device)
    model = fold_batch_norm(model)
    args.window, args.margin = window_and_margin(args.window, args.margin, model)
    scale = args.scale if args.scale is not None else meta.get("scale") or 1.0
    if not 0 < scale <= 16 or args.suggest < 0:
        raise ValueError(f"--scale {scale} --suggest {args.suggest}: give a scale above 0, at most 16, and 0 or more "
                         "points")
    stems = [pathlib.Path(scene).stem for scene in args.scenes]
    twice = [stem for stem in stems if stems.count(stem) > 1]
    if twice:
        raise ValueError(f"two scenes are called {twice[0]}, and one map would overwrite the other: give them in two "
                         "calls with different --out")
    for scene, stem in zip(args.scenes, stems):
        if not stem.strip("."):
            raise ValueError(f"{scene} has no name that its maps could take: rename it")
    for stem in stems[rank::processes]:
        check_free(pathlib.Path(args.out), stem, args.suggest)
    pathlib.Path(args.out).mkdir(parents=True, exist_ok=True)
    paths = []
    for scene in args.scenes[rank::processes]:
        with open_scene(scene, args.max_pixels) as raster:
            raster.nodata = meta.get("nodata") if raster.nodata is None else raster.nodata
            check_scene(raster, meta, args.checkpoint)
            file_size, raster = (raster.height, raster.width), at_scale(raster, scale)
            warn_of_scale(raster, meta["gsd_m"], scale)
            strips = predicted_strips(model, raster, meta, device, args)
            paths.append(write_maps(strips, raster, meta, args.out, args.probabilities, args.suggest, file_size))
    return paths


def check_free(out, stem, suggest):
    """Refuse to write over what is not of this program, or holds somebody's work: ValueError.

    Args:
        out: folder of the maps; stem: the scene's name.
        suggest: whether pixels to label are named, in a file that people then fill in.
    """
    classes, points = out / f"{stem}_classes.tif", out / f"{stem}_points.csv"
    if classes.exists() and not pathlib.Path(f"{classes}.aux.xml").exists():  # the legend that each of our maps has
        raise ValueError(f"{classes} is there already and is no map of this program: give another --out")
    if suggest and points.exists():
        raise ValueError(f"{points} is there already, and may hold classes that were filled in: move it, or give another --out")


def warn_of_scale(raster, gsd, scale):
    """Say so where a pixel, as it is predicted, is not of the size that the network was trained on (m, or None: unknown)."""
    here = raster.georeference and raster.georeference.gsd_m
    if here and gsd and not 0.95 < here / gsd < 1.05:
        print(f"warning: {raster.path} is predicted at {here:.3g} m a pixel, the network learned at {gsd:.3g} m: --scale "
              f"{scale * here / gsd:.4g} would bring them together", file=sys.stderr)


def check_scene(raster, meta, checkpoint):
    """See that a scene is what the network was trained on.

    Raises:
        ValueError: another number of bands, another dtype, or a palette.
    """
    warn_of_unread(raster)
    if raster.palette is not None:
        raise ValueError(f"{raster.path} has a palette, so its values are no intensities: convert it to RGB")
    if raster.bands != meta["bands"]:
        raise ValueError(f"{raster.path} has {raster.bands} bands, but {checkpoint} was trained on {meta['bands']}: "
                         "give scenes with the same bands in the same order")
    if str(raster.dtype) != meta["dtype"]:
        raise ValueError(f"{raster.path} holds {raster.dtype}, but {checkpoint} was trained on {meta['dtype']}: its "
                         "values would mean something else; convert the scene as the training scenes were")


class Resized:
    """A raster at another size, in the place of a Raster's file."""

    def __init__(self, raster, height, width):
        self.raster, self.size = raster, (height, width)

    def copy(self, row, col, window):
        """Copy what lies at row, col into window (h, w, C)."""
        window[:] = resize(self.raster, *self.size, smooth=True, window=(row, col, *window.shape[:2]))


def at_scale(raster, scale):
    """A raster resized as prepare_data.py resizes scenes, its georeference too; itself at scale 1."""
    if scale == 1:
        return raster
    height, width = scaled(raster.height, scale), scaled(raster.width, scale)
    factors = raster.height / height, raster.width / width  # not 1 / scale: sides are whole px, and the map ends where it did
    georeference = raster.georeference and raster.georeference.window(0, 0, factors)
    return dataclasses.replace(raster, source=Resized(raster, height, width), height=height, width=width,
                               georeference=georeference)


def predicted_strips(model, raster, meta, device, args):
    """Predict a scene, one row of windows after the other.

    Args:
        model: in eval mode, on `device`.
        raster: an open Raster that fits the model.
        meta: data meta of the checkpoint.
        device: torch.device.
        args: the command's; window and margin are multiples of the network's stride, px.
    Yields:
        maps.RowBlock, top to bottom.
    """
    rows = axis_windows(raster.height, args.window, args.margin, model.stride)
    cols = axis_windows(raster.width, args.window, args.margin, model.stride)
    every, limits = overview_stride(raster.height, raster.width), display_limits(meta)
    count = 2 + len(meta["classes"]) if args.probabilities else 1
    # On the CPU two small windows are computed at a time, each by half of the threads, which then wait less for one another.
    small = 2 * rows[0].size * cols[0].size <= WINDOW**2  # together no more memory than one window of the default size
    workers = 2 if device.type == "cpu" and small and min(torch.get_num_threads(), len(cols)) > 1 else 1
    pool = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=[torch.get_num_threads() // workers])
    reading = threading.Lock()
    progress = tqdm(total=len(rows) * len(cols), desc=raster.path.name, disable=None, unit="window")

    def fill(row, col, layers, doubt):
        """Predict one window into its place in the strip; returns its pixels for the overview."""
        with reading:
            image = raster.read(row.origin, col.origin, row.size, col.size)  # (h, w, C)
        missing = raster.no_data(image)
        inputs = normalise(torch.from_numpy(image)[None].to(device), meta["mean"], meta["std"], raster.nodata)
        if raster.alpha is not None:  # transparent pixels are of the bands' mean, as in training
            inputs.masked_fill_(torch.from_numpy(missing).to(device), 0)
        margin = discarded_margin(row, col, args.margin)
        margin = max(margin - SQUARE // 2, 0) if args.suggest else margin  # doubt is averaged over a square
        classes, probabilities = predict_window(model, inputs, margin, args.tta, args.probabilities or args.suggest)
        window, within = valid_slices(row, col), valid_slices(row, col, margin)
        missing, across = missing[window], np.s_[:, col.keep_from:col.keep_to]
        layers[across][:, :, 0] = np.where(missing, NO_DATA, classes[within])
        if args.probabilities:
            levels = (255 * probabilities[0]).round().byte().cpu().numpy()[(..., *within)] * ~missing  # (K, h, w)
            layers[across][:, :, 1] = levels.max(axis=0)
            layers[across][:, :, 2:] = np.moveaxis(levels, 0, 2)
        if args.suggest:
            doubt[across] = np.where(missing, -np.inf, uncertainty(probabilities)[0].cpu().numpy()[within])
        shown = image[window][-row.keep_from % every::every, -col.keep_from % every::every]
        progress.update()
        return shown.copy()  # a view would keep the whole window in memory until the strip's end

    try:
        for number, row in enumerate(rows):
            turn = slice(None, None, -1 if number % 2 else 1)  # there and back: what was decoded last is read again first
            height = row.keep_to - row.keep_from
            layers = np.empty((height, raster.width, count), dtype=np.uint8)
            doubt = np.empty((height, raster.width), dtype=np.float32) if args.suggest else None
            overview = list((pool.map if workers > 1 else map)(lambda col: fill(row, col, layers, doubt), cols[turn]))
            yield RowBlock(layers, to_rgb(np.concatenate(overview[turn], axis=1), meta["rgb"], limits), doubt)
    finally:
        pool.shutdown(cancel_futures=True)
        progress.close()


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # end it as Ctrl-C does: what is half-written is removed
    try:
        main(parse_args())
    except (ValueError, OSError) as error:
        print(f"predict.py: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        print("predict.py: out of memory: lower --window", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("predict.py: interrupted; nothing is left of the scene under way", file=sys.stderr)
        sys.exit(130)
