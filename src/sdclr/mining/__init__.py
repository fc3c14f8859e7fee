"""Find the rare images of a collection without labels, and choose images to label next."""
