"""STAC: fields, assets and item (Scene to item and back), filters, index, discover, publish, static_catalog."""
