"""Class masks downsampled by a whole number, by nearest pixel, majority or weighted majority."""

import numpy as np

TILE = 512  # px, width of the pieces of a mask that is stored in tiles
PIECE = 2**19  # px of a class mask counted at once: fits the processor's cache, 4 times as fast


def downscale_classes(raster, factor, how="nearest", weights=None, ignore=None, same=None):
    """Downsample a class mask by a whole number, block of rows by block of rows, as GDAL does.

    "nearest" takes the pixel at factor // 2 of each block. "mode" takes the most frequent class.
    "weighted" takes the class of the highest weight x count, so that roads survive. Of equal
    classes wins the one that is complete first, row by row. Blocks at the right and bottom edge
    may be smaller, and vote with the pixels they have.

    Args:
        raster: Raster of one band of integers.
        factor: pixels of the raster along each side of a pixel of the result.
        how: "nearest", "mode" or "weighted".
        weights: {class: weight} or a sequence, 1e-9 to 1e9, for "weighted"; 1 where not named.
        ignore: value, or several, that do not vote; where a block has no other value, the first
            of them is its result. None: every value votes.
        same: {value: another, as which it counts}.
    Returns:
        Iterator of (h, ceil(W / factor)) arrays of the raster's dtype, top to bottom.
    Raises:
        ValueError: an argument is out of range, or the raster is no class mask.
    """
    if raster.bands != 1 or raster.dtype.kind not in "ui":
        raise ValueError(f"{raster.path}: is no class mask, {raster.bands} x {raster.dtype}; "
                         "give one band of integers")
    weights = _class_weights(weights) if how == "weighted" else {}
    whole = isinstance(factor, (int, np.integer)) and factor >= 1
    in_range = all(1e-9 <= weight <= 1e9 for weight in weights.values())
    if not whole or not in_range or how not in ("nearest", "mode", "weighted"):
        raise ValueError(f"cannot scale by {factor}, {how}, {weights}; give a whole number from 1, "
                         "nearest, mode or weighted, and weights from 1e-9 to 1e9")
    limits = np.iinfo(raster.dtype)
    ignored = [] if ignore is None else np.ravel(ignore)
    ignored = [int(value) for value in ignored if limits.min <= value <= limits.max]
    weights.update(dict.fromkeys(ignored, 0))
    same = {value: other for value, other in (same or {}).items()
            if limits.min <= other <= limits.max}
    classes = []  # values met so far
    piece_width = raster.width if raster.segment[1] >= raster.width else TILE  # as the file's
    for top, height in _pieces(raster.height, factor, PIECE // piece_width):
        results = []
        for left, width in _pieces(raster.width, factor, piece_width):
            piece = raster.read(top, left, height, width)[:, :, 0]
            for value, other in same.items():
                piece = np.where(piece == value, piece.dtype.type(other), piece)
            down = min(factor, height)  # less at the bottom edge
            across = min(factor, width)
            if how == "nearest":
                middle_row = min(factor // 2, down - 1)
                middle_col = min(factor // 2, across - 1)
                results.append(piece[middle_row::down, middle_col::across])
            else:
                default = ignored[0] if ignored else 0
                results.append(majority_vote(piece, down, across, weights, classes, default))
        yield np.concatenate(results, axis=1)


def _class_weights(weights):
    """{class: weight} from a dict, from a sequence that starts with class 0, or from None."""
    if weights is None:
        return {}
    return dict(weights if isinstance(weights, dict) else enumerate(weights))


def _pieces(length, factor, limit):
    """[(start, size)] that cover length, px: multiples of factor up to limit, then the rest."""
    whole = length // factor * factor
    step = max(limit // factor, 1) * factor
    pieces = [(start, min(step, whole - start)) for start in range(0, whole, step)]
    if whole < length:
        pieces.append((whole, length - whole))
    return pieces


def majority_vote(piece, down, across, weights, classes, default):
    """The class of the highest weight x count in each block of pixels.

    Args:
        piece: (h * down, w * across) integers, in blocks of down x across px.
        weights: {class: weight}, 1 where not named.
        classes: list of the values met so far; those of `piece` are added.
        default: result of a block in which all weights are 0.
    Returns:
        (h, w) of piece's dtype.
    """
    counts = [_block_counts(piece == value, down, across) for value in classes]  # K of (h, w)
    if sum(count.sum(dtype=np.int64) for count in counts) < piece.size:  # there are new values
        found = np.setdiff1d(piece, classes).astype(piece.dtype)
        counts += [_block_counts(piece == value, down, across) for value in found]
        classes.extend(found)
    values = np.array(classes)  # (K,)
    class_weights = np.array([weights.get(value, 1) for value in classes], np.float32)
    scores = np.array(counts, np.float32) * class_weights[:, None, None]
    best = scores.max(axis=0)  # (h, w)
    leads = scores == best  # (K, h, w)
    winners = values[leads.argmax(axis=0)]
    tied = (leads.sum(axis=0) > 1) & (best > 0)  # where all are 0, the default is set below
    blocks = piece.reshape(len(winners), down, -1, across).swapaxes(1, 2)  # (h, w, down, across)
    blocks = blocks[tied].reshape(-1, down * across)
    winners[tied] = _first_complete(blocks, leads[:, tied], values)
    winners[best == 0] = default
    return winners


def _block_counts(hits, down, across):
    """Number of pixels that are True in each block of down x across px.

    Args:
        hits: (h * down, w * across) bool.
    Returns:
        (h, w) integers.
    """
    width = hits.shape[1]
    rows = hits.view(np.uint8).reshape(-1, down, width)
    rows = rows.sum(axis=1, dtype=np.min_scalar_type(down))  # (h, w * across)
    cells = rows.reshape(-1, across).T.copy()  # (across, h * w), because it adds faster that way
    return cells.sum(axis=0, dtype=np.min_scalar_type(down * across)).reshape(len(rows), -1)


def _first_complete(blocks, leads, values):
    """Of the leading values of each block, the one whose last pixel comes first.

    Args:
        blocks: (n, P) pixels, row by row; leads: (K, n) bool; values: (K,).
    Returns:
        (n,) values.
    """
    backwards = blocks[:, ::-1]
    pixels_after = np.array([(backwards == value).argmax(axis=1) for value in values])  # (K, n)
    return values[np.where(leads, pixels_after, -1).argmax(axis=0)]
