"""Export the network of a checkpoint for programs without this project, such as QGIS.

    python export.py --checkpoint runs/demo-unet-1 --onnx model.onnx
    python export.py --checkpoint runs/demo-unet-1 --size 0 --torch model.pt2

The exported model takes pixels as they are in the scene's file, (1, C, H, W) float32, and returns
the probabilities of the classes, (1, K, H, W) float32, 0 where a pixel has no data. Normalisation
and the value of missing pixels are inside. docs/export.md shows how to load it.
"""

import engine.startup  # first: what may happen while torch is imported
import json
import logging
import os
import pathlib
import sys
import warnings

from engine.cli import Parser, number, one_line_errors, parse_first


def parse_args(argv=None):
    """The command line; `python export.py --help` shows it."""
    parser = Parser(description="Export the network of a checkpoint for other programs.",
                    epilog="example: python export.py --checkpoint runs/demo --onnx model.onnx")
    flag = parser.add_argument
    flag("--checkpoint", required=True,
         help="a run folder (its best.pt, or else its last.pt), or one of its .pt files")
    flag("--onnx", metavar="FILE", help="write an ONNX model, with the metadata that QGIS's plugin "
         "Deepness reads; needs the packages onnx and onnxscript")
    flag("--torch", metavar="FILE", help="write a program for torch.export.load, such as model.pt2")
    flag("--size", type=number(int, 0), help="side of the square images that the model takes, px; "
         "0: any height and width, which Deepness cannot use; not given: predict.py's window")
    args = parser.parse_args(argv)
    if not (args.onnx or args.torch):
        parser.error("nothing to write: give --onnx FILE or --torch FILE")
    return args


if __name__ == "__main__":  # before torch is imported, which takes seconds
    ARGS = parse_first(parse_args)

import torch
import torch.nn as nn
import torch.nn.functional as F

from data import missing_pixels, normalise
from engine.checkpoint import find_checkpoint, load_model
from geo.deepness import deepness_metadata
from geo.windows import window_and_margin
from networks import fold_batch_norm


def main(args):
    """Write the files asked for; returns their paths."""
    paths = [pathlib.Path(path) for path in (args.onnx, args.torch) if path]
    check_writable(args.onnx, paths)
    model, meta = load_model(find_checkpoint(args.checkpoint))
    model = fold_batch_norm(model)
    if args.size is None:
        args.size, _ = window_and_margin(None, None, model)
    program = export_program(RawPixelModel(model, meta, free_size=not args.size), args.size)
    for path in paths:
        temporary = path.with_name(f"{path.stem}.tmp{path.suffix}")
        try:
            if args.onnx and path == pathlib.Path(args.onnx):
                save_onnx(program, temporary, deepness_metadata(model, meta, args.size))
            else:
                torch.export.save(program, temporary)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)  # of a full disk
        print(path)
    if meta.get("scale") not in (None, 1):
        print(f"warning: the scenes of training were resized by {meta['scale']:g}, and the model "
              "does not do that: resize images by the same factor first", file=sys.stderr)
    print("next: load it as docs/export.md shows")
    return paths


def check_writable(onnx, paths):
    """Refuse folders, files in missing ones, --onnx without its packages: OSError, ValueError."""
    for path in paths:
        if not path.parent.is_dir():
            raise FileNotFoundError(f"{path}: there is no folder {path.parent}: make it first")
        if path.is_dir():
            raise IsADirectoryError(f"{path} is a folder: name a file in it")
    try:
        if onnx:
            import onnxscript  # noqa: F401  (imports onnx, too)
    except ImportError as error:
        raise ValueError(f"--onnx needs the package {error.name}: pip install onnx onnxscript"
                         ) from None


class RawPixelModel(nn.Module):
    """A network with what predict.py does around it: stored pixels to probabilities.

    Args:
        model: from `build_model`, in eval mode.
        meta: data meta of its checkpoint.
        free_size: whether it is exported for images of any size.
    """

    def __init__(self, model, meta, free_size=False):
        super().__init__()
        self.model = model
        self.meta = meta
        self.nodata = meta.get("nodata")
        self.free_size = free_size
        self.eval()

    def forward(self, images):
        """(1, C, H, W) stored values as float32 -> (1, K, H, W) probabilities, 0: no data."""
        images = images.permute(0, 2, 3, 1)  # (1, H, W, C)
        if "int" in self.meta["dtype"]:
            images = images.round()  # Deepness scales pixels forth and back, which is not exact
        inputs = normalise(images, self.meta["mean"], self.meta["std"], self.nodata)
        if self.free_size:  # `pad_to_stride` branches on the size, which is not known yet
            height, width = inputs.shape[2:]
            stride = self.model.stride
            bottom = (height + stride - 1) // stride * stride - height
            right = (width + stride - 1) // stride * stride - width
            inputs = F.pad(inputs, (0, right, 0, bottom), mode="replicate")
            # Not a slice: the exported program would refuse widths that need no padding.
            logits = F.pad(self.model(inputs), (0, -right, 0, -bottom))
        else:
            logits = self.model(inputs)
        missing = missing_pixels(images, self.nodata)  # (1, H, W)
        probabilities = (logits / self.model.temperature).softmax(1)
        return probabilities.masked_fill(missing[:, None], 0.0)


def export_program(model, size):
    """A torch.export.ExportedProgram of a RawPixelModel; size: px, or 0 for images of any size."""
    bands = model.meta["bands"]
    if size:
        return torch.export.export(model, (torch.zeros(1, bands, size, size),))
    least = model.model.stride + 1  # px, smaller images would be padded to two strides
    axes = {2: torch.export.Dim("height", min=least), 3: torch.export.Dim("width", min=least)}
    example = torch.zeros(1, bands, 4 * least, 5 * least)
    return torch.export.export(model, (example,), dynamic_shapes=(axes,),
                               prefer_deferred_runtime_asserts_over_guards=True)


def save_onnx(program, path, metadata):
    """Write an exported program as ONNX, with metadata as JSON."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns of unrelated packages
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        onnx_program = torch.onnx.export(program, verbose=False, input_names=["image"],
                                         output_names=["probabilities"])
    for key, value in metadata.items():
        onnx_program.model.metadata_props[key] = json.dumps(value)
    onnx_program.save(path, external_data=False)


if __name__ == "__main__":
    with one_line_errors("export.py", "run it again", "give a smaller --size"):
        main(ARGS)
