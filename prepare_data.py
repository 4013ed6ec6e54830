"""First version: the demo only, in the final format; being rewritten."""
import argparse
import json
import shutil
from pathlib import Path

import numpy as np

import datasets

CLASSES = [("field", (222, 203, 120)), ("wood", (40, 120, 60)), ("water", (60, 110, 200)), ("road", (90, 90, 90)),
           ("building", (210, 60, 50))]


def parse_args(argv=None):
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=["demo"])
    parser.add_argument("--out", default="data/demo")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(argv)


def make_demo(out, seed=0):
    """Write the demo data set to `out`."""
    main(parse_args(["demo", "--out", str(out), "--seed", str(seed)]))


def main(args):
    out = Path(args.out)
    if out.exists() and any(out.iterdir()):
        raise ValueError(f"{out} exists and is not empty: give another --out or remove it")
    temporary = out.with_name(out.name + ".partial")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    places = {"train": range(8), "val": range(8, 10), "test": range(10, 12)}
    pixels, rows, moments = {}, ["split,index,scene,row,col"], None
    for split in places:
        images, labels = [], []
        for place in places[split]:
            for season in (0, 1):
                image, label = datasets.demo_scene(args.seed, place, season)
                for r in range(0, 384, 128):
                    for c in range(0, 512, 128):
                        rows.append(f"{split},{len(images)},place_{place + 1:02d}_{datasets.SEASONS[season]},{r},{c}")
                        images.append(image[r:r + 128, c:c + 128])
                        labels.append(label[r:r + 128, c:c + 128])
        images, labels = np.stack(images), np.stack(labels)
        np.save(temporary / f"{split}_images.npy", images)
        np.save(temporary / f"{split}_labels.npy", labels)
        pixels[split] = np.bincount(labels.ravel(), minlength=5).tolist()
        if split == "train":
            moments = images.reshape(-1, 4).mean(0), images.reshape(-1, 4).std(0)
    (temporary / "tiles.csv").write_text("\n".join(rows) + "\n")
    facts = {"format": 1, "name": "demo", "classes": [{"name": n, "colour": list(c)} for n, c in CLASSES], "ignore": 255,
             "bands": 4, "dtype": "uint8", "tile": 128, "gsd_m": 0.5, "rgb": [0, 1, 2],
             "mean": moments[0].tolist(), "std": moments[1].tolist(),
             "tiles": {"train": 192, "val": 48, "test": 48}, "pixels": pixels, "arguments": vars(args)}
    (temporary / "dataset.json").write_text(json.dumps(facts, indent=1))
    if out.exists():
        out.rmdir()
    temporary.rename(out)


if __name__ == "__main__":
    main(parse_args())
