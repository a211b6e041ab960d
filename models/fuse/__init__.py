"""Fusion of a hyperspectral image with a sharper guide, after Zhang et al., "Unsupervised adaptation learning for
hyperspectral imagery super-resolution" (UAL), CVPR 2020.

Read the files in the order of the stages; the notation (Y, X, Z, P, H, s; LR and HR pixels) stands in `protocol.py`.

    protocol           contract of a fusion model, and the values that it takes and returns
    once per scene
    1 blur             blur kernel, gains and noise of the pair, from P Y = H X       kernel_fit solves for the kernel
    2 moments          second moments of (H X, Y) on LR pixels
      least_squares    global regression of Y on the guide; the model without training
      local_regression signal subspace of Y, axes of the guide, regression in neighbourhoods: the start
    for each tile
    3 local_regression coefficients of Z on HR pixels, closed form
    4 correction_net   correction of each coefficient by a small network              ual: the networks of the paper
    5 adaptation       once per block: seven numbers that scale the correction, learned from the guide's own bands
    model              UalModel, the stages together
    samples            training pairs of the network
"""
