"""What prepare_data.py shows of a data set: a picture of some tiles, and a table of its classes."""

import numpy as np

from engine.cli import plural
from engine.meta import display_limits
from engine.prepared import SPARSE_SHARE, SPLITS
from report.figures import colour_map, panel_grid, to_rgb, unfilled_size
from report.discs import enlarged_points
from sources.labels import NO_LABEL

SHOWN_ROWS = (("train", 0), ("train", 1), ("val", 0), ("test", 0))  # split, and where tiles start
SHOWN_TILES = 3  # in each row


def contact_sheet(folder, meta):
    """Draw tiles from all over the set, each beside its labels, with the legend."""
    limits = display_limits(meta)
    colours = [entry["colour"] for entry in meta["classes"]]
    rows = []
    titles = []
    for split, part in SHOWN_ROWS:
        images = np.load(folder / f"{split}_images.npy", mmap_mode="r")
        labels = np.load(folder / f"{split}_labels.npy", mmap_mode="r")
        step = max(len(images) // 6, 1)
        row = []
        for index in range(part * step, len(images), 2 * step)[:SHOWN_TILES]:
            height, width = unfilled_size(images[index], labels[index] != NO_LABEL)
            rgb = to_rgb(images[index, :height, :width], meta["rgb"], limits)
            truth = labels[index, :height, :width]
            if np.mean(truth != NO_LABEL) < SPARSE_SHARE:
                drawn = enlarged_points(rgb, truth, colours)
            else:
                drawn = colour_map(truth, colours)
            row += [rgb, drawn]
        if row:
            rows.append(row)
            titles.append(split)
    legend = [(entry["name"], entry["colour"]) for entry in meta["classes"]]
    return panel_grid(rows, ["image", "labels"] * SHOWN_TILES, legend, titles,
                      title=f"data set {meta['name']}")


def frequency_table(meta):
    """Table of the tiles and classes of each split, and of the tiles that were dropped, as text."""
    gsd = meta["gsd_m"]
    tiles = sum(meta["tiles"].values())
    sparse = sum(map(sum, meta["pixels"].values())) < SPARSE_SHARE * tiles * meta["tile"] ** 2
    area = f"{gsd:g} m a pixel" if gsd else "size of a pixel unknown (--gsd)"
    if gsd and not sparse:
        area += "; km2 of tiles, where ground shown by several of them counts each time"
    lines = [f"{meta['name']}: {meta['tile']} px tiles, {meta['bands']} bands of {meta['dtype']}, "
             f"{area}"]
    totals = [sum(meta["pixels"][split]) for split in SPLITS]
    lines.append(f"{'':20}" + "".join(f"{split:>24}" for split in SPLITS))
    lines.append(f"{'tiles':20}" + "".join(f"{meta['tiles'][split]:24,}" for split in SPLITS))
    lines.append(f"{'labelled px':20}" + "".join(f"{total:24,}" for total in totals))
    for number, entry in enumerate(meta["classes"]):
        line = f"{entry['name'][:19]:20}"
        for split, total in zip(SPLITS, totals):
            pixels = meta["pixels"][split][number]
            if sparse:  # points cover no ground
                size = f"{pixels:,} px"
            elif gsd:
                size = f"{meta['km2'][split][number]:.3g} km2"
            else:
                size = ""
            line += f"{100 * pixels / max(total, 1):8.2f} %{size:>14}"
        lines.append(line.rstrip())
    shares = [f"{100 * share:.3g} % of {split}" for split, share in meta["shared_ground"].items()]
    if shares:
        lines.append(f"ground that train shows too: {', '.join(shares)}")
    if meta["cloud_and_snow"]:
        for number, name in enumerate(("cloud", "snow")):
            shares = [100 * meta["cloud_and_snow"][split][number] for split in SPLITS]
            lines.append(f"{name:20}" + "".join(f"{share:22.2f} %" for share in shares))
    lines += [f"dropped {plural(count, 'tile')}: {why}" for why, count in meta["dropped"].items()]
    return "\n".join(lines)
