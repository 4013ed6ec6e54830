"""Sentinel-2 scenes on their way in: seasons of a place, finer class masks brought down, cloud and snow counted.

    python prepare_data.py sentinel2 --images april.tif august.tif --masks landcover_1m.tif --split-by block
    python prepare_data.py sentinel2 --images "DIR/*_spring.tif" "DIR/*_autumn.tif" --masks "DIR/*_mask.tif"

What the star stands for is the place: images of one place are its seasons, and have one mask. A scene whose bands lie in
files of their own is given as a list of them, NAME.txt (see scenes.open_scene).
"""


import numpy as np
from tqdm import tqdm

from geo.raster import downscale_classes, open_raster, write_geotiff
from sources.labels import NO_LABEL, land_classes, read_classes
from sources.public import RawDataset, Scene, find_files
from sources.scenes import check_footprint, open_scene, scene_files

# The land-cover map of Catalonia (ICGC, 1 m) in twelve classes. The names are the map's; the ids, in the order in which
# the classes are listed, and the colours are ours: compare the ids with your mask, or give a classes.csv.
CATALONIA = [(0, "ignore", 0x000000), (1, "herbaceous crops", 0xF0E68C), (2, "woody crops", 0xC8963C),
             (3, "forest", 0x1E6E32), (4, "scrub and grassland", 0x9BC85A), (5, "bare soil", 0xD2B496),
             (6, "urban area", 0xC81E1E), (7, "isolated urban area", 0xF08282), (8, "green area", 0x50DC8C),
             (9, "industry, commerce, leisure", 0x8C3CAA), (10, "mining or landfill", 0x6E5046),
             (11, "transport network", 0x505050), (12, "water", 0x1E64C8)]
ALL_BANDS = "B01 B02 B03 B04 B05 B06 B07 B08 B8A B09 B10 B11 B12".split()
BANDS = {13: ALL_BANDS, 12: [name for name in ALL_BANDS if name != "B10"],  # level 1C, level 2A
         10: [name for name in ALL_BANDS if name not in ("B01", "B09", "B10")]}  # those of 10 and 20 m
UNITS = {"uint16": 10000, "int16": 10000, "float32": 1}  # what stands for a reflectance of 1
DEFAULTS = {"seasons": "separate", "downscale": "nearest", "downscale_weights": [], "bands": None, "reflectance": None,
            "max_cloud": 1.0}


def add_arguments(parser):
    """Add the flags that are for Sentinel-2 alone to prepare_data.py's parser."""
    flag = parser.add_argument_group("sentinel2").add_argument
    flag("--seasons", choices=("separate", "stack"), help="images of one place as samples of their own, or as the bands "
         "of one sample")
    flag("--downscale", choices=("nearest", "mode", "weighted"), help="how a finer mask is brought down: the pixel at the "
         "centre, the most frequent class, or that of the highest weight x count")
    flag("--downscale-weights", nargs="+", metavar="CLASS=WEIGHT", help="for weighted, such as road=4; classes not named "
         "weigh 1")
    flag("--bands", nargs="+", metavar="NAME", help="what an image's bands are, such as B02 B03 B04 B08; not given: known "
         "of images of 13, 12 or 10 bands")
    flag("--reflectance", type=float, help="the value that stands for a reflectance of 1; not given: 10000, of float32 1, "
         "of uint8 unknown")
    flag("--max-cloud", type=float, metavar="SHARE", help="drop tiles of which a larger share is cloud or snow, 0 to 1; 1 "
         "keeps all")
    parser.set_defaults(**DEFAULTS)


def sentinel2(args, folder):
    """The scenes that prepare_data.py's flags name; masks brought down and lists of stacked seasons go to `folder`.

    Args:
        args: prepare_data.py's.
        folder: Path, where masks/PLACE.tif and scenes/PLACE.txt are written as they are needed.
    Returns:
        Source.
    Raises:
        ValueError, OSError: a place without one of its files, seasons of other bands, seasons or a mask that lie elsewhere,
            or a class or band that is not known.
    """
    rows = read_classes(args.classes) if args.classes else land_classes(CATALONIA)
    weights = read_weights(args.downscale_weights, rows, args.downscale)
    scenes = []
    for place, images, mask in find_places(args.images, args.masks):
        with open_scene(images[0], args.max_pixels) as image:
            for path in images[1:]:
                with open_scene(path, args.max_pixels) as season:
                    check_footprint(season, image, 1)
                    if (season.bands, season.dtype) != (image.bands, image.dtype):
                        raise ValueError(f"{path} has {season.bands} bands of {season.dtype}, but {image.path} "
                                         f"{image.bands} of {image.dtype}: make the seasons of a place alike")
            if mask:
                mask = bring_down(mask, image, args.downscale, weights, rows, folder / "masks" / f"{place}.tif",
                                  args.max_pixels)
        if args.seasons == "stack" and len(images) > 1:
            stacked = folder / "scenes" / f"{place}.txt"
            stacked.parent.mkdir(exist_ok=True)
            files = [str(file.resolve()) for path in images for file in scene_files(path)]
            stacked.write_text("\n".join(files) + "\n", encoding="utf-8")
            images = [stacked]
        scenes += [Scene(name, path, mask, place) for name, path in season_names(place, images)]
    with open_scene(scenes[0].image, args.max_pixels) as image:
        seasons = len(args.images) if args.seasons == "stack" else 1
        names = args.bands or BANDS.get(image.bands // seasons, [])
        if args.bands and len(args.bands) * seasons != image.bands:
            raise ValueError(f"--bands names {len(args.bands)} bands, but {image.path} has {image.bands // seasons}")
        unit = args.reflectance or UNITS.get(str(image.dtype))
    known = {name: number for number, name in enumerate(names)}
    clouds = CloudTest(known, len(names), unit) if unit and {"B03", "B04"} <= known.keys() else None
    if args.max_cloud < 1 and not clouds:
        raise ValueError("--max-cloud needs to know the bands and their scale: give --bands and --reflectance")
    rgb = [known[name] + 1 for name in ("B04", "B03", "B02")] if {"B04", "B03", "B02"} <= known.keys() else None
    return RawDataset("sentinel2", rows, scenes, aligned=True, rgb=rgb, clouds=clouds)


def find_places(patterns, masks):
    """Find the images of each place, season by season, and its mask.

    Args:
        patterns: one a season, as `find_files` takes them; where each is a single file, they show one place.
        masks: likewise; None: there are none.
    Returns:
        list of (place, [image of each season], mask or None).
    Raises:
        ValueError, OSError: nothing is there, or a place misses one of its files.
    """
    seasons = [find_files(pattern) for pattern in patterns]
    found = seasons + ([find_files(masks)] if masks else [])
    if all(len(files) == 1 for files in found):
        place = "+".join(dict.fromkeys(name for files in seasons for name in files))
        place = place if len(place.encode()) <= 200 else "place"  # files are called after it, in 255 bytes at most
        found = [{place: path for path in files.values()} for files in found]
    for pattern, files in zip([*patterns, masks], found):
        for place in sorted(files.keys() ^ found[0].keys()):
            there, missing = (pattern, patterns[0]) if place in files else (patterns[0], pattern)
            raise ValueError(f"place '{place}' is in {there}, but not in {missing}: add it, or take it away")
    return [(place, [files[place] for files in found[:len(seasons)]], found[-1][place] if masks else None)
            for place in found[0]]


def season_names(place, images):
    """[(scene name, image)]: named after the place where it has one image, else after the files, and folders if alike."""
    names = [path.stem for path in images] if len(images) > 1 else [place]
    if len(set(names)) < len(names):
        names = [f"{path.parent.name}_{path.stem}" for path in images]
    if len(set(names)) < len(names):
        raise ValueError(f"{images[0]} and {images[1]} have one name: give each season's images another name or folder")
    return list(zip(names, images))


def bring_down(path, image, how, weights, rows, coarse, max_pixels=2**31):
    """Bring a finer class mask down to an image's grid, strip by strip; its nodata value and the ignored ids have no vote.

    Args:
        path: the mask.
        image: Raster.
        how, weights: as for `raster.downscale_classes`.
        rows: list of LandClass.
        coarse: Path, the GeoTIFF to write.
        max_pixels: as for `open_raster`.
    Returns:
        coarse, or path itself where the mask is as fine as the image.
    Raises:
        ValueError, OSError: its footprint is not the image's.
    """
    with open_raster(path, max_pixels) as mask:
        factor = max(round(mask.height / image.height), 1)
        check_footprint(mask, image, factor)
        if factor == 1:
            return path
        ignored = [row.value for row in rows if row.index == NO_LABEL and row.value is not None]
        silent = ([] if mask.nodata is None else [mask.nodata]) + ignored
        strips = downscale_classes(mask, factor, how, weights, silent)
        coarse.parent.mkdir(exist_ok=True)
        write_geotiff(coarse, tqdm(strips, f"{mask.path.name} by {factor}", unit="strip", disable=None), image.height,
                      image.width, 1, mask.dtype, mask.palette, mask.nodata,
                      mask.georeference and mask.georeference.window(0, 0, factor))
    return coarse


def read_weights(words, rows, how):
    """{value in the mask: weight} from words such as road=4.

    Raises:
        ValueError: a word that is none, weights without a use, or the other way round.
    """
    if bool(words) != (how == "weighted"):
        raise ValueError("--downscale weighted and --downscale-weights go together: give both, or leave both out")
    values = {row.name: row.value for row in rows}
    weights = {}
    for word in words:
        name, _, weight = word.rpartition("=")
        try:
            weights[int(values[name])] = float(weight)
            if not 1e-9 <= float(weight) <= 1e9:
                raise ValueError
        except (KeyError, TypeError, ValueError):
            raise ValueError(f"--downscale-weights {word}: give CLASS=WEIGHT, a weight from 1e-9 to 1e9, the class one of "
                             f"{', '.join(values)}") from None
    return weights


class CloudTest:
    """Which share of an image is cloud, and which is snow, told from each pixel's reflectance alone.

    A count to know a data set by, not a mask: bright roofs and sand pass for cloud, thin cirrus for clear sky. Products
    of processing baseline 4 and later are offset by 0.1, which makes more of them bright.

    Args:
        bands: {band name: number from 0}, B03 and B04 among them; snow needs B11 as well.
        count: bands of a season; where an image holds several, a pixel counts that is cloud in one of them.
        unit: the value that stands for a reflectance of 1.
    Source: cloud, Braaten, Cohen and Yang 2015, MSScvm's first test: green above 0.39, or above 0.175 and above red.
        Snow, Gascoin and others 2019, the first pass of Theia's snow maps: (green - SWIR) / (green + SWIR) above 0.4,
        red above 0.2. Differs from the first, made for Landsat MSS, in that snow is no cloud.
    """

    def __init__(self, bands, count, unit):
        self.bands, self.count, self.unit = bands, count, unit

    def shares(self, pixels, valid):
        """The shares of the valid pixels, 0 to 1, that are cloud and that are snow; no valid pixel: 0 and 0.

        Args:
            pixels: (h, w, C).
            valid: (h, w) bool.
        """
        if not valid.any():
            return 0.0, 0.0
        known = pixels[valid].astype(np.float32) / self.unit  # (n, C)
        cloud, snow = np.zeros((2, len(known)), bool)
        for first in range(0, pixels.shape[2], self.count):
            season = {name: known[:, first + number] for name, number in self.bands.items()}
            green, red = season["B03"], season["B04"]
            white = np.zeros(len(known), bool)
            if "B11" in season:
                white = (green - season["B11"] > 0.4 * (green + season["B11"])) & (red > 0.2)
            snow |= white
            cloud |= ((green > 0.39) | ((green > 0.175) & (green > red))) & ~white
        return float((cloud & ~snow).mean()), float(snow.mean())
