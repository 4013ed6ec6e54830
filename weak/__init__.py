"""Learning beyond the labelled pixels: averaged weights, superpixels, what to label next."""
