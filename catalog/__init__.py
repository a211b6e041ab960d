"""Images and their storage: STAC items, files, Zarr cubes and the archive that holds them. Knows no neural network.

Read in this order: scene, sensors, grids; storage; cube; readers, pairs; stac; archive (the door from Python).
"""
