"""What images are and where they lie.

archive = catalog.open("my-archive")               # or "s3://bucket/prefix"
for item in archive.search(stage="restored", sensor="enmap"):
    ds = item.dataset()                            # a lazy xarray Dataset
    rgb = catalog.nearest(ds, [650, 550, 470])
"""

from __future__ import annotations

from catalog.archive import Archive, Item, nearest, open
from catalog.publish import feature_collection

__all__ = ["Archive", "Item", "feature_collection", "nearest", "open"]
