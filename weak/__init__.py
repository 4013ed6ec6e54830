"""Learning beyond the labelled pixels: EMA, superpixels, a teacher, what to label next."""
