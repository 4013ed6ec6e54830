"""Predict class maps of whole scenes, of any number and size, with the network of a checkpoint.

    python predict.py --checkpoint runs/demo-unet-1 scene.tif other.jpg --out maps
    torchrun --nproc-per-node 2 predict.py --checkpoint runs/demo-unet-1 scenes/*.tif --out maps

writes for each scene, named after it:
    <scene>_classes.tif   the class of every pixel as a palette GeoTIFF, 255 where the scene has no
                          data; its legend for GDAL and QGIS in <scene>_classes.tif.aux.xml and
                          <scene>_classes.qml
    <scene>_overlay.png   the scene beside its classes, each at most 2,000 px, with a legend
    <scene>_areas.csv     pixels and share of each class, and its area if the pixel size is known
    --probabilities       also <scene>_probabilities.tif, one band per class, 0 to 255, and
                          <scene>_confidence.tif, that of the class on the map; 0 is no data
    --polygons            also <scene>_classes.gpkg, polygons of the map, and the confidence
    several --checkpoint  their mean; --probabilities writes <scene>_mutual_information.tif, too
    --suggest N           also <scene>_points.csv and <scene>_points.png, the pixels to label next
A scene's files take their names when all of them are complete. torchrun shares the scenes out.

The scene is read in windows that overlap by a margin, and only the centre of each window is kept.
With the default margin, the radius of the network's receptive field, the result is that of the
whole scene at once. Memory holds one window, and the maps of one row of windows. A network that
looks at the whole image has no radius: its margin is 64 px, and the result differs a little.
"""

import engine.startup  # first: what may happen while torch is imported
import functools
import pathlib
import threading
from concurrent.futures import ThreadPoolExecutor

from engine.cli import Parser, area, number, one_line_errors, parse_first


def parse_args(argv=None):
    """The command line; `python predict.py --help` shows it."""
    parser = Parser(description="Class maps of whole scenes with the network of a checkpoint.",
                    epilog="example: python predict.py --checkpoint runs/demo scene.tif")
    flag = parser.add_argument_group("what to map").add_argument
    flag("scenes", nargs="+", metavar="SCENE",
         help="GeoTIFF, TIFF, PNG or JPEG with the bands of the training scenes (with rasterio "
              "installed: what GDAL reads), or a text file NAME.txt that lists the files of one "
              "scene")
    flag("--checkpoint", required=True, action="append", help="a run folder (its best.pt, or else "
         "its last.pt), or one of its .pt files; given several times: their mean")
    flag("--scale", type=number(float, 1e-6, 16),
         help="resize the scenes by this factor first, as prepare_data.py's --scale; not given: "
              "the factor of the training scenes")
    flag("--max-pixels", type=number(int, 1), default=2**31,
         help="largest PNG or JPEG to decode, px")
    flag = parser.add_argument_group("what to write").add_argument
    flag("--out", default=".", help="folder for the maps")
    flag("--probabilities", action="store_true",
         help="also write the probability of every class, and the confidence of the map")
    flag("--polygons", action="store_true", help="also write the map as polygons (GeoPackage)")
    flag("--min-area", type=area, default="0",
         help="merge smaller polygons, the smallest first, into the neighbour of longest shared "
              "border; in m2, or in pixels as 20px; 0 keeps all")
    flag("--simplify", type=number(float, 0), default=0,
         help="how far a border may move to lose corners, px; 1 straightens steps, 0 keeps them")
    flag("--suggest", type=number(int, 0, 10_000), default=0, metavar="N",
         help="also write N pixels of each scene to label next, drawn at random and 16 px "
         "apart, because nothing that was tried is better; 0 is none")
    flag = parser.add_argument_group("how").add_argument
    flag("--window", type=int, help="largest side of a window, margins included, px; not given: "
         "1024, or four margins if that is more")
    flag("--margin", type=int,
         help="border of a window that is discarded, px; smaller is faster; not given: the "
              "network's radius, which makes the result exact, or 64 if it has none")
    flag("--tta", action="store_true", help="average the probabilities over the eight symmetries "
         "of the square: better maps in eight times the time")
    flag("--amp", default="off", choices=("auto", "bf16", "off"), help="precision, as "
         "train.py --amp: bf16 is faster on some processors, and some pixels change class")
    flag("--device", default="auto", choices=("auto", "cpu", "cuda", "mps"),
         help="where to compute; mps is not tested")
    return parser.parse_args(argv)


if __name__ == "__main__":  # before torch is imported, which takes seconds
    ARGS = parse_first(parse_args)

import numpy as np
import torch
from tqdm import tqdm

from data import normalise
from engine.device import amp_dtype, autocast, describe_amp, pick_device, return_freed_memory
from engine.distributed import torchrun_environment
from engine.ensemble import load_ensemble
from engine.meta import display_limits
from geo.maps import (
    NO_DATA, RowBlock, check_free, check_names, count_levels, overview_stride, polygon_settings,
    write_maps)
from geo.windows import (
    WINDOW, axis_windows, compute_in_bands, count_workers, discarded_margin, predict_window,
    valid_slices, window_and_margin)
from networks import fold_batch_norm
from report.figures import to_rgb
from sources.match import open_as_trained, warn_of_scale
from sources.scenes import at_scale, open_scene


def main(args):
    """Predict every scene, or this process's share of them; returns the paths of the class maps."""
    rank, local_rank, processes = torchrun_environment()
    device = pick_device(args.device)
    if device.type == "cuda":
        torch.cuda.set_device(local_rank % torch.cuda.device_count())
    model, meta = load_ensemble(args.checkpoint, device)
    model = fold_batch_norm(model)
    if device.type == "cpu":
        compute_in_bands(model)
    args.window, args.margin = window_and_margin(args.window, args.margin, model)
    if args.window > WINDOW:  # smaller ones would take longer, and have less to return
        return_freed_memory()
    args.scale = args.scale or meta.get("scale") or 1.0
    check_names(args.scenes)
    scenes = args.scenes[rank::processes]
    for scene in scenes:
        check_free(pathlib.Path(args.out), pathlib.Path(scene).stem, args.suggest)
    pathlib.Path(args.out).mkdir(parents=True, exist_ok=True)
    print(f"predicting on {describe_amp(device, args.amp)}")
    with overall_progress(scenes, args) as progress:
        paths = [map_scene(scene, model, meta, device, args, progress) for scene in scenes]
    if paths:
        print(f"next: open {paths[0]} in QGIS")
    return paths


def overall_progress(scenes, args):
    """A progress bar over the pixels of all scenes; opens each, so a bad one is refused early."""
    pixels = 0
    for scene in scenes:
        with open_scene(scene, args.max_pixels) as raster:
            pixels += raster.height * raster.width * args.scale**2
    return tqdm(total=pixels, unit="px", unit_scale=True, disable=None)


def map_scene(path, model, meta, device, args, progress):
    """Predict one scene and write its files; returns the path of the class map."""
    trained = " and ".join(args.checkpoint)  # to be named in messages
    with open_as_trained(path, meta, trained, args.max_pixels) as raster:
        file_size = raster.height, raster.width
        raster = at_scale(raster, args.scale)
        warn_of_scale(raster, meta["gsd_m"], args.scale)
        polygons = polygon_settings(args, raster)
        row_blocks = WindowPredictor(model, raster, meta, device, args).row_blocks(progress)
        return write_maps(row_blocks, raster, meta, args.out, args.probabilities, args.suggest,
                          file_size, polygons)


class WindowPredictor:
    """Predict a scene in overlapping windows, one row of windows after the other.

    Args:
        model: in eval mode, on `device`.
        raster: an open Raster that fits the model.
        meta: data meta of the checkpoint.
        device: torch.device.
        args: the command's; window and margin are multiples of the network's stride, px.
    """

    def __init__(self, model, raster, meta, device, args):
        self.model = model
        self.raster = raster
        self.meta = meta
        # To networks of earlier commits nodata in single bands was data, and NaN a missing pixel.
        self.by_band = "scene_nodata" in meta or isinstance(meta.get("nodata"), list)
        self.device = device
        self.amp = amp_dtype(device, args.amp)
        self.args = args
        self.rows = axis_windows(raster.height, args.window, args.margin, model.stride)
        self.cols = axis_windows(raster.width, args.window, args.margin, model.stride)
        self.overview_stride = overview_stride(raster.height, raster.width)
        self.limits = display_limits(meta)
        self.reading = threading.Lock()

    def row_blocks(self, progress=tqdm(disable=True)):
        """Yield a maps.RowBlock per row of windows, top to bottom; progress: tqdm of pixels."""
        workers = count_workers(self.rows, self.cols, self.device)
        threads = torch.get_num_threads() // workers
        pool = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=[threads])
        run = pool.map if workers > 1 else map
        progress.set_description(self.raster.path.name)
        try:
            for number, row in enumerate(self.rows):
                block = self.empty_block(row)
                # There and back: the parts of the file that were decoded last are read first.
                cols = self.cols[::-1] if number % 2 else self.cols
                for num_pixels in run(functools.partial(self.process, block, row), cols):
                    progress.update(num_pixels)
                yield block
        finally:
            pool.shutdown(cancel_futures=True)

    def empty_block(self, row):
        """A RowBlock for a row of windows, to be filled in."""
        height = row.keep_to - row.keep_from
        width = self.raster.width
        num_bands = 1  # the classes
        if self.args.polygons:
            num_bands = 2  # and the confidence
        if self.args.probabilities:
            num_bands = 2 + count_levels(self.meta)
        bands = np.empty((height, width, num_bands), dtype=np.uint8)
        stride = self.overview_stride
        shown_rows = range(-row.keep_from % stride, height, stride)
        shown_cols = range(0, width, stride)
        rgb = np.empty((len(shown_rows), len(shown_cols), 3), dtype=np.uint8)
        return RowBlock(bands, rgb)

    def process(self, block, row, col):
        """Predict a window and write what is kept of it into a RowBlock; returns its pixels."""
        image, missing = self.read(row, col)
        margin = discarded_margin(row, col, self.args.margin)
        in_window = valid_slices(row, col)
        in_prediction = valid_slices(row, col, margin)
        self.keep_image(block, row, col, image[in_window])
        inputs = self.network_input(image, missing)
        missing = self.without_data(image, missing)[in_window].copy()
        del image  # the network needs the memory
        classes, probabilities = self.predict(inputs, margin)
        self.keep(block, col, missing, in_prediction, classes, probabilities)
        return (row.keep_to - row.keep_from) * (col.keep_to - col.keep_from)

    def read(self, row, col):
        """The (h, w, C) pixels of a window, and (h, w, C) bool which values are no data."""
        with self.reading:  # a raster serves one thread at a time
            return self.raster.read_masked(row.origin, col.origin, row.size, col.size)

    def network_input(self, image, missing):
        """The (1, C, h, w) float32 input of the network for a window as from `read`."""
        inputs = torch.from_numpy(image)[None].to(self.device)  # (1, h, w, C)
        inputs = normalise(inputs, self.meta["mean"], self.meta["std"])
        if missing.any():  # such values are the band's mean, as in training
            if not self.by_band:
                missing = missing.all(axis=2, keepdims=True)
            inputs.masked_fill_(torch.from_numpy(missing).to(self.device).permute(2, 0, 1), 0)
        return inputs

    def without_data(self, image, missing):
        """(h, w) bool: the pixels without data in a window as from `read`."""
        # `all` over an axis as short as the bands is slow, and most windows miss nothing.
        pixels = missing.all(axis=2) if missing.any() else missing[:, :, 0]
        if not self.by_band:
            pixels = pixels | ~np.isfinite(image).all(axis=2)
        return pixels

    def predict(self, inputs, margin):
        """Classes and probabilities of a window without its margin, as `predict_window`."""
        wanted = self.args.probabilities or self.args.polygons
        with autocast(self.device, self.amp):
            return predict_window(self.model, inputs, margin, self.args.tta, wanted)

    def keep(self, block, col, missing, inside, classes, probabilities):
        """Write what is kept of a predicted window into its columns of a RowBlock.

        Args:
            block: RowBlock of the row of windows.
            col: the window along the columns.
            missing: (h, w) bool, where the part kept is no data.
            inside: slices of the part kept of what was predicted.
            classes, probabilities: as from `predict`.
        """
        cols = slice(col.keep_from, col.keep_to)
        num_classes = len(self.meta["classes"])
        block.bands[:, cols, 0] = np.where(missing, NO_DATA, classes[inside])
        if self.args.probabilities or self.args.polygons:
            levels = (255 * probabilities[0]).round().byte().cpu().numpy()
            levels = levels[(..., *inside)] * ~missing  # (K or K + 1, h, w)
            block.bands[:, cols, 1] = levels[:num_classes].max(axis=0)
        if self.args.probabilities:
            block.bands[:, cols, 2:] = np.moveaxis(levels, 0, 2)

    def keep_image(self, block, row, col, image):
        """Write the pixels that the overview shows of the part kept (h, w, C) of a window."""
        stride = self.overview_stride
        shown = image[-row.keep_from % stride::stride, -col.keep_from % stride::stride]
        start = -(-col.keep_from // stride)  # px of the overview
        rgb = to_rgb(shown, self.meta["rgb"], self.limits)
        block.rgb[:, start:start + rgb.shape[1]] = rgb


if __name__ == "__main__":
    with one_line_errors("predict.py", "nothing is left of the scene under way",
                         "lower --window"):
        main(ARGS)
