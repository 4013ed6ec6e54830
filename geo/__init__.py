"""Raster files, coordinates, windows and class maps."""
