"""The demo: twelve procedural sites in two seasons, written as GeoTIFFs with class masks.

Its classes share colours on purpose: ploughed field and autumn wood, wet soil and clear water, road
and silty water. The sensor is noisy too. So no pixel shows its class by itself, but texture, shape
and surroundings do.
"""

from pathlib import Path

import numpy as np

from geo.georeference import Georeference
from geo.raster import write_geotiff
from sources.labels import land_classes
from sources.raw import RawDataset, Scene

DEMO = land_classes([
    (0, "field", 0xDECB78), (1, "wood", 0x2D5A1E), (2, "water", 0x3C6EC8), (3, "road", 0x5A5A5A),
    (4, "building", 0xF06E1E)])
FIELD, WOOD, WATER, ROAD, BUILDING = range(5)
SIZE = (384, 512)  # px
GSD_M = 0.5
SITES = 12
SEASONS = ("summer", "autumn")
UTM_31N = (1, 1, 0, 4, 1024, 0, 1, 1, 1025, 0, 1, 1, 3072, 0, 1, 32631, 3076, 0, 1, 9001)  # GeoKeys
PARCELS = 225  # numbers that parcels of fields may have
ROOF_COLOURS = 999  # numbers that houses may have

# Reflectance in red, green, blue and near infrared.
CROPS = np.array([  # ploughed, wet, ripe, green
    (.30, .24, .17, .33), (.15, .14, .12, .15), (.42, .37, .23, .43), (.14, .20, .09, .42)])
CROP_SHARES = ((.2, .1, .3, .4), (.45, .2, .1, .25))  # of these crops in each season
TREES = np.array([  # in each season: leafy, needled
    [(.09, .14, .06, .36), (.08, .12, .06, .31)],
    [(.26, .17, .08, .31), (.10, .13, .06, .28)]])
WATERS = np.array([(.09, .13, .14, .11), (.21, .22, .18, .17)])  # clear, silty
ASPHALT = np.array((.24, .23, .23, .25))
ROOFS = np.array([  # tiles, slate, metal
    (.42, .16, .11, .31), (.16, .18, .25, .19), (.50, .50, .50, .50)])


def smooth_noise(rng, scale):
    """Random hills about `scale` px wide, (H, W) of mean 0 and deviation 1: blurred white noise."""
    rows = np.fft.fftfreq(SIZE[0])[:, None]
    cols = np.fft.rfftfreq(SIZE[1])
    gaussian = np.exp(-2 * (np.pi * scale) ** 2 * (rows ** 2 + cols ** 2))
    spectrum = np.fft.rfft2(rng.standard_normal(SIZE)) * gaussian
    noise = np.fft.irfft2(spectrum, s=SIZE)
    return (noise - noise.mean()) / noise.std()


def tree_crowns(rng, cell=13):
    """One round crown in each cell of a jittered grid.

    Returns:
        (H, W) height of the crowns, 0 to 1, and (H, W) brightness of each pixel's tree.
    """
    rows, cols = np.indices(SIZE)
    grid = (SIZE[0] // cell + 3, SIZE[1] // cell + 3)
    row_shift = rng.uniform(0, cell, grid)
    col_shift = rng.uniform(0, cell, grid)
    brightness_of = rng.uniform(.75, 1.25, grid)
    nearest = np.full(SIZE, np.inf)  # px to the nearest tree
    brightness = np.ones(SIZE)
    for down, right in np.ndindex(3, 3):  # the pixel's own cell and its eight neighbours
        i = rows // cell + down
        j = cols // cell + right
        tree_row = (i - 1) * cell + row_shift[i, j]
        tree_col = (j - 1) * cell + col_shift[i, j]
        distance = np.hypot(tree_row - rows, tree_col - cols)
        brightness = np.where(distance < nearest, brightness_of[i, j], brightness)
        nearest = np.minimum(nearest, distance)
    crown = np.clip(1 - (nearest / (.75 * cell)) ** 2, 0, 1)
    return crown, brightness


def add_buildings(rng, labels, house_of, ridge, beside, along, pitch=58, lots=40):
    """Set houses on both sides of a road, where only field is in their way; changes three arrays.

    Args:
        labels, house_of, ridge: (H, W) class, number of the house, and -1 or 1 for its two slopes.
        beside, along: (H, W) signed distance from the road and position along it, px.
        pitch: px from house to house.
        lots: how many lots each side of the road has.
    """
    lot = np.floor(along / pitch).astype(int) % lots + lots * (beside > 0)  # (H, W)
    lowest = [[20], [16], [12]]
    highest = [[26], [21], [16]]
    half_length, half_width, setback = rng.uniform(lowest, highest, (3, 2 * lots))  # px, by lot
    outside_length = np.abs(along % pitch - pitch / 2) - half_length[lot]  # below 0 inside a house
    across = np.abs(beside) - (setback + half_width)[lot]
    outside_width = np.abs(across) - half_width[lot]
    near = (outside_length < 3) & (outside_width < 3)
    taken = np.unique(lot[near & (labels != FIELD)])
    inside = (outside_length < 0) & (outside_width < 0)
    built = rng.random(2 * lots) < .95
    house = inside & built[lot] & ~np.isin(lot, taken)
    labels[house] = BUILDING
    ridge[house] = np.sign(across[house] * beside[house])
    house_of[house] = house_of.max() + 1 + lot[house]


def generate_map(rng):
    """Decide what stands where at one site, the same in both seasons.

    Returns:
        dict of (H, W) arrays: labels, parcel and house (numbers), ridge (-1 or 1), along and across
        (px, in the direction of the fields), height (px), crown (0 to 1), brightness (of the tree),
        needled (bool); and roof_colour, (N, 4) by number of the house.
    """
    rows, cols = np.indices(SIZE) - np.array(SIZE).reshape(2, 1, 1) / 2  # px from the centre
    angle = rng.uniform(0, np.pi)
    along = cols * np.cos(angle) + rows * np.sin(angle) + 8 * smooth_noise(rng, 70)
    across = rows * np.cos(angle) - cols * np.sin(angle) + 8 * smooth_noise(rng, 70)
    borders = np.cumsum(rng.uniform(80, 150, 14)) - 800  # between the strips of fields
    strip = np.searchsorted(borders, across)
    cuts = np.cumsum(rng.uniform(90, 200, (15, 14)), axis=1) - 1000  # each strip has its own
    parcel = strip * 15 + (along[..., None] > cuts[strip]).sum(-1)

    labels = np.full(SIZE, FIELD, np.uint8)
    planted = rng.random(PARCELS) < .12
    woods = smooth_noise(rng, 40) + .2 * smooth_noise(rng, 9) > .8
    labels[woods | planted[parcel]] = WOOD
    labels[smooth_noise(rng, 45) > 1.25] = WATER
    bends = 26 * np.sin(along / rng.uniform(40, 80) + rng.uniform(0, 6))
    river = np.abs(across - bends - rng.uniform(-130, 130)) < rng.uniform(16, 28)
    labels[river & (rng.random() < .6)] = WATER

    middle = borders[np.abs(borders) < 160]
    roads = [(across - rng.choice(middle), along),  # signed distance from the road, position on it
             (along - rng.uniform(-180, -40), across),
             (along - rng.uniform(40, 180), across)]
    for beside, _ in roads:
        labels[np.abs(beside) < rng.uniform(7.5, 10)] = ROAD
    house = np.zeros(SIZE, int)
    ridge = np.zeros(SIZE)
    for beside, position in roads:
        add_buildings(rng, labels, house, ridge, beside, position)

    crown, brightness = tree_crowns(rng)
    house_height = rng.uniform(8, 14, ROOF_COLOURS)[house]
    height = np.select([labels == WOOD, labels == BUILDING], [3 + 5 * crown, house_height], 0)
    needled = smooth_noise(rng, 25) < 0
    roof_colour = ROOFS[rng.integers(3, size=ROOF_COLOURS)]
    roof_colour = roof_colour * rng.uniform(.85, 1.15, (ROOF_COLOURS, 1))
    return {"labels": labels, "parcel": parcel, "house": house, "ridge": ridge, "along": along,
            "across": across, "height": height, "crown": crown, "brightness": brightness,
            "needled": needled, "roof_colour": roof_colour}


def cast_shadow(height, azimuth, fall, reach=16):
    """(H, W) bool: whether something towards the sun is tall enough to shade a pixel.

    Args:
        height: (H, W) px.
        azimuth: where the sun stands, radians from the direction of larger columns.
        fall: px by which a shadow gets lower per pixel of distance.
        reach: px, the longest shadow.
    """
    padded = np.pad(height, reach, mode="edge")
    rows, cols = height.shape
    shadow = np.zeros(height.shape, bool)
    for step in range(1, reach):
        row = reach + round(step * np.sin(azimuth))
        col = reach + round(step * np.cos(azimuth))
        shadow |= padded[row:row + rows, col:col + cols] - fall * step > height
    return shadow


def render(rng, land, season):
    """Photograph a site: colours, textures, shadows, haze and the sensor's noise.

    Args:
        land: of `generate_map`.
        season: 0 or 1.
    Returns:
        (H, W, 4) uint8.
    """
    parcel = land["parcel"]
    is_class = [land["labels"] == number for number in range(5)]
    crops = CROPS[rng.choice(4, PARCELS, p=CROP_SHARES[season])]
    crops = crops * rng.uniform(.85, 1.15, (PARCELS, 1))
    ploughed_along = rng.random(PARCELS) < .5
    ploughed = np.where(ploughed_along[parcel], land["across"], land["along"])
    furrows = np.sin(2 * np.pi * ploughed / rng.uniform(8, 12, PARCELS)[parcel])
    trees = TREES[season][land["needled"].astype(int)]
    water = WATERS[rng.integers(2)]
    roofs = land["roof_colour"][land["house"]]
    colour = np.select([mask[..., None] for mask in is_class],
                       [crops[parcel], trees, water, ASPHALT, roofs])  # (H, W, 4)

    furrow_depth = rng.uniform(.12, .25, PARCELS)[parcel]
    texture = np.select(is_class, [
        1 + furrow_depth * furrows,
        (.5 + .8 * land["crown"]) * land["brightness"],
        1 + .1 * smooth_noise(rng, 30) + .03 * smooth_noise(rng, 2),
        1 + .04 * smooth_noise(rng, 4),
        1 + .3 * land["ridge"],
    ])
    shadow = cast_shadow(land["height"], rng.uniform(0, 2 * np.pi), rng.uniform(.9, 1.4))
    light = np.where(shadow, .55, 1) * (1 + .06 * smooth_noise(rng, 80))
    exposure = rng.uniform(.9, 1.1)
    band_gain = rng.uniform(.96, 1.04, 4)
    image = colour * (texture * light)[..., None] * exposure * band_gain
    haze = rng.uniform(0, .02)
    image += haze + rng.normal(0, .03, image.shape)
    return np.clip(np.rint(420 * image), 0, 255).astype(np.uint8)


def demo(folder, seed):
    """Write the scenes of the demo as images/*.tif and masks/*.tif.

    Args:
        folder: where the two folders are made.
        seed: 0 or more.
    Returns:
        RawDataset; sites 1 to 8 train, 9 and 10 validate, 11 and 12 test.
    """
    for name in ("images", "masks"):
        Path(folder, name).mkdir(parents=True)
    height, width = SIZE
    palette = np.zeros((256, 3), np.uint8)
    palette[:len(DEMO)] = [row.rgb for row in DEMO]
    scenes = []
    for number in range(SITES):
        site = f"place_{number + 1:02d}"
        split = "train" if number < 8 else "val" if number < 10 else "test"
        land = generate_map(np.random.default_rng((seed, number)))
        corner = (0.0, 0.0, 0.0, 5e5 + 400 * number, 4.6e6, 0.0)
        position = Georeference({33550: (GSD_M, GSD_M, 0.0), 33922: corner, 34735: UTM_31N})
        for season, season_name in enumerate(SEASONS):
            file = f"{site}_{season_name}.tif"
            image_path = Path(folder, "images", file)
            mask_path = Path(folder, "masks", file)
            image = render(np.random.default_rng((seed, number, 1 + season)), land, season)
            write_geotiff(image_path, [image], height, width, 4, np.uint8, georeference=position,
                          level=1)
            write_geotiff(mask_path, [land["labels"]], height, width, 1, np.uint8, palette,
                          georeference=position)
            scenes.append(Scene(image_path.stem, image_path, mask_path, site, split))
    return RawDataset(DEMO, scenes, aligned=True)
