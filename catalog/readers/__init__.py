"""Readers of files, one module for each format: scene_reader opens a scene with the one that fits.

header, bands and mosaic are shared by the formats; folder makes scenes of a folder without STAC.
"""
