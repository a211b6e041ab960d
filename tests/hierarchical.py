"""Small HDF5, NetCDF-4 and Zarr files of many layouts, made from known numbers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import zarr
from pyproj import CRS

from hypermend.catalog.readers.scene_reader import Source, open_scene
from hypermend.catalog.scene import AUTO, Asset, Scene

SIZE = (6, 5)
BANDS = 8
_KEYS = ("data", "data1", "data2", "data3")
CENTRES = np.linspace(450, 2350, BANDS)
ALL = slice(None)


def scene_of(
    *paths: Path | str, sensor: str = AUTO, properties: Mapping[str, Any] | None = None, **asset: Any
) -> Scene:
    """A scene as CMR lists it: keys that say nothing, no roles, no types."""
    assets = {key: Asset(key=key, href=str(p), **asset) for p, key in zip(paths, _KEYS, strict=False)}
    return Scene(
        id="scene", collection="c", datetime=None, sensor=sensor, assets=assets, properties=dict(properties or {})
    )


def opened(*paths: Path | str, **scene: Any) -> Source:
    return open_scene(scene_of(*paths, **scene))


def fixed(value: Any) -> Any:
    """A text of fixed length: h5py stores others in a heap, and from a damaged heap HDF5 itself does not return."""
    return np.bytes_(value.encode()) if isinstance(value, str) else value


def prisma_file(
    path: Path,
    level: str = "L2D",
    *,
    scale: tuple[float, float] = (1.0, 1.0),
    corners: str = "centres",
    lonlat: bool = True,
) -> dict[str, np.ndarray]:
    """PRISMA: two detectors of 4 bands, one of each not acquired, descending wavelengths.

    Row 0 is empty. Pixel (3, 2) of VNIR band 1 is marked. SWIR band 2 is marked everywhere.
    """
    h, w = SIZE
    centres = {"VNIR": [0.0, 900.0, 700.0, 500.0], "SWIR": [2400.0, 1900.0, 1000.0, 0.0]}
    cubes = {}
    with h5py.File(path, "w") as file:
        home = f"HDFEOS/SWATHS/PRS_{level}_HCO"
        file.attrs["Product_StartTime"] = np.bytes_("2021-06-01T10:11:12.345")
        for i, (part, nm) in enumerate(centres.items()):
            cube = (1000 * (i + 1) + np.arange(4)[None, :, None] + 10 * np.arange(w) + np.zeros((h, 1, 1))).astype("u2")
            cube[:, np.array(nm) == 0] = 0
            cube[0] = 0
            errors = np.zeros(cube.shape, "u1")
            if part == "VNIR":
                errors[3, 1, 2] = 3
            else:
                errors[1:, 1] = 1
            file[f"{home}/Data Fields/{part}_Cube"] = cube
            file[f"{home}/Data Fields/{part}_PIXEL_{'SAT' if level == 'L1' else 'L2'}_ERR_MATRIX"] = errors
            file.attrs[f"List_Cw_{part.title()}"] = np.array(nm, "f4")
            file.attrs[f"List_Fwhm_{part.title()}"] = np.where(np.array(nm) > 0, 11, 0).astype("f4")
            if level == "L1":
                file.attrs[f"ScaleFactor_{part.title()}"] = np.float32(100 / scale[i])
                file.attrs[f"Offset_{part.title()}"] = np.float32(0.5 * i)
            else:
                file.attrs[f"L2Scale{part.title()}Min"] = np.float32(0.0)
                file.attrs[f"L2Scale{part.title()}Max"] = np.float32(scale[i])
            cubes[part] = cube
        if level == "L2D":
            n = 1 if corners == "centres" else 0
            file.attrs["Epsg_Code"] = np.uint16(32633)
            file.attrs["Product_ULcorner_easting"], file.attrs["Product_ULcorner_northing"] = 500000.0, 5800000.0
            file.attrs["Product_LRcorner_easting"] = 500000.0 + 30 * (w - n)
            file.attrs["Product_LRcorner_northing"] = 5800000.0 - 30 * (h - n)
        suffix = "_VNIR" if level == "L1" else ""
        lon, lat = np.meshgrid(np.linspace(15, 15.002, w), np.linspace(52.3, 52.298, h))
        if lonlat:
            file[f"{home}/Geolocation Fields/Longitude{suffix}"] = lon
            file[f"{home}/Geolocation Fields/Latitude{suffix}"] = lat
    return cubes


def emit_file(path: Path, name: str = "reflectance", *, unit: str | None = None, lon0: float = 11.0) -> np.ndarray:
    """EMIT RFL, RFLUNCERT or RAD: (y, x, band), one pixel without data."""
    h, w = SIZE
    cube = (0.1 + 0.01 * np.arange(BANDS) + 0.001 * np.arange(w)[:, None] + np.zeros((h, 1, 1))).astype("f4")
    cube[2, 3] = -9999
    with h5py.File(path, "w") as file:
        data = file.create_dataset(name, data=cube)
        data.attrs["_FillValue"] = np.array([-9999], "f4")
        if unit is not None:
            data.attrs["units"] = fixed(unit)
        file.attrs["time_coverage_start"] = fixed("2024-07-24T20:01:45+0000")
        file.attrs["geotransform"] = np.array([10.9, 0.0005, 0, 47.2, 0, -0.0005])
        file.attrs["spatial_ref"] = fixed('GEOGCS["WGS 84"]')
        file["sensor_band_parameters/wavelengths"] = CENTRES.astype("f4")
        file["sensor_band_parameters/fwhm"] = np.full(BANDS, 8.5, "f4")
        file["sensor_band_parameters/good_wavelengths"] = np.arange(BANDS) != 4
        lon, lat = np.meshgrid(lon0 + 0.001 * np.arange(w), 47 - 0.001 * np.arange(h))
        file["location/lon"], file["location/lat"] = (lon + 180) % 360 - 180, lat
        file["location/glt_x"] = np.zeros((9, 8), "i4")
    return cube


MASK_BANDS = ("Cloud flag", "Cirrus flag", "Water flag", "Spacecraft Flag", "Dilated Cloud Flag", "AOD550",
              "H2O (g cm-2)", "Aggregate Flag")  # fmt: skip


def emit_mask(path: Path, size: tuple[int, int] = SIZE, names: tuple[str, ...] = MASK_BANDS) -> None:
    """EMIT MASK: cloud at (0, 0), cirrus at (0, 1), water at (0, 2), spacecraft at (0, 3); AOD is 1 somewhere."""
    mask = np.zeros((*size, len(names)), "f4")
    for plane in range(4):
        mask[0, plane, plane] = 1
    mask[5, 4, 5] = 1.0
    mask[0, :4, -1] = 1
    with h5py.File(path, "w") as file:
        file["mask"] = mask
        file["sensor_band_parameters/mask_bands"] = [name.encode() for name in names]


def cf_file(
    path: Path,
    *,
    dims: tuple[str, ...] = ("band", "y", "x"),
    centres: Any = CENTRES,
    unit: str | None = "nm",
    x: Any = None,
    y: Any = None,
    name: str = "reflectance",
    dtype: str = "int16",
    attrs: Mapping[str, Any] | None = None,
    crs: str | None = "EPSG:32633",
    **file_attrs: Any,
) -> np.ndarray:
    """A CF file whose cube is `dims`; returns the numbers as (band, y, x)."""
    h, w = SIZE
    sizes = {"band": BANDS, "wavelength": BANDS, "y": h, "x": w, "lat": h, "lon": w, "time": 1}
    truth = np.arange(BANDS * h * w).reshape(BANDS, h, w).astype(dtype)
    letters = {"band": 0, "wavelength": 0, "y": 1, "lat": 1, "x": 2, "lon": 2}
    array = truth.transpose([letters[d] for d in dims if d != "time"]).reshape([sizes[d] for d in dims])
    with h5py.File(path, "w") as file:
        for key, value in file_attrs.items():
            file.attrs[key] = fixed(value)
        cube = file.create_dataset(name, data=array)
        for key, value in (attrs or {}).items():
            cube.attrs[key] = fixed(value)
        names = {"x": "x", "y": "y"} if "x" in dims else {"x": "lon", "y": "lat"}
        values = {
            names["x"]: 500015.0 + 30 * np.arange(w) if x is None else np.asarray(x),
            names["y"]: 5799985.0 - 30 * np.arange(h) if y is None else np.asarray(y),
        }
        if centres is not None:
            values["wavelength"] = np.asarray(centres)
        for key, value in values.items():
            file[key] = value
            file[key].make_scale(key)
        if centres is not None and unit is not None:
            file["wavelength"].attrs["units"] = fixed(unit)
        for i, dim in enumerate(dims):
            if (key := "wavelength" if dim == "band" and centres is not None else dim) in values:
                cube.dims[i].attach_scale(file[key])
            else:
                cube.dims[i].label = dim
        if crs is not None:
            file.create_dataset("spatial_ref", data=0).attrs["crs_wkt"] = fixed(CRS(crs).to_wkt())
            cube.attrs["grid_mapping"] = fixed("spatial_ref")
    return truth


def eopf_store(folder: Path, *, zarr_format: int = 2, consolidated: bool = True) -> Path:
    """Sentinel-2 of EOPF, 120 m wide: band B02 has the number 3002, B8A 3088, row 0 of each array is empty."""
    path = folder / "S2B_MSIL2A_20251113T102311_N0511_R065_T32TNQ_20251113T142515.zarr"
    root: Any = zarr.open_group(path, mode="w", zarr_format=zarr_format)
    root.attrs["stac_discovery"] = {
        "properties": {"platform": "sentinel-2b", "datetime": "2025-11-13T10:23:11.024Z", "proj:epsg": 32632}
    }

    def add(name: str, data: np.ndarray, dims: tuple[str, ...], **attrs: Any) -> None:
        names = {"dimension_names": dims} if zarr_format == 3 else {}
        array = root.create_array(name, data=data, fill_value=0, **names)
        array.attrs.update({**({} if names else {"_ARRAY_DIMENSIONS": list(dims)}), **attrs})

    groups = {10: ("b02", "b03", "b04", "b08"), 20: ("b01", "b02", "b05", "b8a", "b11"), 60: ("b01", "b09")}
    for gsd, bands in groups.items():
        n = 120 // gsd
        home = f"measurements/reflectance/r{gsd}m"
        for band in bands:
            data = np.full((n, n), 3000 + int(band[1:].replace("8a", "88")), "u2")
            data[0] = 0
            scale = {"scale_factor": 1e-4, "add_offset": -0.1}
            add(f"{home}/{band}", data, ("y", "x"), **({"_eopf_attrs": scale} if zarr_format == 2 else scale))
        add(f"{home}/x", 600000 + gsd / 2 + gsd * np.arange(n), ("x",))
        add(f"{home}/y", 5000000 - gsd / 2 - gsd * np.arange(n), ("y",))
    classes = np.full((6, 6), 4, "u1")
    classes[4, 4] = 9
    add("conditions/mask/l2a_classification/r20m/scl", classes, ("y", "x"))
    add("quality/l2a_quicklook/r10m/tci", np.zeros((3, 12, 12), "u1"), ("band", "y", "x"))
    if consolidated:
        zarr.consolidate_metadata(path)
    return path
