"""Read the marks that a person made on a page of images (keep, drop, label), and apply them."""
