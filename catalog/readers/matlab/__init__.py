"""MATLAB files: `file` reads their variables, `layouts` knows the public ones, `reader` opens a scene."""
