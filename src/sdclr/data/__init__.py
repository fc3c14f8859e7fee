"""Image sources, long-tailed subsets, augmented views and data loading."""
