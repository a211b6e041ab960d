"""Parts of the raster readers: headers and their statements, the placing of files on one grid, masks, sidecars."""
