"""Sentinel-2 scenes: seasons of a site, finer class masks downsampled, cloud and snow counted.

    python prepare_data.py sentinel2 --images april.tif august.tif --masks landcover_1m.tif \\
        --split-by block
    python prepare_data.py sentinel2 --images "DIR/*_spring.tif" "DIR/*_autumn.tif" \\
        --masks "DIR/*_mask.tif"

What the star stands for is the site: images of one site are its seasons, and have one mask. A scene
whose bands lie in files of their own is given as a list of them, NAME.txt (see scenes.open_scene).
"""

import numpy as np
from tqdm import tqdm

from engine.cli import number
from geo.raster import downscale_classes, open_raster, write_geotiff
from sources.labels import NO_LABEL, land_classes, read_classes
from sources.masks import hide_as_nodata
from sources.raw import RawDataset, Scene, find_files
from sources.scenes import check_footprint, open_scene, scene_files

# The land-cover map of Catalonia (ICGC, 1 m) in twelve classes. The names are the map's. The ids,
# in the order in which the classes are listed, and the colours are ours: compare the ids with
# your mask, or give a classes.csv.
CATALONIA = land_classes([
    (0, "ignore", 0x000000), (1, "herbaceous crops", 0xF0E68C), (2, "woody crops", 0xC8963C),
    (3, "forest", 0x1E6E32), (4, "scrub and grassland", 0x9BC85A), (5, "bare soil", 0xD2B496),
    (6, "urban area", 0xC81E1E), (7, "isolated urban area", 0xF08282), (8, "green area", 0x50DC8C),
    (9, "industry, commerce, leisure", 0x8C3CAA), (10, "mining or landfill", 0x6E5046),
    (11, "transport network", 0x505050), (12, "water", 0x1E64C8)])
ALL_BANDS = "B01 B02 B03 B04 B05 B06 B07 B08 B8A B09 B10 B11 B12".split()
BANDS = {  # by their number
    13: ALL_BANDS,  # level 1C
    12: [name for name in ALL_BANDS if name != "B10"],  # level 2A
    10: [name for name in ALL_BANDS if name not in ("B01", "B09", "B10")],  # of 10 and 20 m
}
REFLECTANCE = {"uint16": 10000, "int16": 10000, "float32": 1}  # the value of a reflectance of 1


def add_arguments(parser):
    """Add the flags that only Sentinel-2 has to a parser of prepare_data.py."""
    flag = parser.add_argument_group("seasons, finer masks, clouds").add_argument
    flag("--seasons", choices=("separate", "stack"), default="separate",
         help="images of one site as samples of their own, or as the bands of one sample")
    flag("--downscale", choices=("nearest", "mode", "weighted"), default="nearest",
         help="how a finer mask is brought to the images' grid: the pixel at the centre, the most "
         "frequent class, or the class of the highest weight x count")
    flag("--downscale-weights", nargs="+", default=[], metavar="CLASS=WEIGHT",
         help="for weighted, such as road=4; classes not named have weight 1")
    flag("--bands", nargs="+", metavar="NAME", help="the bands of an image, such as B02 B03 B04 "
         "B08; not given: known for images of 13, 12 or 10 bands")
    flag("--reflectance", type=number(float, 0.001), help="the value of a reflectance of 1; not "
         "given: 10000, for float32 1, for uint8 unknown")
    flag("--max-cloud", type=number(float, 0, 1), default=1.0, metavar="SHARE",
         help="drop tiles of which a larger share is cloud or snow, 0 to 1; 1 keeps all")


def sentinel2(args, folder):
    """Find the scenes that the flags of prepare_data.py name.

    Args:
        args: of prepare_data.py.
        folder: Path, where downsampled masks (masks/SITE.tif) and lists of stacked seasons
            (scenes/SITE.txt) are written as they are needed.
    Returns:
        RawDataset.
    Raises:
        ValueError, OSError: a site without one of its files, seasons of different bands or extents,
            a mask of another extent, or a class or band that is not known.
    """
    class_table = read_classes(args.classes) if args.classes else CATALONIA
    weights = read_weights(args.downscale_weights, class_table, args.downscale)
    scenes = []
    for site, images, mask in find_sites(args.images, args.masks):
        check_seasons(images, args.max_pixels)
        if mask:
            coarse = folder / "masks" / f"{site}.tif"
            mask = downsample_mask(mask, images[0], args.downscale, weights, class_table, coarse,
                                   args.max_pixels)
        if args.seasons == "stack" and len(images) > 1:
            images = [stack_seasons(images, folder / "scenes" / f"{site}.txt")]
        for name, path in season_names(site, images):
            scenes.append(Scene(name, path, mask, site))
    band_of, clouds = describe_bands(scenes[0].image, args)
    rgb = None
    if {"B04", "B03", "B02"} <= band_of.keys():
        rgb = [band_of[name] + 1 for name in ("B04", "B03", "B02")]
    return RawDataset(class_table, scenes, aligned=True, rgb=rgb, clouds=clouds)


def find_sites(patterns, masks):
    """Find the images of each site, season by season, and its mask.

    Args:
        patterns: one per season, as `find_files` takes them; single files show one site.
        masks: likewise; None: there are none.
    Returns:
        list of (site, [image of each season], mask or None).
    Raises:
        ValueError, OSError: nothing is there, or a site lacks one of its files.
    """
    seasons = [find_files(pattern) for pattern in patterns]
    found = seasons + ([find_files(masks)] if masks else [])
    if all(len(files) == 1 for files in found):
        site = "+".join(dict.fromkeys(name for files in seasons for name in files))
        if len(site.encode()) > 200:  # files are named after it, in 255 bytes at most
            site = "place"
        found = [{site: path for path in files.values()} for files in found]
    for pattern, files in zip([*patterns, masks], found):
        for site in sorted(files.keys() ^ found[0].keys()):
            there, other = (pattern, patterns[0]) if site in files else (patterns[0], pattern)
            raise ValueError(f"place '{site}' is in {there}, but not in {other}: add it, or take "
                             "it away")
    sites = []
    for site in found[0]:
        images = [files[site] for files in found[:len(seasons)]]
        if masks and found[-1][site] in images:
            raise ValueError(f"{found[-1][site]} is in both --images and --masks: give patterns "
                             "that tell them apart")
        sites.append((site, images, found[-1][site] if masks else None))
    return sites


def check_seasons(images, max_pixels):
    """Refuse images of a site that differ in extent, bands or dtype."""
    with open_scene(images[0], max_pixels) as first:
        for path in images[1:]:
            with open_scene(path, max_pixels) as season:
                check_footprint(season, first, 1)
                if (season.bands, season.dtype) != (first.bands, first.dtype):
                    raise ValueError(f"{path} has {season.bands} bands of {season.dtype}, but "
                                     f"{first.path} {first.bands} of {first.dtype}: make the "
                                     "seasons of a place alike")


def stack_seasons(images, path):
    """Write the list of files (see scenes.open_scene) of all images' bands; returns its path."""
    files = [str(file.resolve()) for image in images for file in scene_files(image)]
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(files) + "\n", encoding="utf-8")
    return path


def season_names(site, images):
    """Name the scenes of a site: [(scene name, image)].

    A single image is named after the site, several after their files, and after their folders too
    where the files are named alike.
    """
    if len(images) == 1:
        return [(site, images[0])]
    names = [path.stem for path in images]
    if len(set(names)) < len(names):
        names = [f"{path.parent.name}_{path.stem}" for path in images]
    if len(set(names)) < len(names):
        raise ValueError(f"{images[0]} and {images[1]} have one name: give each season's images "
                         "another name or folder")
    return list(zip(names, images))


def describe_bands(path, args):
    """Find which bands an image of the set has, and how to tell cloud and snow by them.

    Returns:
        {band name: its number in one season, from 0}, and a CloudTest, or None without what it
        needs.
    Raises:
        ValueError: --bands does not fit the image, or --max-cloud lacks what it needs.
    """
    seasons = len(args.images) if args.seasons == "stack" else 1
    with open_scene(path, args.max_pixels) as image:
        count = image.bands // seasons
        if args.bands and len(args.bands) * seasons != image.bands:
            raise ValueError(f"--bands names {len(args.bands)} bands, but {image.path} has {count}")
        unit = args.reflectance or REFLECTANCE.get(str(image.dtype))
    names = args.bands or BANDS.get(count, [])
    band_of = {name: band for band, name in enumerate(names)}
    clouds = None
    if unit and {"B03", "B04"} <= band_of.keys():
        clouds = CloudTest(band_of, len(names), unit)
    if args.max_cloud < 1 and not clouds:
        raise ValueError("--max-cloud needs to know the bands and their scale: give --bands and "
                         "--reflectance")
    return band_of, clouds


def downsample_mask(path, image_path, how, weights, class_table, coarse, max_pixels=2**31):
    """Bring a finer class mask to an image's grid, row block by row block.

    The mask's nodata value and the ids that mean no label have no vote.

    Args:
        path: the mask.
        image_path: the image.
        how, weights: as for `raster.downscale_classes`.
        class_table: list of LandClass.
        coarse: Path, the GeoTIFF to write.
        max_pixels: as for `open_raster`.
    Returns:
        coarse, or path itself where the mask is as fine as the image.
    Raises:
        ValueError, OSError: its footprint is not the image's.
    """
    ids = [row.value for row in class_table if row.index != NO_LABEL]
    with open_scene(image_path, max_pixels) as image, open_raster(path, max_pixels) as mask:
        mask = hide_as_nodata(mask, ids)
        factor = max(round(mask.height / image.height), 1)
        check_footprint(mask, image, factor)
        if factor == 1:
            return path
        ignored = [] if mask.nodata in (None, *ids) else [mask.nodata]
        first = first_ids(class_table)
        same = {row.value: first[row.name] for row in class_table
                if row.index != NO_LABEL and row.value not in (None, first[row.name])}
        for row in class_table:
            if row.index == NO_LABEL and row.value is not None:
                ignored.append(row.value)
        if not {None, NO_LABEL} & set(ids):
            ignored.append(NO_LABEL)
        georeference = mask.georeference
        if georeference:
            georeference = georeference.window(0, 0, factor)
        blocks = downscale_classes(mask, factor, how, weights, ignored, same)
        blocks = tqdm(blocks, f"{mask.path.name} by {factor}", unit="block", disable=None)
        coarse.parent.mkdir(exist_ok=True)
        write_geotiff(coarse, blocks, image.height, image.width, 1, mask.dtype, mask.palette,
                      mask.nodata, georeference)
    return coarse


def first_ids(class_table):
    """{name: the first id of the class}; others of the same name vote as this one."""
    ids = {}
    for row in class_table:
        ids.setdefault(row.name, row.value)
    return ids


def read_weights(words, class_table, how):
    """Read {value in the mask: weight} from words such as road=4.

    Raises:
        ValueError: a word that is none, weights without --downscale weighted, or it without them.
    """
    if bool(words) != (how == "weighted"):
        raise ValueError("--downscale weighted and --downscale-weights go together: give both, or "
                         "leave both out")
    values = first_ids(class_table)
    weights = {}
    for word in words:
        name, _, text = word.rpartition("=")
        try:
            value = int(values[name])
            weight = float(text)
            fine = 1e-9 <= weight <= 1e9
        except (KeyError, TypeError, ValueError):
            fine = False
        if not fine:
            raise ValueError(f"--downscale-weights {word}: give CLASS=WEIGHT, a weight from 1e-9 "
                             f"to 1e9, the class one of {', '.join(values)}")
        weights[value] = weight
    return weights


class CloudTest:
    """Which share of an image is cloud, and which is snow, by each pixel's reflectance alone.

    A count to know a data set by, not a mask: bright roofs and sand pass for cloud, thin cirrus for
    clear sky. Products of processing baseline 4 and later are offset by 0.1, which makes more of
    them bright.

    Args:
        bands: {band name: number from 0}, B03 and B04 among them; snow needs B11 as well.
        count: bands of a season; of several stacked seasons, a pixel that is cloud in one counts.
        unit: the value of a reflectance of 1.
    Source: cloud, Braaten, Cohen and Yang 2015, MSScvm's first test: green above 0.39, or above
        0.175 and above red. Snow, Gascoin and others 2019, the first pass of Theia's snow maps:
        (green - SWIR) / (green + SWIR) above 0.4, red above 0.2. Differs from the first, made for
        Landsat MSS, in that snow is no cloud.
    """

    def __init__(self, bands, count, unit):
        self.bands = bands
        self.count = count
        self.unit = unit

    def shares(self, pixels, valid):
        """The shares of the valid pixels that are cloud and snow, 0 to 1; 0 if none is valid.

        Args:
            pixels: (h, w, C).
            valid: (h, w) bool.
        """
        if not valid.any():
            return 0.0, 0.0
        reflectance = pixels[valid].astype(np.float32) / self.unit  # (n, C)
        cloud = np.zeros(len(reflectance), bool)
        snow = np.zeros(len(reflectance), bool)
        for first in range(0, pixels.shape[2], self.count):
            season = {name: reflectance[:, first + band] for name, band in self.bands.items()}
            green = season["B03"]
            red = season["B04"]
            white = np.zeros(len(reflectance), bool)
            if "B11" in season:
                swir = season["B11"]
                white = (green - swir > 0.4 * (green + swir)) & (red > 0.2)
            bright = (green > 0.39) | ((green > 0.175) & (green > red))
            snow |= white
            cloud |= bright & ~white
        return float((cloud & ~snow).mean()), float(snow.mean())
