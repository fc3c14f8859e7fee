"""Long-tailed profiles, subsets, class groups, and the data sets of long-tail research."""
