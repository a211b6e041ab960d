"""Fusion of a hyperspectral image with a sharper guide.

Read in this order: protocol, blur and kernel_fit, least_squares, local_regression, correction_net, ual, adaptation,
model.
"""
