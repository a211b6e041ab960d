"""Restore archives of hyperspectral images.

archive = hypermend.open("my-archive")             # or "s3://bucket/prefix"
for item in archive.search(stage="restored", sensor="enmap"):
    ds = item.dataset()                            # a lazy xarray Dataset
    rgb = hypermend.nearest(ds, [650, 550, 470])

Three packages, one direction: `hypermend.pipeline` imports `hypermend.catalog` and `hypermend.models`, which do not
know each other. In a checkout they are the folders of these names at the top level, linked here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hypermend.catalog.archive import Archive, Item, nearest, open
    from hypermend.catalog.stac.publish import feature_collection

__all__ = ["Archive", "Item", "feature_collection", "nearest", "open"]


def __getattr__(name: str) -> Any:
    """Load a name of ``__all__`` on first use: `import hypermend` does not wait for xarray."""
    if name not in __all__:
        raise AttributeError(f"module 'hypermend' has no attribute {name!r}")
    from hypermend.catalog import archive
    from hypermend.catalog.stac import publish

    return getattr(publish if name == "feature_collection" else archive, name)
