"""Raw data to scenes with labels: files, public sets, Sentinel-2, demo, masks, points, splits."""
