"""The Zarr layout of a cube: create, open, check, read, write, marks."""

from catalog.spec import (
    CLOUD,
    NEAR_FILL,
    NODATA,
    SATURATED,
    SHADOW,
    SNOW,
    VALID,
    CubeSpec,
)

__all__ = ["CLOUD", "NEAR_FILL", "NODATA", "SATURATED", "SHADOW", "SNOW", "VALID", "CubeSpec"]
