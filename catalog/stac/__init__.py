"""STAC items and catalogs: fields and assets, item (Scene to item and back), index, discover, publish, browse."""
