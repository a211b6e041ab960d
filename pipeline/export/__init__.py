"""Export: cubes as files that other software opens, one module for each format."""
