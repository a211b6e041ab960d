"""HDF5, NetCDF-4 and Zarr: files of groups and arrays. `reader` opens a scene with the layout that fits."""
