"""Finding the rare images of a collection without labels, and choosing which to label next."""
