"""Class maps of whole scenes: any number of files, of any size, with the network of a checkpoint.

    python predict.py --checkpoint runs/demo-unet-1/best.pt scene.tif other.jpg --out maps

writes for each scene, named after it:
    <scene>_classes.tif   the class of every pixel as a palette GeoTIFF, 255 where the scene has no data
    <scene>_overlay.png   the scene under its classes, at most 2,000 px, with a legend of the classes found
    <scene>_areas.csv     pixels and share of each class, and its area where the size of a pixel is known

The scene is read in windows that overlap by a margin, and of each window only the centre is kept. With the default margin,
the radius of the network's receptive field, the result is that of the whole scene at once, in the memory of one row of
windows.
"""

import argparse
import collections
import csv
import dataclasses
import os
import pathlib
import sys

import numpy as np
import torch
from tqdm import tqdm

from checkpoint import load_model
from data import display_limits, normalise, pick_device
from figures import overlay, save_png, to_rgb, with_legend
from metrics import class_map
from raster import open_raster, write_geotiff
from scenes import resize, scaled

OVERVIEW_SIDE = 2000  # px, most of an overlay's side
MARGIN_WITHOUT_RADIUS = 64  # px, for networks whose receptive field is the whole image
NO_DATA = 255

Window = collections.namedtuple("Window", "origin size keep_from keep_to")


def parse_args(argv=None):
    """The command line; `python predict.py --help` shows it."""
    parser = argparse.ArgumentParser(description="Class maps of whole scenes with the network of a checkpoint.",
                                     epilog="example: python predict.py --checkpoint runs/demo-unet-1/best.pt scene.tif",
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("scenes", nargs="+", metavar="SCENE", help="GeoTIFF, TIFF, PNG or JPEG, with the bands trained on")
    parser.add_argument("--checkpoint", required=True, help="best.pt or last.pt of a run")
    parser.add_argument("--out", default=".", help="folder for the maps")
    parser.add_argument("--window", type=int, default=1024, help="side of what is read at a time, margins included, px")
    parser.add_argument("--margin", type=int, help="px of a window's border that are thrown away; not given: the network's "
                        "radius, which makes the result exact; smaller is faster")
    parser.add_argument("--scale", type=float, help="resize the scenes by this factor first, as prepare_data.py's --scale; not "
                        "given: what the training scenes were resized by; other than 1 holds a scene in memory")
    parser.add_argument("--max-pixels", type=int, default=2**31, help="largest PNG or JPEG to decode, px")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda", "mps"), help="where to compute")
    return parser.parse_args(argv)


def main(args):
    """Predict every scene; returns the paths of the class maps."""
    device = pick_device(args.device)
    model, facts = load_model(args.checkpoint, device)
    window, margin = window_and_margin(args.window, args.margin, model)
    scale = args.scale if args.scale is not None else facts.get("scale") or 1.0
    if not 0 < scale <= 16:
        raise ValueError(f"--scale {scale}: give a factor above 0 and at most 16")
    stems = [pathlib.Path(scene).stem for scene in args.scenes]
    twice = [stem for stem in stems if stems.count(stem) > 1]
    if twice:
        raise ValueError(f"two scenes are called {twice[0]}, and one map would overwrite the other: give them in two calls "
                         "with different --out")
    pathlib.Path(args.out).mkdir(parents=True, exist_ok=True)
    paths = []
    for scene in args.scenes:
        with open_raster(scene, args.max_pixels) as raster:
            check_scene(raster, facts, args.checkpoint)
            raster = at_scale(raster, scale)
            paths.append(predict_scene(model, raster, facts, device, window, margin, args.out))
    return paths


def window_and_margin(window, margin, model):
    """The sizes asked for, brought to multiples of the network's stride.

    Args:
        window: side with both margins, px; rounded up.
        margin: px, rounded up; None is the network's radius.
        model: with .stride and .radius, px.
    Returns:
        (window, margin), px.
    Raises:
        ValueError: a negative margin, or nothing left between the margins.
    """
    if margin is None:
        margin = MARGIN_WITHOUT_RADIUS if model.radius is None else model.radius
    if margin < 0 or window < 1:
        raise ValueError(f"--window {window} --margin {margin}: give a window of 1 px or more and a margin of 0 or more")
    window, margin = (-(-side // model.stride) * model.stride for side in (window, margin))
    if window <= 2 * margin:
        raise ValueError(f"--window {window} leaves nothing between two margins of {margin} px: give --window "
                         f"{4 * margin} or more, or a smaller --margin")
    return max(window, 2 * model.stride), margin


def check_scene(raster, facts, checkpoint):
    """See that a scene is what the network was trained on.

    Raises:
        ValueError: another number of bands or another dtype.
    """
    if raster.bands != facts["bands"]:
        raise ValueError(f"{raster.path} has {raster.bands} bands, but {checkpoint} was trained on {facts['bands']}: give "
                         "scenes with the same bands in the same order")
    if str(raster.dtype) != facts["dtype"]:
        raise ValueError(f"{raster.path} holds {raster.dtype}, but {checkpoint} was trained on {facts['dtype']}: its values "
                         "would mean something else; convert the scene as the training scenes were")


class Pixels:
    """A whole image in memory, in the place of a Raster's file."""

    def __init__(self, pixels):
        self.pixels = pixels

    def copy(self, row, col, window):
        """Copy what lies at row, col into window (h, w, C)."""
        window[:] = self.pixels[row:row + window.shape[0], col:col + window.shape[1]]


def at_scale(raster, scale):
    """A raster resized as prepare_data.py resizes scenes, its georeference too; itself at scale 1."""
    if scale == 1:
        return raster
    height, width = scaled(raster.height, scale), scaled(raster.width, scale)
    return dataclasses.replace(raster, source=Pixels(resize(raster, height, width, smooth=True)), height=height, width=width,
                               georeference=raster.georeference and raster.georeference.window(0, 0, 1 / scale))


def window_origins(length, window, margin, stride):
    """Where along one axis to place windows so that their centres tile it.

    The last window is moved inward, never shrunk, so that every window has one shape.

    Args:
        length: padded axis length, px; a multiple of stride.
        window: window side including both margins, px; a multiple of stride.
        margin: px thrown away on each inner side, a multiple of stride; 0 <= 2*margin < window.
        stride: the network's total stride, px.
    Returns:
        (N,) list of origins, px, ascending.
    """
    if length <= window:
        return [0]
    return [*range(0, length - window, window - 2 * margin), length - window]


def axis_windows(length, window, margin, stride):
    """The windows along one axis of a scene, with what is kept of each.

    A window reaches over the scene's end only where the network's own padding does, by less than a stride; the network
    then pads it exactly as it would pad the whole scene.

    Args:
        length: axis length of the scene, px.
        window, margin, stride: as in `window_origins`.
    Returns:
        list of Window(origin, size, keep_from, keep_to), px of the scene; the parts kept lie end to end.
    """
    padded = max(-(-length // stride) * stride, 2 * stride)
    origins = window_origins(padded, window, margin, stride)
    cuts = [0] + [origin + margin for origin in origins[1:]] + [length]
    return [Window(origin, min(window, length - origin), cuts[i], min(cuts[i + 1], length)) for i, origin in enumerate(origins)]


def predict_scene(model, raster, facts, device, window, margin, out):
    """Write the class map, overlay and areas of one scene.

    Args:
        model: in eval mode, on `device`.
        raster: an open Raster that fits the model.
        facts: data facts of the checkpoint.
        device: torch.device.
        window, margin: px, multiples of the network's stride.
        out: folder, exists.
    Returns:
        path of the class map.
    Raises:
        ValueError: the scene is damaged, or no pixel of it holds data.
    """
    stem = pathlib.Path(out, raster.path.stem)
    counts = np.zeros(256, dtype=np.int64)
    every = -(-max(raster.height, raster.width) // OVERVIEW_SIDE)  # the overview keeps every such row and column
    small_rgb, small_classes = [], []

    def strips():
        """Hand the strips on to the writer, keeping what the areas and the overview need of them."""
        top = 0
        for classes, rgb in class_strips(model, raster, facts, device, window, margin, every):
            counts[:] += np.bincount(classes.reshape(-1), minlength=256)
            small_rgb.append(rgb)
            small_classes.append(classes[-top % every::every, ::every])
            top += len(classes)
            yield classes
        if counts[:NO_DATA].sum() == 0:
            raise ValueError(f"{raster.path} holds no data at all, every pixel is NaN or nodata: nothing to predict")

    path = pathlib.Path(f"{stem}_classes.tif")
    palette = np.zeros((256, 3), dtype=np.uint8)
    palette[:len(facts["colours"])] = facts["colours"]
    write_geotiff(path, strips(), raster.height, raster.width, 1, "uint8", palette, NO_DATA, raster.georeference)
    found = [k for k in range(len(facts["classes"])) if counts[k]]
    gsd_m = raster.georeference.gsd_m if raster.georeference else None
    write_areas(f"{stem}_areas.csv", facts["classes"], counts, gsd_m)
    rgb = overlay(np.concatenate(small_rgb), np.concatenate(small_classes), facts["colours"])
    entries = [(facts["classes"][k], facts["colours"][k], f"{100 * counts[k] / counts[:NO_DATA].sum():.1f} %") for k in found]
    save_png(with_legend(rgb, entries, raster.path.name), f"{stem}_overlay.png")
    print(f"{path}\n{stem}_overlay.png\n{stem}_areas.csv")
    return path


def class_strips(model, raster, facts, device, window, margin, every):
    """Predict a scene, one row of windows after the other.

    Args:
        model, raster, facts, device, window, margin: as in `predict_scene`.
        every: of the image, each so many-th row and column is handed on for the overview.
    Yields:
        (h, W) uint8 classes, NO_DATA where the scene has none, and (h', W', 3) uint8 of the image; top to bottom.
    """
    rows = axis_windows(raster.height, window, margin, model.stride)
    cols = axis_windows(raster.width, window, margin, model.stride)
    limits = display_limits(facts)
    progress = tqdm(total=len(rows) * len(cols), desc=raster.path.name, disable=None, unit="window")
    for row in rows:
        height = row.keep_to - row.keep_from
        classes = np.empty((height, raster.width), dtype=np.uint8)
        overview = []
        for col in cols:
            image = raster.read(row.origin, col.origin, row.size, col.size)  # (h, w, C)
            inputs = normalise(torch.from_numpy(image)[None].to(device), facts["mean"], facts["std"], raster.nodata)
            with torch.inference_mode():
                predicted = class_map(model(inputs))[0].cpu().numpy()  # (h, w)
            predicted[raster.no_data(image)] = NO_DATA
            kept = np.s_[row.keep_from - row.origin:row.keep_to - row.origin, col.keep_from - col.origin:col.keep_to - col.origin]
            classes[:, col.keep_from:col.keep_to] = predicted[kept]
            overview.append(image[kept][-row.keep_from % every::every, -col.keep_from % every::every])
            progress.update()
        yield classes, to_rgb(np.concatenate(overview, axis=1), facts["rgb"], limits)
    progress.close()


def write_areas(path, names, counts, gsd_m):
    """Write pixels, share and area of each class as CSV.

    Args:
        path: where to.
        names: K class names.
        counts: (256,) pixels per value; NO_DATA is not counted in the shares.
        gsd_m: side of a pixel, m, or None.
    """
    total = counts[:NO_DATA].sum()
    temporary = f"{path}.tmp"
    with open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["class", "pixels", "share_percent"] + (["area_ha"] if gsd_m else []))
        for k, name in enumerate(names):
            area = [f"{counts[k] * gsd_m ** 2 / 1e4:.4f}"] if gsd_m else []
            writer.writerow([name, counts[k], f"{100 * counts[k] / total:.3f}"] + area)
    os.replace(temporary, path)


if __name__ == "__main__":
    try:
        main(parse_args())
    except (ValueError, OSError) as error:
        print(f"predict.py: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
