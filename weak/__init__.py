"""Learning beyond the labelled pixels: averaged weights, superpixels, a teacher, which pixels to label next."""
