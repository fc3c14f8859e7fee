"""Marks that a person made on a page of images (keep, drop, a label), and what is done with them."""
