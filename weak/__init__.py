"""What few labels ask for: averaged weights, a classifier of single pixels, the next clicks."""
