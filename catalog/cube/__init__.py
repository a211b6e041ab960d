"""Cubes in Zarr: spec (what a cube is), layout, stores, cube (one writer for each shard), marks, cf."""
