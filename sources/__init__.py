"""Raw data to scenes with labels: folders, public sets, Sentinel-2, the demo, points."""
