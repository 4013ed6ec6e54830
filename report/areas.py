"""Areas of the classes on a map, adjusted for the map's errors."""

import csv

import numpy as np

from engine.files import plain_text, read_table
from metrics import plain


def adjusted_shares(counts, mapped):
    """Share of a mapped area per class, corrected for the map's errors in a sample.

    The sample is taken as drawn at random within each mapped class. Pixels of test tiles lie side
    by side and neighbours are alike, so they are worth far fewer independent pixels, and the true
    intervals are wider than these.

    Args:
        counts: (K, K) sample pixels, rows are the truth, columns the map.
        mapped: (K,) pixels per class of the whole map.
    Returns:
        shares (K,), 0..1, and half widths of their 95 % intervals (K,). All shares are NaN if any
        mapped class has no sample, all half widths if any has fewer than two pixels, because its
        true classes are not known.
    Source: Olofsson et al. 2014, "Good practices for estimating area and assessing accuracy of
        land change", equations 9 and 10; the tables there have the map in rows.
    """
    mapped = np.asarray(mapped, np.float64)
    is_mapped = mapped > 0
    weight = mapped[is_mapped, None] / mapped.sum()  # (M, 1) of the M mapped classes
    sample = np.asarray(counts, np.float64).T[is_mapped]  # (M, K)
    sizes = sample.sum(1, keepdims=True)  # (M, 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        truth = sample / sizes  # (M, K) share of each true class under each mapped one
        freedom = np.where(sizes > 1, sizes - 1, np.nan)
        variance = (weight ** 2 * truth * (1 - truth) / freedom).sum(0)  # (K,)
    return (weight * truth).sum(0), 1.96 * np.sqrt(variance)


def read_areas(paths, names):
    """Add up the tables of areas that predict.py wrote for the scenes of a map.

    Args:
        paths: of the CSV files.
        names: K class names, which must be those of the tables.
    Returns:
        (K,) list of mapped area, and the sum in ha; if one of the tables lacks area_ha, the list
        is in px and the sum is None.
    Raises:
        ValueError, OSError: a file is missing, or of other classes; one line.
    """
    tables = [_read_table(path, list(names)) for path in paths]
    in_ha = all("area_ha" in table for table in tables)
    columns = [table["area_ha" if in_ha else "pixels"] for table in tables]
    mapped = [sum(areas) for areas in zip(*columns)]
    return mapped, sum(mapped) if in_ha else None


def _read_table(path, names):
    """One table of areas, {"pixels": K numbers, "area_ha": K numbers, where the size is known}."""
    try:
        rows = read_table(path)
        if [plain_text(row["class"]) for row in rows] == names:
            columns = [key for key in ("pixels", "area_ha") if key in rows[0]]
            return {key: [float(row[key]) for row in rows] for key in columns}
    except (KeyError, IndexError, TypeError, ValueError, csv.Error):
        pass  # not such a table either
    raise ValueError(f"--areas {path}: not a table of areas of the classes {', '.join(names)}: "
                     "give files that predict.py wrote with this checkpoint")


def area_rows(counts, mapped, names, total_ha=None):
    """Area of each class on the map, and after correction for the map's errors.

    Args:
        counts: (K, K) pixels of the sample, rows are the truth.
        mapped: (K,) mapped area per class, in any unit.
        names: K class names.
        total_ha: area of the whole map, ha, or None where it is not known.
    Returns:
        list of {"class", "mapped_percent", "adjusted_percent", "interval_percent", and the same in
        ha}; an interval is half the width of the 95 % one; None where the sample is too small.
    """
    adjusted, intervals = adjusted_shares(counts, mapped)
    factors = {"percent": 100}
    if total_ha:
        factors["ha"] = total_ha
    rows = []
    for k, name in enumerate(names):
        share = mapped[k] / (sum(mapped) or 1)
        row = {"class": name}
        for unit, factor in factors.items():
            row[f"mapped_{unit}"] = plain(share * factor)
            row[f"adjusted_{unit}"] = plain(adjusted[k] * factor)
            row[f"interval_{unit}"] = plain(intervals[k] * factor)
        rows.append(row)
    return rows


def stratified_accuracy(counts, mapped):
    """Accuracies of a map, weighted by the mapped areas, from a sample of points.

    The sample is taken as drawn at random from the map, or from each mapped class.

    Args:
        counts: (K, K) sample points, rows are the truth, columns the map.
        mapped: (K,) mapped area per class, in any unit.
    Returns:
        {"overall": share, "users" and "producers": (K,) shares, and for each NAME the half width
        of its 95 % interval as "NAME_interval"}; NaN where the sample does not tell: all but the
        user's accuracies if a mapped class has no point.
    Source: Olofsson et al. 2014, equations 1 to 7.
    """
    mapped = np.asarray(mapped, np.float64)
    sample = np.asarray(counts, np.float64).T  # (K, K), rows are the map from here on
    sizes = sample.sum(1)  # (K,)
    with np.errstate(invalid="ignore", divide="ignore"):
        rows = sample / sizes[:, None]  # (K, K) share of each true class under each mapped one
        rows[mapped == 0] = 0
        freedom = np.where(sizes > 1, sizes - 1, np.nan)
        freedom[mapped == 0] = 1
        weight = mapped / mapped.sum()
        variances = rows * (1 - rows) / freedom[:, None]  # (K, K), of `rows`
        areas = weight @ rows  # (K,) share of the map that is truly of each class
        users = np.where(mapped > 0, rows.diagonal(), np.nan)
        producers = weight * rows.diagonal() / areas
        own = weight ** 2 * (1 - producers) ** 2 * variances.diagonal()
        weighted = weight[:, None] ** 2 * variances
        others = weighted.sum(0) - weighted.diagonal()
        producers_variance = (own + producers ** 2 * others) / areas ** 2
        overall_variance = (weight ** 2 * variances.diagonal()).sum()
        users_variance = np.where(mapped > 0, variances.diagonal(), np.nan)
    return {"overall": weight @ rows.diagonal(), "users": users, "producers": producers,
            "overall_interval": 1.96 * np.sqrt(overall_variance),
            "users_interval": 1.96 * np.sqrt(users_variance),
            "producers_interval": 1.96 * np.sqrt(producers_variance)}
