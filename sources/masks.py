"""The labels of a scene in its mask: ids, the classes' colours, or a palette."""

import numpy as np

from sources.labels import NO_LABEL


class MaskLabels:
    """The labels of a scene in its mask of ids or of the classes' colours.

    A palette counts as colours where a class has no id. What no class claims is an error, except
    255, NaN and the file's nodata value among ids, which mean no label.

    Args:
        mask: ScaledRaster.
        source: RawDataset, of which class_table, threshold and tolerance matter.
    """

    def __init__(self, mask, source):
        self.mask = mask
        self.path = mask.path
        self.palette = mask.raster.palette
        self.threshold = source.threshold
        self.tolerance = source.tolerance
        colours = {row.colour: row.index for row in source.class_table if row.colour is not None}
        values = {row.value: row.index for row in source.class_table if row.value is not None}
        all_have_ids = all(row.value is not None for row in source.class_table)
        in_palette = self.palette is not None and not all_have_ids  # else it is for the eye alone
        self.coloured = bool(colours) and (mask.raster.bands >= 3 or in_palette)
        if self.coloured and mask.raster.dtype != np.uint8:
            raise ValueError(f"{self.path} is in colours of {mask.raster.dtype}: save it with 8 "
                             "bits a band")
        if not self.coloured and not values:
            raise ValueError(f"{self.path} holds ids, but the classes have only colours: give "
                             "them ids as well")
        if self.threshold is not None and not self.coloured and set(values) != {0, 255}:
            raise ValueError(f"{self.path}: --threshold makes its values 0 and 255: give the "
                             "classes these ids")
        index_of = colours if self.coloured else values
        self.codes = np.array(sorted(index_of))  # ids, or colours as numbers 0xRRGGBB
        self.indices = np.array([index_of[code] for code in self.codes.tolist()], np.uint8)

    def read(self, row, col, height, width):
        """The class indices of a window, (height, width) uint8, 255 for no label.

        Raises:
            ValueError: a value or colour that no class has, and how many pixels have it.
        """
        codes = self._read_codes(row, col, height, width)
        nearest = np.searchsorted(self.codes, codes).clip(max=len(self.codes) - 1)
        labels = self.indices[nearest]
        invalid = self.codes[nearest] != codes
        if invalid.any():
            unknown, inverse = np.unique(codes[invalid], return_inverse=True)
            found = [self._class_of_unknown(code) for code in unknown]
            labels[invalid] = np.array(found, np.uint8)[inverse]
        return labels

    def _read_codes(self, row, col, height, width):
        """(height, width) ids, or colours as numbers 0xRRGGBB."""
        pixels = self.mask.read(row, col, height, width)
        if self.coloured and self.palette is not None:
            pixels = self.palette[pixels[:, :, 0]]
        if self.threshold is not None:
            pixels = np.where(pixels > self.threshold, 255, 0)
        if self.coloured:
            return pixels[:, :, :3].astype(int) @ (1 << 16, 1 << 8, 1)
        if pixels.shape[2] >= 3 and (pixels[:, :, :3] != pixels[:, :, :1]).any():
            raise ValueError(f"{self.path} is in colours, but the classes have none: give r,g,b "
                             "in classes.csv")
        return pixels[:, :, 0]

    def _class_of_unknown(self, code):
        """The class index of a code that no class has: the nearest colour's, or 255.

        Raises:
            ValueError: no colour is near enough, or it is an id that is not known as no label.
        """
        if self.coloured:
            distances = np.abs(_split_colour(self.codes) - _split_colour(code)).max(axis=-1)
            if distances.min() <= self.tolerance:
                return self.indices[distances.argmin()]
        elif code in (NO_LABEL, self.mask.raster.nodata) or np.isnan(code):
            return NO_LABEL
        what = f"value {code}"
        advice = "list it in classes.csv, maybe as 'ignore'"
        if self.coloured:
            what = f"colour {','.join(map(str, _split_colour(code)))}"
            advice += ", or allow blurred colours by --tolerance"
        raise ValueError(f"{self.path}: {what} ({self._count(code)} px) is no class: {advice}")

    def _count(self, code):
        """How many pixels of the whole mask have a code."""
        count = 0
        for row in range(0, self.mask.height, 512):
            height = min(512, self.mask.height - row)
            codes = self._read_codes(row, 0, height, self.mask.width)
            count += np.count_nonzero(codes == code)
        return count


def _split_colour(code):
    """Numbers 0xRRGGBB as (..., 3) red, green and blue."""
    return np.stack([code >> 16, code >> 8 & 255, code & 255], axis=-1)
