"""What the tasks share: degrade, subspace, dct_shrinkage, bicubic, metrics."""
