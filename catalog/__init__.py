"""What images are and where they lie.

archive = catalog.open("my-archive")               # or "s3://bucket/prefix"
for item in archive.search(stage="restored", sensor="enmap"):
    ds = item.dataset()                            # a lazy xarray Dataset
    rgb = catalog.nearest(ds, [650, 550, 470])
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from catalog.archive import Archive, Item, nearest, open
    from catalog.publish import feature_collection

__all__ = ["Archive", "Item", "feature_collection", "nearest", "open"]


def __getattr__(name: str) -> Any:
    """What is named above, fetched when it is asked for: whoever imports `catalog.errors` does not wait for xarray."""
    if name not in __all__:
        raise AttributeError(f"module 'catalog' has no attribute {name!r}")
    from catalog import archive, publish

    return getattr(publish if name == "feature_collection" else archive, name)
