"""The demo: twelve procedural sites in two seasons, written as GeoTIFFs with class masks."""

from pathlib import Path

import numpy as np

from geo.georeference import Georeference
from geo.raster import write_geotiff
from sources.labels import land_classes
from sources.public import RawDataset, Scene

DEMO = [(0, "field", 0xDECB78), (1, "wood", 0x28783C), (2, "water", 0x3C6EC8), (3, "road", 0x5A5A5A),
        (4, "building", 0xD23C32)]
FIELD, WOOD, WATER, ROAD, BUILDING = range(5)
# The demo. Its classes share colours on purpose: ploughed field and autumn wood, wet soil and clear water, road and
# silty water; and the sensor is noisy. So no pixel tells its class by itself; texture, shape and surroundings do.
SIZE, GSD_M = (384, 512), 0.5  # px; m
PLACES, SEASONS = 12, ("summer", "autumn")
# Reflectance in red, green, blue and near infrared.
CROPS = np.array([(.30, .24, .17, .33), (.15, .14, .12, .15), (.42, .37, .23, .43), (.14, .20, .09, .42)])
CROP_SHARES = (.2, .1, .3, .4), (.45, .2, .1, .25)  # in each season: ploughed, wet, ripe, green
TREES = np.array([[(.09, .14, .06, .36), (.08, .12, .06, .31)],  # in each season: leafy, needled
                  [(.26, .17, .08, .31), (.10, .13, .06, .28)]])
WATERS = np.array([(.09, .13, .14, .11), (.21, .22, .18, .17)])  # clear, silty
ASPHALT = np.array((.24, .23, .23, .25))
ROOFS = np.array([(.42, .16, .11, .31), (.16, .18, .25, .19), (.50, .50, .50, .50)])  # tiles, slate, metal


def smooth_noise(rng, scale):
    """(H, W) random hills about `scale` px wide, of mean 0 and deviation 1: white noise through a Gaussian."""
    rows, cols = np.fft.fftfreq(SIZE[0])[:, None], np.fft.rfftfreq(SIZE[1])
    blur = np.exp(-2 * (np.pi * scale) ** 2 * (rows ** 2 + cols ** 2))
    noise = np.fft.irfft2(np.fft.rfft2(rng.standard_normal(SIZE)) * blur, s=SIZE)
    return (noise - noise.mean()) / noise.std()


def tree_crowns(rng, cell=13):
    """One round crown in each cell of a jittered grid: (H, W) height 0..1 and (H, W) brightness of the tree."""
    rows, cols = np.indices(SIZE)
    grid = (SIZE[0] // cell + 3, SIZE[1] // cell + 3)
    row_shift, col_shift, tone = rng.uniform(0, cell, grid), rng.uniform(0, cell, grid), rng.uniform(.75, 1.25, grid)
    nearest, brightness = np.full(SIZE, np.inf), np.ones(SIZE)
    for down, right in np.ndindex(3, 3):  # of the pixel's own cell and its eight neighbours the nearest tree
        i, j = rows // cell + down, cols // cell + right
        distance = np.hypot((i - 1) * cell + row_shift[i, j] - rows, (j - 1) * cell + col_shift[i, j] - cols)
        brightness = np.where(distance < nearest, tone[i, j], brightness)
        nearest = np.minimum(nearest, distance)
    return np.clip(1 - (nearest / (.75 * cell)) ** 2, 0, 1), brightness


def add_buildings(rng, labels, roofs, ridge, beside, along, pitch=58, lots=40):
    """Set houses on both sides of a road, where nothing but field is in their way; changes the three arrays.

    Args:
        labels, roofs, ridge: (H, W) class, number of the roof, and -1 or 1 for its two slopes.
        beside, along: (H, W) signed distance from the road and position along it, px.
        pitch, lots: px from house to house, and how many lots a side of the road has.
    """
    lot = np.floor(along / pitch).astype(int) % lots + lots * (beside > 0)  # (H, W)
    half_length, half_width, setback = rng.uniform([[20], [16], [12]], [[26], [21], [16]], (3, 2 * lots))
    length = np.abs(along % pitch - pitch / 2) - half_length[lot]
    across = np.abs(beside) - (setback + half_width)[lot]
    width = np.abs(across) - half_width[lot]
    taken = np.unique(lot[(length < 3) & (width < 3) & (labels != FIELD)])
    house = (length < 0) & (width < 0) & (rng.random(2 * lots) < .95)[lot] & ~np.isin(lot, taken)
    labels[house], ridge[house] = BUILDING, np.sign(across[house] * beside[house])
    roofs[house] = roofs.max() + 1 + lot[house]


def generate_map(rng):
    """What stands where in one place, the same in both seasons.

    Returns:
        dict of (H, W) arrays: labels, parcel and roofs (numbers), ridge (-1 or 1), along and across (px, in the
        direction of the fields), tall (height, px), crown (0..1), tone (brightness of the tree), needled (bool);
        and roof_colour, (N, 4) by number.
    """
    rows, cols = np.indices(SIZE) - np.array(SIZE).reshape(2, 1, 1) / 2
    angle = rng.uniform(0, np.pi)
    along = cols * np.cos(angle) + rows * np.sin(angle) + 8 * smooth_noise(rng, 70)
    across = rows * np.cos(angle) - cols * np.sin(angle) + 8 * smooth_noise(rng, 70)
    borders = np.cumsum(rng.uniform(80, 150, 14)) - 800  # of strips of fields, each of which is cut up on its own
    strip = np.searchsorted(borders, across)
    cuts = np.cumsum(rng.uniform(90, 200, (15, 14)), axis=1) - 1000
    parcel = strip * 15 + (along[..., None] > cuts[strip]).sum(-1)
    labels = np.full(SIZE, FIELD, np.uint8)
    planted = rng.random(225) < .12
    labels[(smooth_noise(rng, 40) + .2 * smooth_noise(rng, 9) > .8) | planted[parcel]] = WOOD
    labels[smooth_noise(rng, 45) > 1.25] = WATER
    bends = 26 * np.sin(along / rng.uniform(40, 80) + rng.uniform(0, 6))
    river = np.abs(across - bends - rng.uniform(-130, 130)) < rng.uniform(16, 28)
    labels[river & (rng.random() < .6)] = WATER
    roads = [(across - rng.choice(borders[np.abs(borders) < 160]), along),
             (along - rng.uniform(-180, -40), across), (along - rng.uniform(40, 180), across)]
    for beside, _ in roads:
        labels[np.abs(beside) < rng.uniform(7.5, 10)] = ROAD
    roofs, ridge = np.zeros(SIZE, int), np.zeros(SIZE)
    for beside, position in roads:
        add_buildings(rng, labels, roofs, ridge, beside, position)
    crown, tone = tree_crowns(rng)
    tall = np.select([labels == WOOD, labels == BUILDING], [3 + 5 * crown, rng.uniform(8, 14, 999)[roofs]], 0)
    return {"labels": labels, "parcel": parcel, "roofs": roofs, "ridge": ridge, "along": along, "across": across,
            "tall": tall, "crown": crown, "tone": tone, "needled": smooth_noise(rng, 25) < 0,
            "roof_colour": ROOFS[rng.integers(3, size=999)] * rng.uniform(.85, 1.15, (999, 1))}


def cast_shadow(tall, azimuth, fall, reach=16):
    """(H, W) bool: where something towards the sun is so tall that its shadow, `fall` px lower each px, covers it."""
    padded = np.pad(tall, reach, mode="edge")
    hidden = np.zeros(tall.shape, bool)
    for step in range(1, reach):
        row, col = reach + round(step * np.sin(azimuth)), reach + round(step * np.cos(azimuth))
        hidden |= padded[row:row + tall.shape[0], col:col + tall.shape[1]] - fall * step > tall
    return hidden


def render(rng, land, season):
    """(H, W, 4) uint8 image of a place in season 0 or 1: colours, textures, shadows, haze and the sensor's noise."""
    labels, parcel = land["labels"], land["parcel"]
    crops = CROPS[rng.choice(4, 225, p=CROP_SHARES[season])]
    crops = crops * rng.uniform(.85, 1.15, (225, 1))
    ploughed = np.where((rng.random(225) < .5)[parcel], land["across"], land["along"])
    furrows = np.sin(2 * np.pi * ploughed / rng.uniform(8, 12, 225)[parcel])
    colour = np.select([labels[..., None] == number for number in range(5)],
                       [crops[parcel], TREES[season][land["needled"].astype(int)], WATERS[rng.integers(2)], ASPHALT,
                        land["roof_colour"][land["roofs"]]])  # (H, W, 4)
    texture = np.select([labels == number for number in range(5)],
                        [1 + rng.uniform(.12, .25, 225)[parcel] * furrows, (.5 + .8 * land["crown"]) * land["tone"],
                         1 + .1 * smooth_noise(rng, 30) + .03 * smooth_noise(rng, 2), 1 + .04 * smooth_noise(rng, 4),
                         1 + .3 * land["ridge"]])
    shadow = cast_shadow(land["tall"], rng.uniform(0, 2 * np.pi), rng.uniform(.9, 1.4))
    light = np.where(shadow, .55, 1) * (1 + .06 * smooth_noise(rng, 80))
    image = colour * (texture * light)[..., None] * rng.uniform(.9, 1.1) * rng.uniform(.96, 1.04, 4)
    image += rng.uniform(0, .02) + rng.normal(0, .03, image.shape)
    return np.clip(np.rint(420 * image), 0, 255).astype(np.uint8)


def demo(folder, seed):
    """Write the scenes of the demo, 12 places in two seasons, to a folder of GeoTIFFs: images/*.tif and masks/*.tif.

    Returns:
        Source; places 1 to 8 train, 9 and 10 validate, 11 and 12 test.
    """
    for name in ("images", "masks"):
        Path(folder, name).mkdir(parents=True)
    scenes, (height, width) = [], SIZE
    palette = np.zeros((256, 3), np.uint8)
    palette[:len(DEMO)] = [tuple(colour.to_bytes(3, "big")) for _, _, colour in DEMO]
    for place in range(PLACES):
        land = generate_map(np.random.default_rng((seed, place)))
        ground = Georeference({33550: (GSD_M, GSD_M, 0.0), 33922: (0.0, 0.0, 0.0, 5e5 + 400 * place, 4.6e6, 0.0),
                               34735: (1, 1, 0, 4, 1024, 0, 1, 1, 1025, 0, 1, 1, 3072, 0, 1, 32631, 3076, 0, 1, 9001)})
        for season, name in enumerate(SEASONS):
            name = f"place_{place + 1:02d}_{name}"
            scene = Scene(name, Path(folder, "images", f"{name}.tif"), Path(folder, "masks", f"{name}.tif"),
                          f"place_{place + 1:02d}", "train" if place < 8 else "val" if place < 10 else "test")
            image = render(np.random.default_rng((seed, place, 1 + season)), land, season)
            write_geotiff(scene.image, [image], height, width, 4, np.uint8, georeference=ground, level=1)
            write_geotiff(scene.mask, [land["labels"]], height, width, 1, np.uint8, palette, georeference=ground)
            scenes.append(scene)
    return RawDataset("demo", land_classes(DEMO), scenes, aligned=True)
