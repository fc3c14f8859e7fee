"""Training of classifiers on labeled long-tailed images, from a pretrained encoder or from scratch."""
