"""First version: procedural demo scenes only."""
import numpy as np

DEMO_SIZE = (384, 512)  # px
DEMO_PLACES = 12
SEASONS = ("summer", "autumn")
FIELD, WOOD, WATER, ROAD, BUILDING = range(5)

# Reflectance in red, green, blue, near infrared. The classes overlap on purpose: a ploughed field, a tiled roof and a
# track have one colour, and so have wet soil, shadow and water; texture, shape and surroundings tell them apart.
CROPS = np.array([(.30, .24, .18, .34), (.14, .12, .10, .16), (.38, .33, .21, .42), (.11, .16, .08, .46), (.16, .20, .11, .40)])
WOODS = np.array([[(.09, .14, .07, .44), (.07, .11, .06, .32)], [(.24, .18, .10, .34), (.16, .14, .10, .24)]])
WATERS = np.array([(.07, .10, .10, .08), (.18, .18, .13, .15), (.11, .15, .09, .19)])
ROADS = np.array([(.20, .20, .20, .22), (.34, .32, .29, .36), (.31, .25, .19, .34)])
ROOFS = np.array([(.34, .21, .15, .36), (.25, .25, .26, .28), (.14, .13, .13, .17), (.40, .38, .36, .42)])


def smooth_noise(rng, shape, scale):
    """Random hills: white noise through a Gaussian of `scale` px; mean 0, std 1."""
    rows, cols = np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1])[None]
    blur = np.exp(-2 * (np.pi * scale) ** 2 * (rows ** 2 + cols ** 2))
    noise = np.fft.irfft2(np.fft.rfft2(rng.standard_normal(shape)) * blur, s=shape)
    return (noise - noise.mean()) / noise.std()


def tree_crowns(rng, shape, cell=9):
    """Round crowns, one in each cell of a jittered grid: (H, W) height 0..1 and (H, W) brightness of the tree."""
    rows, cols = np.indices(shape)
    grid = (shape[0] // cell + 3, shape[1] // cell + 3)
    jitter_row, jitter_col = rng.uniform(0, 1, (2, *grid))
    brightness = rng.uniform(.75, 1.25, grid)
    nearest, shade = np.full(shape, np.inf), np.ones(shape)
    for step_row in (0, 1, 2):
        for step_col in (0, 1, 2):
            i, j = rows // cell + step_row, cols // cell + step_col
            distance = np.hypot((i - 1 + jitter_row[i, j]) * cell - rows, (j - 1 + jitter_col[i, j]) * cell - cols)
            shade = np.where(distance < nearest, brightness[i, j], shade)
            nearest = np.minimum(nearest, distance)
    return np.clip(1 - (nearest / (.75 * cell)) ** 2, 0, 1), shade


def demo_layout(rng):
    """What stands where in one place, the same in every season."""
    height, width = DEMO_SIZE
    rows, cols = np.indices(DEMO_SIZE).astype(float)
    angle = rng.uniform(0, np.pi)
    bend = 12 * smooth_noise(rng, DEMO_SIZE, 60)
    along = (cols - width / 2) * np.cos(angle) + (rows - height / 2) * np.sin(angle) + bend
    across = (rows - height / 2) * np.cos(angle) - (cols - width / 2) * np.sin(angle) + bend
    # Parcels: strips, each cut into pieces of its own.
    strip = np.searchsorted(np.cumsum(rng.uniform(50, 110, 14)) - 560, across)
    cuts = np.cumsum(rng.uniform(50, 150, (16, 14)), axis=1) - 700
    piece = (along[..., None] > cuts[strip]).sum(-1)
    parcel = strip * 15 + piece
    labels = np.full(DEMO_SIZE, FIELD, np.uint8)
    hills = smooth_noise(rng, DEMO_SIZE, 34) + .25 * smooth_noise(rng, DEMO_SIZE, 7)
    wooded = rng.random(16 * 15) < .12
    labels[(hills > .75) | wooded[parcel]] = WOOD
    lake = smooth_noise(rng, DEMO_SIZE, 40)
    labels[lake > rng.uniform(1.2, 1.7)] = WATER
    course = rng.uniform(-140, 140) + 26 * np.sin(along / rng.uniform(40, 80) + rng.uniform(0, 6))
    if rng.random() < .6:
        labels[np.abs(across + bend - course) < rng.uniform(9, 18)] = WATER
    roads = []
    for distance, reach in ((across, 120), (along, 160), (along, 220)):
        middle = rng.uniform(-reach, reach)
        roads.append((distance is across, middle))
        labels[np.abs(distance - middle) < rng.uniform(3.5, 5)] = ROAD
    tall = np.zeros(DEMO_SIZE)
    roof = np.full(DEMO_SIZE, -1)
    slope = np.zeros(DEMO_SIZE)
    kind = []
    for number in range(140):
        is_across, middle = roads[rng.integers(3)]
        side = middle + rng.choice((-1, 1)) * rng.uniform(14, 60)
        a, b = rng.uniform(-320, 320), side
        if not is_across:
            a, b = b, a
        half_long, half_wide = rng.uniform(7, 14), rng.uniform(5.5, 9)
        # pixel whose (along, across) is nearest (a, b), without the bend
        col = a * np.cos(angle) - b * np.sin(angle) + width / 2
        row = a * np.sin(angle) + b * np.cos(angle) + height / 2
        if not (0 <= row < height and 0 <= col < width):
            continue
        turn = angle + rng.choice((0, np.pi / 2)) + rng.normal(0, .08)
        u = (cols - col) * np.cos(turn) + (rows - row) * np.sin(turn)
        v = (rows - row) * np.cos(turn) - (cols - col) * np.sin(turn)
        inside = (np.abs(u) < half_long) & (np.abs(v) < half_wide)
        around = (np.abs(u) < half_long + 4) & (np.abs(v) < half_wide + 4)
        if not (labels[around] == FIELD).all():
            continue
        labels[inside] = BUILDING
        roof[inside] = number
        slope[inside] = np.sign(v[inside])
        tall[inside] = rng.uniform(6, 12)
        kind.append(turn)
    crown, shade = tree_crowns(rng, DEMO_SIZE)
    return dict(labels=labels, parcel=parcel, roof=roof, slope=slope, crown=crown, shade=shade, tall=tall,
                along=along, across=across, angle=angle)


def cast_shadow(tall, azimuth, fall):
    """Where the sun is hidden: some taller thing stands towards the sun."""
    reach = 14
    padded = np.pad(tall, reach, mode="edge")
    hidden = np.zeros(tall.shape, bool)
    for step in range(1, reach):
        row, col = reach + round(step * np.sin(azimuth)), reach + round(step * np.cos(azimuth))
        hidden |= padded[row:row + tall.shape[0], col:col + tall.shape[1]] - fall * step > tall
    return hidden


def demo_scene(seed, place, season):
    """One scene: (H, W, 4) uint8 image and (H, W) uint8 labels."""
    ground = np.random.default_rng((seed, place))
    at = demo_layout(ground)
    rng = np.random.default_rng((seed, place, 1 + season))
    labels, parcel, roof = at["labels"], at["parcel"], at["roof"]
    shape = labels.shape
    # fields
    crop = CROPS[rng.choice(len(CROPS), 240, p=((.2, .15, .2, .25, .2), (.35, .2, .15, .15, .15))[season])] * rng.uniform(.8, 1.2, (240, 1))
    image = crop[parcel]
    along_rows = rng.random(240) < .5
    line = np.where(along_rows[parcel], at["across"], at["along"])
    period, strength = rng.uniform(5, 9, 240), rng.uniform(.04, .16, 240)
    texture = 1 + strength[parcel] * np.sin(2 * np.pi * line / period[parcel]) + .05 * smooth_noise(rng, shape, 12)
    # woods
    leafy = smooth_noise(ground, shape, 25)[..., None] > 0
    trees = np.where(leafy, WOODS[season, 0], WOODS[season, 1]) * at["shade"][..., None]
    image = np.where((labels == WOOD)[..., None], trees, image)
    texture = np.where(labels == WOOD, .55 + .75 * at["crown"], texture)
    # water
    water = WATERS[rng.integers(3)] * rng.uniform(.8, 1.2)
    image = np.where((labels == WATER)[..., None], water, image)
    texture = np.where(labels == WATER, 1 + .12 * smooth_noise(rng, shape, 30) + .03 * smooth_noise(rng, shape, 2), texture)
    # roads
    image = np.where((labels == ROAD)[..., None], ROADS[ground.integers(3)] * rng.uniform(.85, 1.15), image)
    texture = np.where(labels == ROAD, 1 + .04 * smooth_noise(rng, shape, 4), texture)
    # buildings
    azimuth, fall = rng.uniform(0, 2 * np.pi), rng.uniform(.8, 1.4)
    roofs = ROOFS[ground.integers(len(ROOFS), size=141)] * ground.uniform(.8, 1.2, (141, 1))
    image = np.where((labels == BUILDING)[..., None], roofs[roof], image)
    texture = np.where(labels == BUILDING, 1 + .2 * at["slope"], texture)
    tall = at["tall"] + np.where(labels == WOOD, 3 + 5 * at["crown"], 0)
    light = np.where(cast_shadow(tall, azimuth, fall), .5, 1.)
    light *= 1 + .08 * smooth_noise(rng, shape, 80)
    image = image * (texture * light)[..., None]
    image = image * rng.uniform(.75, 1.25) * rng.uniform(.9, 1.1, 4) + rng.uniform(0, .03)
    image += rng.normal(0, .02, image.shape)
    return np.clip(np.rint(image * 420), 0, 255).astype(np.uint8), labels
