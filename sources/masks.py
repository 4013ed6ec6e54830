"""The labels of a scene in its mask: ids, colours, a palette, or a band per class.

Where a mask is transparent, masked or nodata there is no label.
"""

import dataclasses
from collections import Counter

import numpy as np

from sources.labels import NO_LABEL

ROWS = 512  # px, height of the blocks in which a mask is searched
LISTED = 40  # ids or colours that are proposed as classes, the most frequent
BLUR = 24  # how far JPEG compression moves the values 0 and 255


class MaskLabels:
    """The labels of a scene in its mask.

    What no class claims is an error, except 255, NaN and the file's nodata value among ids, which
    mean no label.

    Args:
        mask: ScaledRaster.
        source: RawDataset, of which class_table, threshold and tolerance matter.
    Raises:
        ValueError: the mask does not fit the classes.
    """

    def __init__(self, mask, source):
        self.mask = mask
        self.path = mask.path
        self.raster = mask.raster
        self.threshold = source.threshold
        self.tolerance = source.tolerance
        self.table = source.class_table
        self.warn = source.warn
        self.greys = set()  # the values of a mask of three equal bands
        self.form = self._find_form()
        if self.form in ("colours", "palette"):
            index_of = {row.colour: row.index for row in self.table if row.colour is not None}
        elif self.form == "bands":
            index_of = {band: row.index for band, row in enumerate(rows_of_bands(self.table))}
        else:
            index_of = {row.value: row.index for row in self.table if row.value is not None}
        self._check_form(index_of)
        self.nodata_code = self._nodata_code()
        if self.nodata_code in index_of:
            mask.raster = show_nodata(mask.raster)
        self.codes = np.array(sorted(index_of))
        self.indices = np.array([index_of[code] for code in self.codes.tolist()], np.uint8)
        self._warn_of_doubts()

    def _find_form(self):
        """What the mask holds: "ids", "colours", "palette" (colours too) or "bands".

        A palette is for the eye alone where all classes have ids. Three equal bands are ids, unless
        their greys are colours of classes.
        """
        bands = self.raster.bands - (self.raster.alpha is not None)
        colours = {row.colour for row in self.table if row.colour is not None}
        have_ids = all(row.value is not None for row in self.table)
        if bands == 1:
            has_colours = colours and self.raster.palette is not None
            return "palette" if has_colours and not have_ids else "ids"
        if bands not in (3, 4):
            return "bands"
        for pixels in blocks_of(self.mask):
            if bands == len(self.table) and pixels.max() == 1 and (pixels.sum(axis=2) == 1).any():
                return "bands"  # one is set, such as the fourth where the first three are equal
            if (pixels[:, :, :3] != pixels[:, :, :1]).any():
                no_colours = pixels.max() <= 1 or not colours
                return "bands" if no_colours and bands == len(self.table) else "colours"
            self.greys.update(np.unique(pixels[:, :, 0]).tolist())
        are_colours = all(grey * 0x10101 in colours for grey in self.greys)
        return "ids" if have_ids and not are_colours or not colours else "colours"

    def _check_form(self, index_of):
        """Refuse a mask whose form does not fit the classes; {code: class index} by its form."""
        bands = self.raster.bands - (self.raster.alpha is not None)
        if self.form == "bands" and bands != len(self.table):
            raise ValueError(f"{self.path} has {self.raster.bands} bands or pages, but classes.csv "
                             f"{len(self.table)} rows: give one band of ids, three of colours, or "
                             "a band of 0 and 1 for each row")
        if self.form == "colours" and not index_of:
            raise ValueError(f"{self.path} is in colours, but the classes have none: give r,g,b "
                             "in classes.csv")
        if self.form == "colours" and self.raster.dtype != np.uint8:
            raise ValueError(f"{self.path} is in colours of {self.raster.dtype}: save it with 8 "
                             "bits a band")
        if not index_of:
            raise ValueError(f"{self.path} holds ids, but the classes have only colours: give "
                             "them ids as well")
        if self.threshold is not None and self.form == "ids" and set(index_of) != {0, 255}:
            raise ValueError(f"{self.path}: --threshold makes its values 0 and 255: give the "
                             "classes these ids")

    def _warn_of_doubts(self):
        """Warn, once per data set, of what could be read in two ways."""
        if self.form == "bands":
            names = ", ".join(row.name for row in rows_of_bands(self.table))
            self.warn("bands", f"{self.path} has a band (or page) per class, read as: {names}")
        if self.form == "colours" and self.raster.bands == 4 and self.raster.alpha is None:
            self.warn("fourth", f"{self.path} has a fourth band that is not marked as alpha, and "
                      "that is not read")
        if self.form == "colours" and self._greys_are_other_ids():
            self.warn("grey", f"{self.path} holds greys that are colours of classes, and ids of "
                      "others: they are read as colours; leave the colours out of classes.csv if "
                      "they are ids")
        for row in self.table:
            code = row.value if self.form == "ids" else row.colour
            if code is not None and code == self.nodata_code and row.index != NO_LABEL:
                self.warn("nodata", f"{self.path} states {self.raster.nodata:g} as nodata, which "
                          f"is also '{row.name}' in classes.csv: these pixels are labelled "
                          f"{row.name}; name that row ignore if they have no label")
            if self.form == "ids" and self._palette_contradicts(row):
                self.warn("palette", f"{self.path} shows value {row.value:g} in the colour of a "
                          f"class other than '{row.name}': its values are read, not its colours; "
                          "leave the ids out of classes.csv to read colours")
        if self.form == "ids" and is_jpeg(self.raster) and not set(self.codes) <= {0, 255}:
            self.warn("jpeg", f"{self.path} is a JPEG, which changes ids: save masks as PNG or "
                      "TIFF, or give --threshold for two classes")

    def _nodata_code(self):
        """The id or colour of pixels with the file's nodata value in all bands; None without."""
        value = self.raster.nodata
        if value is None or self.form in ("ids", "bands"):
            return value
        if self.form == "palette":
            in_palette = 0 <= value < len(self.raster.palette)
            return as_codes(self.raster.palette[[[int(value)]]]).item() if in_palette else None
        return int(value) * 0x10101

    def _greys_are_other_ids(self):
        """Whether the values of three equal bands are ids as well, of other classes."""
        by_id = {row.value: row.index for row in self.table}
        by_colour = {row.colour: row.index for row in self.table}
        pairs = [(by_id.get(grey), by_colour.get(grey * 0x10101)) for grey in self.greys]
        return any(one != other for one, other in pairs) and None not in sum(pairs, ())

    def _palette_contradicts(self, row):
        """Whether the palette shows a class's id in the colour of another class."""
        if self.raster.palette is None or row.value not in range(256):
            return False
        shown = int.from_bytes(self.raster.palette[int(row.value)].tobytes(), "big")
        others = [other.colour for other in self.table if other.index != row.index]
        return shown != row.colour and shown in others

    def read(self, row, col, height, width):
        """The class indices of a window, (height, width) uint8, 255 for no label.

        Raises:
            ValueError: a value or colour that no class has, and how many pixels have it.
        """
        codes, hidden = self._read_codes(row, col, height, width)
        nearest = np.searchsorted(self.codes, codes).clip(max=len(self.codes) - 1)
        labels = self.indices[nearest]
        labels[hidden] = NO_LABEL
        invalid = (self.codes[nearest] != codes) & ~hidden
        if invalid.any():
            unknown, inverse = np.unique(codes[invalid], return_inverse=True)
            found = [self._class_of_unknown(code) for code in unknown]
            labels[invalid] = np.array(found, np.uint8)[inverse]
        return labels

    def _read_codes(self, row, col, height, width):
        """(height, width) ids, bands, or colours 0xRRGGBB; and where the mask hides them, bool."""
        pixels, missing = self.mask.read_masked(row, col, height, width)
        if self.raster.alpha is not None:
            pixels = np.delete(pixels, self.raster.alpha, axis=2)
            missing = np.delete(missing, self.raster.alpha, axis=2)
        hidden = missing.all(axis=2)
        if self.form == "bands":
            return self._band_of_class(pixels, hidden)
        if self.form == "palette":
            values = np.where(hidden, 0, pixels[:, :, 0])
            if values.max() >= len(self.raster.palette):
                raise ValueError(f"{self.path} holds the value {values.max()}, but its palette "
                                 f"ends at {len(self.raster.palette) - 1}: give ids in classes.csv")
            pixels = self.raster.palette[values]
        if self.threshold is not None:
            pixels = np.where(pixels > self.threshold, 255, 0)
        return (pixels[:, :, 0] if self.form == "ids" else as_codes(pixels)), hidden

    def _band_of_class(self, pixels, hidden):
        """The band that is set in each pixel of (h, w, K), and where none is."""
        is_set = pixels != 0
        number_set = is_set.sum(axis=2)
        values = np.unique(pixels)
        if number_set.max() > 1 or len(values) > 2 or values[-1] not in (0, 1, 255):
            raise ValueError(f"{self.path}: is not one band per class, because a pixel is set in "
                             f"two of its {pixels.shape[2]} bands, or holds other values than 0 "
                             "and 1 (or 255): save one band of ids, or give the classes' r,g,b if "
                             "it is in colours")
        return is_set.argmax(axis=2), hidden | (number_set == 0)

    def _class_of_unknown(self, code):
        """The class index of a code that no class has: the nearest colour's, or 255.

        Raises:
            ValueError: no colour is near enough, or it is an id that is not known as no label.
        """
        in_colours = self.form != "ids"
        if in_colours:
            distances = np.abs(_split_colour(self.codes) - _split_colour(code)).max(axis=-1)
            if distances.min() <= self.tolerance:
                return self.indices[distances.argmin()]
        elif code == NO_LABEL or np.isnan(code):
            if code == NO_LABEL and self.codes.tolist() == [0, 1] and 1 not in count_codes(self):
                self.warn("255", f"{self.path} holds 255 and no 1: 255 is read as no label; give "
                          "it as the id in classes.csv if it is a class")
            return NO_LABEL
        what = f"value {code}"
        advice = "list it in classes.csv, maybe as 'ignore'"
        counts = count_codes(self)
        if in_colours:
            what = f"colour {','.join(map(str, _split_colour(code)))}"
            advice += ", or allow blurred colours by --tolerance"
        elif is_jpeg(self.raster) and not is_blurred(counts):
            advice = "a JPEG changes ids: save masks as PNG or TIFF"
        elif is_blurred(counts):
            advice = ("its values lie around 0 and 255, as in a JPEG of two classes: give these "
                      "the ids 0 and 255, and read it with --threshold 127")
        raise ValueError(f"{self.path}: {what} ({counts[code]} px) is no class: {advice}")


def rows_of_bands(table):
    """The rows of a class table in the order of a mask's bands: by their ids, if these are
    0 to K - 1 or 1 to K, else as they are listed."""
    ids = [row.value for row in table]
    first = 1 if 1 in ids and 0 not in ids else 0
    if set(ids) == set(range(first, first + len(ids))):
        return sorted(table, key=lambda row: row.value)
    return table


def propose_classes(masks):
    """A classes.csv to fill in, as text: the ids or colours of masks, the most frequent first.

    Args:
        masks: list of ScaledRaster.
    """
    colours = Counter()  # {(r, g, b): px}
    ids = Counter()
    shown = {}  # {id: (r, g, b) of a palette}
    for mask in masks:
        raster = mask.raster
        for row in range(0, mask.height, ROWS):
            height = min(ROWS, mask.height - row)
            pixels, missing = mask.read_masked(row, 0, height, mask.width)
            if raster.alpha is not None:
                pixels = np.delete(pixels, raster.alpha, axis=2)
            pixels = pixels[~missing.all(axis=2)][:, None]  # (n, 1, C)
            values, numbers = np.unique(as_codes(pixels), return_counts=True)
            found = dict(zip(values.tolist(), numbers.tolist()))
            (colours if pixels.shape[2] >= 3 else ids).update(found)
        if raster.palette is not None:
            shown.update(enumerate(raster.palette.tolist()))
    if all(code % 0x10101 == 0 for code in colours):  # grey RGB
        ids.update({code // 0x10101: number for code, number in colours.items()})
        colours.clear()
    total = sum(ids.values()) + sum(colours.values())
    lines = ["id,name,r,g,b,share"]
    for code, number in ids.most_common(LISTED):
        colour = ",".join(map(str, shown.get(code, ("", "", ""))))
        lines.append(f"{code},,{colour},{number / total:.4f}")
    for code, number in colours.most_common(LISTED):
        colour = ",".join(map(str, _split_colour(code)))
        lines.append(f",,{colour},{number / total:.4f}")
    if len(ids) + len(colours) > len(lines) - 1:
        lines.append(f"(and {len(ids) + len(colours) - len(lines) + 1} more)")
    return "\n".join(lines)


def hide_as_nodata(raster, taken):
    """A Raster of ids whose hidden pixels have a nodata value, in place of alpha or a mask.

    Args:
        raster: of one band and perhaps alpha.
        taken: values that are ids.
    """
    bands = raster.bands - (raster.alpha is not None)
    if not raster.has_validity or bands != 1 or raster.dtype.kind not in "ui":
        return raster
    limits = np.iinfo(raster.dtype)
    free = (value for value in range(limits.max, limits.min, -1) if value not in taken)
    nodata = raster.nodata if raster.nodata not in (None, *taken) else next(free)
    return dataclasses.replace(raster, source=Hidden(raster, nodata, taken), bands=1, alpha=None,
                               nodata=nodata, masks=(), sparse=False)


class Hidden:
    """The source of a Raster: the first band of another, with nodata where that one hides it."""

    def __init__(self, raster, nodata, taken):
        is_class = raster.nodata is not None and raster.nodata in taken
        self.raster = show_nodata(raster) if is_class else raster
        self.nodata = nodata

    def copy(self, row, col, window):
        """Fill window (h, w, 1) with the pixels at row, col."""
        pixels, missing = self.raster.read_masked(row, col, *window.shape[:2])
        window[:, :, 0] = np.where(missing[:, :, 0], self.nodata, pixels[:, :, 0])


def show_nodata(raster):
    """A Raster whose nodata value counts as a value, because it is a class."""
    if raster.sparse and raster.nodata != 0:
        raise ValueError(f"{raster.path} leaves out parts without data, but its nodata value "
                         f"{raster.nodata:g} is a class: save it anew, with another nodata value")
    return dataclasses.replace(raster, nodata=None)


def is_jpeg(raster):
    """Whether a raster's file is a JPEG, or a TIFF compressed as one."""
    image = getattr(raster.source, "image", None)
    page = getattr(raster.source, "page", None)
    return (image is not None and image.format == "JPEG") or (
        page is not None and page.compression in (6, 7))


def as_codes(pixels):
    """(h, w, C) pixels as (h, w) numbers: colours 0xRRGGBB of three bands or more, else values."""
    if pixels.shape[2] < 3:
        return pixels[:, :, 0]
    return pixels[:, :, :3].astype(int) @ (1 << 16, 1 << 8, 1)


def blocks_of(mask):
    """Yield the pixels (h, W, C) of a whole mask, block of rows by block of rows."""
    for row in range(0, mask.height, ROWS):
        yield mask.read(row, 0, min(ROWS, mask.height - row), mask.width)


def count_codes(labels):
    """How many pixels of a whole mask have each code: Counter; `labels` is its MaskLabels."""
    counts = Counter()
    mask = labels.mask
    for row in range(0, mask.height, ROWS):
        height = min(ROWS, mask.height - row)
        codes, hidden = labels._read_codes(row, 0, height, mask.width)
        values, numbers = np.unique(codes[~hidden], return_counts=True)
        counts.update(dict(zip(values.tolist(), numbers.tolist())))
    return counts


def is_blurred(counts):
    """Whether the values {value: px} of a mask lie around 0 and 255, and are more than these."""
    near = [value for value in counts if value <= BLUR or 255 - BLUR <= value <= 255]
    share = sum(counts[value] for value in near) / sum(counts.values())
    return len(counts) > 2 and share > 0.9 and min(near) <= BLUR < max(near)


def _split_colour(code):
    """Numbers 0xRRGGBB as (..., 3) red, green and blue."""
    return np.stack([code >> 16, code >> 8 & 255, code & 255], axis=-1)
