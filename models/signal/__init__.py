"""Signal processing that the tasks share: degrade, subspace, dct_shrinkage, bicubic, metrics."""
