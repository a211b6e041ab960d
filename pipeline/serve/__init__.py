"""A read-only server of an archive: a STAC API, the objects of its cubes, and a page to browse them."""
