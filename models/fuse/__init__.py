"""Fusion of a hyperspectral image with a sharper guide, after Zhang et al., "Unsupervised adaptation learning for
hyperspectral imagery super-resolution" (UAL), CVPR 2020.

Read the files in this order; the notation (Y, X, Z, P, H, s; LR and HR pixels) stands in `interface.py`.

    interface          contract of a fusion model, and the values that it takes and returns
    once per scene
    kernel_estimate    blur kernel, gains and noise of the pair, from P Y = H X       kernel_equations: its solver
    moments            second moments of (H X, Y) on LR pixels
    least_squares      global regression of Y on the guide; the model without training
    local_regression   signal subspace of Y, axes of the guide, regression in neighbourhoods: the start
    for each tile
    local_regression   coefficients of Z on HR pixels, closed form
    candidates         other estimates of the coefficients, each with another assumption
    pair_filter        PairFilterModel: candidates mixed by the filter of one pair of sensors
    correction_net     correction of each coefficient by a small network              ual: the networks of the paper
    adaptation         once per block: seven numbers that scale the correction, learned from the guide's own bands
    model              UalModel, the stages together
    samples            training pairs of the network
    filter_training    training of a filter: sums of second moments
    sensor_pair        the pair of sensors that a filter is bound to
"""
