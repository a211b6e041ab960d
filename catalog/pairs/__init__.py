"""Pairs of a scene and its guide: pairing finds the guide, guide puts its pixels on the scene's grid."""
