"""Any HDF5, NetCDF-4 or Zarr file by the Climate and Forecast conventions, and by the names that writers use instead.

The cube is the one numeric array with a band axis: an axis that shares its dimension, or else its length, with a list
of wavelengths. The other two axes are rows and columns by the names of their dimensions, by coordinates of their
lengths, else in this order.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from hypermend.catalog.arrays import LonLat
from hypermend.catalog.errors import BadAsset
from hypermend.catalog.meaning.statement import Field, Source, Statements
from hypermend.catalog.meaning.wavelengths import nm_per, wavelengths_nm
from hypermend.catalog.readers.hierarchical import place
from hypermend.catalog.readers.hierarchical.facts import (
    instrument_statements,
    number_statements,
    quantity_statements,
    time_statements,
    uncertainty_array,
    unit_of,
)
from hypermend.catalog.readers.hierarchical.file import Node, as_text, check_plane, dims_of
from hypermend.catalog.readers.hierarchical.layout import Arrays, CubeArray, Layout, Transform
from hypermend.catalog.readers.hierarchical.units import WAVELENGTH_NAME
from hypermend.catalog.readers.profile import FormatRow

_BAND_DIM = re.compile(r"^(wave.*|wl|lambda|n?_?bands?|band_?(number|index)|spectral.*|channels?|b)$", re.I)
_FWHM = re.compile(r"^(fwhm|band_?widths?|full_width_half_max(imum)?)$", re.I)
_GOOD = re.compile(r"^(good(_wavelengths?|_bands?)?|bbl)$", re.I)
_NO_CUBE = re.compile(
    r"unc(ert)?|std|stdev|error|mask|flag|quality|(^|_)qa|(^|_)(obs|loc|glt|igm)($|_)|zenith|azimuth|defect|valid", re.I
)
_Y = re.compile(
    r"^(y|lat(itude)?|north(ing)?s?|rows?|lines?|down_?track|along_?track|scans?|number_of_(scans|lines))$", re.I
)
_X = re.compile(
    r"^(x|lon(gitude)?|east(ing)?s?|col(umn)?s?|samples?|cross_?track|across_?track|pixels?|ccd_pixels|"
    r"(number_of_)?pixels(_per_line)?)$",
    re.I,
)
_SPECTRUM_ATTRS = ("wavelengths", "wavelength", "wavelength_nm", "band_wavelengths")


@dataclass(frozen=True, kw_only=True)
class _Candidate:
    """An array that may be the cube."""

    path: str
    array: Any
    dims: tuple[str, ...]
    axes: tuple[int, ...]
    """those longer than 1; others are kept out"""

    @property
    def name(self) -> str:
        return self.path.rsplit("/", 1)[-1]

    @property
    def group(self) -> str:
        return self.path.rpartition("/")[0]

    def lengths(self) -> tuple[int, ...]:
        return tuple(self.array.shape[i] for i in self.axes)


@dataclass(frozen=True, kw_only=True)
class _Spectrum:
    """Wavelengths that the file lists."""

    path: str
    """array, or attribute"""
    values: tuple[float, ...]
    factor: float
    """nm for one unit of the file"""
    how: str
    """how their unit is known"""
    dim: str = ""


def _matches(node: Node) -> bool:
    return bool(_candidates(node))


def cf_arrays(node: Node) -> Arrays:
    """The cube of a file, by the general rules."""
    found = _candidates(node)
    spectra = _spectra(node)
    fitting: list[tuple[_Candidate, int, _Spectrum | None]] = []
    for candidate in found:
        of_array = _spectrum_in_attributes(candidate)
        for spectrum in [*([of_array] if of_array else []), *spectra]:
            if (axis := _band_axis(candidate, spectrum)) is not None:
                fitting.append((candidate, axis, spectrum))
                break
    if not fitting:  # the user or a sensor table must give the wavelengths
        fitting = [(c, axis, None) for c in found if (axis := _axis_by_name(c, node)) is not None]
    candidate, axis, spectrum = _only(fitting, found, node)
    count = candidate.array.shape[axis]
    y_axis, x_axis = _rows_and_columns(node, candidate, axis)
    letters = {axis: "b", y_axis: "y", x_axis: "x"}
    axes = "".join(letters.get(i, "t") for i in range(len(candidate.array.shape)))
    said = Statements([*instrument_statements(node), *time_statements(node)])
    said.extend(number_statements(candidate.path, candidate.array, netcdf="_NCProperties" in node.attrs))
    said.extend(quantity_statements(candidate.name, candidate.array.attrs))
    if spectrum is not None:
        said.add(Field.WAVELENGTH, spectrum.values, Source.FILE, f"{spectrum.path}, {spectrum.how}")
        _add_of_bands(said, node, candidate, spectrum, count)
    size = candidate.array.shape[y_axis], candidate.array.shape[x_axis]
    crs, transform, lonlat = _place(node, candidate, (y_axis, x_axis), size)
    said.add(Field.CRS, crs, Source.FILE, "its grid mapping")
    cube = CubeArray(path=candidate.path, axes=axes, bands=tuple(range(count)))
    beside = node.arrays.get(f"{candidate.path}_uncertainty")
    has_uncertainty = beside is not None and beside.shape == candidate.array.shape
    unit = unit_of(candidate.array.attrs)
    return Arrays(
        cubes=(cube,),
        uncertainty=uncertainty_array(node, f"{candidate.path}_uncertainty", cube, unit) if has_uncertainty else None,
        statements=tuple(said),
        lonlat=lonlat,
        transform=transform,
    )


def _candidates(node: Node) -> list[_Candidate]:
    """Numeric arrays with three axes; axes of one element do not count, unless they are needed."""
    out = []
    for path, array in node.arrays.items():
        if array.dtype.kind not in "iuf" or len(array.shape) < 3 or 0 in array.shape:
            continue
        if _NO_CUBE.search(path.rsplit("/", 1)[-1]):
            continue
        axes = tuple(i for i, n in enumerate(array.shape) if n > 1)
        if len(array.shape) == 3:
            axes = (0, 1, 2)
        if len(axes) == 3:
            out.append(_Candidate(path=path, array=array, dims=dims_of(array), axes=axes))
    return out


def _spectra(node: Node) -> list[_Spectrum]:
    """The lists of wavelengths among the arrays of the file."""
    out = []
    for path, array in node.arrays.items():
        name = path.rsplit("/", 1)[-1]
        if len(array.shape) != 1 or array.dtype.kind not in "iuf":
            continue
        unit = unit_of(array.attrs)
        standard = as_text(array.attrs.get("standard_name", ""))
        if WAVELENGTH_NAME.match(name) or "wavelength" in standard or (_BAND_DIM.match(name) and unit):
            read = wavelengths_nm([float(v) for v in node.values(path)], unit)
            if read is not None:
                dims = dims_of(array)
                out.append(_Spectrum(path=path, values=read.nm, factor=read.factor, how=read.how, dim=dims[0] or name))
            elif WAVELENGTH_NAME.match(name) or "wavelength" in standard:
                raise BadAsset(f"{node.where}: the unit of {path} is {unit!r} and does not fit; give --wavelengths")
    return out


def _spectrum_in_attributes(candidate: _Candidate) -> _Spectrum | None:
    attrs = candidate.array.attrs
    for key in _SPECTRUM_ATTRS:
        if key in attrs and np.size(attrs[key]) > 1 and np.asarray(attrs[key]).dtype.kind in "iuf":
            unit = next((as_text(attrs[k]) for k in ("wavelength_units", "wavelengths_units") if k in attrs), None)
            read = wavelengths_nm([float(v) for v in np.ravel(attrs[key])], unit)
            if read is not None:
                path = f"{candidate.path}, attribute {key}"
                return _Spectrum(path=path, values=read.nm, factor=read.factor, how=read.how)
    return None


def _band_axis(candidate: _Candidate, spectrum: _Spectrum) -> int | None:
    """The axis that a list of wavelengths describes: by dimension, else by length where only one axis has it."""
    shape = candidate.array.shape
    of_length = [i for i in candidate.axes if shape[i] == len(spectrum.values)]
    by_dim = [i for i in of_length if spectrum.dim and candidate.dims[i] == spectrum.dim]
    named = by_dim or [i for i in of_length if _BAND_DIM.match(candidate.dims[i])]
    if len(named) == 1:
        return named[0]
    return of_length[0] if len(of_length) == 1 else None


def _axis_by_name(candidate: _Candidate, node: Node) -> int | None:
    """The axis of the bands without wavelengths: by its name, else by a number of bands that the user gave."""
    named = [i for i in candidate.axes if _BAND_DIM.match(candidate.dims[i])]
    named = named or [i for i in candidate.axes if candidate.array.shape[i] in node.band_counts]
    return named[0] if len(named) == 1 else None


def _only(fitting: list[Any], found: list[_Candidate], node: Node) -> Any:
    """The one cube; of several the one that is named as reflectance or radiance."""
    if len(fitting) > 1:
        said = [f for f in fitting if any(s.field is Field.QUANTITY for s in _quantity(f[0]))]
        fitting = said if said else fitting
    if len(fitting) == 1:
        return fitting[0]
    listed = ", ".join(f"{c.path} {c.array.shape}" for c in found[:8])
    if not fitting:
        raise BadAsset(
            f"{node.where}: nothing tells which axis holds the bands of {listed}: it has no list of wavelengths of "
            "that length and no dimension named band; give --wavelengths, or --sensor for a sensor of that many bands"
        )
    raise BadAsset(f"{node.where}: several of its arrays could be the cube: {listed}; save one of them apart")


def _quantity(candidate: _Candidate) -> Statements:
    return quantity_statements(candidate.name, candidate.array.attrs)


def _rows_and_columns(node: Node, candidate: _Candidate, band: int) -> tuple[int, int]:
    first, second = (i for i in candidate.axes if i != band)
    names = candidate.dims[first], candidate.dims[second]
    if _X.match(names[0]) or _Y.match(names[1]):
        return second, first
    if _Y.match(names[0]) or _X.match(names[1]):
        return first, second
    lengths = candidate.array.shape[first], candidate.array.shape[second]
    y, x = (_coordinate(node, candidate, pattern, None) for pattern in (_Y, _X))
    swapped = y is not None and x is not None and (y.size, x.size) == lengths[::-1] and lengths[0] != lengths[1]
    return (second, first) if swapped else (first, second)


def _add_of_bands(said: Statements, node: Node, candidate: _Candidate, spectrum: _Spectrum, count: int) -> None:
    """Widths and good bands beside the wavelengths."""
    home = spectrum.path.rpartition("/")[0]
    for pattern, fact in ((_FWHM, Field.FWHM), (_GOOD, Field.GOOD)):
        for path, array in node.arrays.items():
            name = path.rsplit("/", 1)[-1]
            if pattern.match(name) and array.shape == (count,) and path.rpartition("/")[0] in (home, candidate.group):
                _add_band_list(said, fact, np.asarray(node.values(path)), unit_of(array.attrs), spectrum, path)
                break
        else:
            for key in filter(pattern.match, candidate.array.attrs):
                if np.size(value := candidate.array.attrs[key]) == count:
                    _add_band_list(said, fact, np.ravel(value), None, spectrum, f"{candidate.path}, attribute {key}")
                    break


def _add_band_list(
    said: Statements, fact: Field, values: Any, unit: str | None, spectrum: _Spectrum, where: str
) -> None:
    if values.dtype.kind not in "iufb":
        return
    if fact is Field.GOOD:
        said.add(fact, tuple(bool(v > 0) for v in values), Source.FILE, where)
        return
    numbers = [float(v) for v in values]
    factor = None if unit is None else nm_per(unit)
    if unit is None and max(numbers, default=0) < 1:  # in the unit of the spectrum: no width is below 1 nm
        factor = spectrum.factor
    said.add(fact, tuple(v * (factor or 1.0) for v in numbers), Source.FILE, where)


def _place(
    node: Node, candidate: _Candidate, axes: tuple[int, int], size: tuple[int, int]
) -> tuple[str | None, Transform | None, LonLat | None]:
    """Reference system and transform of a grid, or longitude and latitude of each pixel."""
    if (lonlat := _lonlat(node, size)) is not None:
        return None, None, lonlat
    mapping = _grid_mapping(node, candidate)
    crs = None if mapping is None else place.crs_of(mapping, node.where)
    y = _coordinate(node, candidate, _Y, size[0], candidate.dims[axes[0]])
    x = _coordinate(node, candidate, _X, size[1], candidate.dims[axes[1]])
    written = None
    if mapping is not None and "GeoTransform" in mapping:
        written = place.gdal_transform(as_text(mapping["GeoTransform"]), node.where)
    if x is None or y is None:
        return crs, written if crs else None, None
    if crs is None and _are_degrees(node, candidate):
        crs = "EPSG:4326"
    if crs is None:
        return None, None, None
    if "longitude" in (crs_kind := _kind(crs)):
        x = place.wrapped(x)
    transform = place.transform_of(x, y, node.where)
    if transform is None and crs_kind == "longitude and latitude":
        check_plane((y.size, x.size), f"{node.where}: longitude", node.max_bytes)
        lon, lat = np.meshgrid(x, y)
        return None, None, (lon, lat)
    if transform is None:
        raise BadAsset(f"{node.where}: its map coordinates are not regular; a grid has one pixel size")
    if written is not None and not np.allclose(written, transform, atol=abs(transform[0]) / 2):
        raise BadAsset(f"{node.where}: GeoTransform {written} contradicts its coordinates, which give {transform}")
    return crs, transform, None


def _kind(crs: str) -> str:
    from pyproj import CRS

    return "longitude and latitude" if CRS.from_user_input(crs).is_geographic else "map"


def _grid_mapping(node: Node, candidate: _Candidate) -> Any | None:
    """Attributes of the grid mapping: the variable that the cube names, else the only one that has a reference."""
    arrays = node.arrays
    if "grid_mapping" in candidate.array.attrs:
        name = as_text(candidate.array.attrs["grid_mapping"]).split(":")[0].strip()
        for path in (f"{candidate.group}/{name}".strip("/"), name):
            if path in arrays:
                return arrays[path].attrs
    found = [
        array.attrs
        for array in arrays.values()
        if array.size == 1 and {"crs_wkt", "spatial_ref", "grid_mapping_name"} & set(array.attrs)
    ]
    return found[0] if len(found) == 1 else None


def _coordinate(
    node: Node, candidate: _Candidate, pattern: re.Pattern[str], size: int | None, dim: str = ""
) -> Any | None:
    """Values of the 1-D coordinate of rows or of columns; the dimension's own before others of this kind."""
    found = []
    for path, array in node.arrays.items():
        name = path.rsplit("/", 1)[-1]
        if len(array.shape) != 1 or array.dtype.kind not in "iuf" or (size is not None and array.shape[0] != size):
            continue
        group = path.rpartition("/")[0]
        if pattern.match(name) and (candidate.group == group or candidate.group.startswith(group)):
            found.append((name != dim, -len(group), path))
    return np.asarray(node.values(sorted(found)[0][2]), dtype=np.float64) if found else None


def _are_degrees(node: Node, candidate: _Candidate) -> bool:
    """Whether the coordinates of rows and columns are called longitude and latitude."""
    names = {path.rsplit("/", 1)[-1].lower() for path, a in node.arrays.items() if len(a.shape) == 1}
    return bool(names & {"lon", "longitude"}) and bool(names & {"lat", "latitude"})


def _lonlat(node: Node, size: tuple[int, int]) -> LonLat | None:
    """Longitude and latitude of each pixel, where the file has them."""
    planes: dict[str, str] = {}
    for path, array in node.arrays.items():
        name = path.rsplit("/", 1)[-1].lower()
        for kind in ("lon", "lat"):
            if array.shape == size and re.fullmatch(rf"{kind}(g?itude)?", name):
                planes.setdefault(kind, path)
    if len(planes) < 2:
        return None
    return node.plane(planes["lon"]), node.plane(planes["lat"])


LAYOUT = Layout(product="HDF5, NetCDF-4 or Zarr by the CF conventions", matches=_matches, arrays=cf_arrays)
"""The general rules; they come after the products."""

ROWS = (
    FormatRow(
        product="HDF5, NetCDF-4, Zarr",
        levels="CF conventions",
        read="the one numeric array with a band axis; `scale_factor`, `_FillValue`, wavelengths and widths in any unit",
        masks="fill values",
        grid="grid mapping, affine coordinates, or longitude and latitude",
        refused="files without wavelengths, unless `--wavelengths` gives them",
    ),
)
