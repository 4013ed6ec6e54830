"""Metadata of an ONNX model for Deepness, the plugin of QGIS that runs such models on layers."""

import math

from geo.windows import window_and_margin

MAX_OVERLAP = 75  # % of a tile, because Deepness steps on by the rest of it


def deepness_metadata(model, meta, size):
    """What Deepness reads from a model's metadata, as {key: plain value}, to be written as JSON.

    Args:
        model: the network, with its radius.
        meta: data meta of the checkpoint.
        size: side of the tiles, px; 0: any.
    Source: github.com/PUTvision/qgis-plugin-deepness 0.6.5, processing/models/model_base.py.
    """
    entries = {
        "model_type": "Segmentor",
        "class_names": dict(enumerate(meta["classes"])),
        # Deepness divides pixels by 255, and then by this: they are what they were.
        "standardization_mean": [0.0] * meta["bands"],
        "standardization_std": [1 / 255] * meta["bands"],
        "seg_thresh": 0.0,  # the most likely class, however unlikely, as on predict.py's maps
        "seg_small_segment": 0,
    }
    if meta["gsd_m"]:
        entries["resolution"] = 100 * meta["gsd_m"]  # cm per pixel
    if size:
        _, margin = window_and_margin(None, None, model)
        entries["tile_size"] = size
        entries["tiles_overlap"] = min(math.ceil(200 * margin / size), MAX_OVERLAP)  # %
    return entries
