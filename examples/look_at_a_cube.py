"""What a restoration changed in one pixel of the demo archive, with nothing but xarray.

Run `make demo` first, then, in the folder that holds `demo-archive`: python examples/look_at_a_cube.py
"""

from pathlib import Path

import xarray

archive = Path("demo-archive")
restored_path = sorted((archive / "restored").glob("*/*.zarr"))[0]
source_path = sorted((archive / "source" / restored_path.parent.name).glob("*.zarr"))[0]

restored, source = xarray.open_zarr(restored_path), xarray.open_zarr(source_path)
row, column = restored.sizes["y"] // 2, restored.sizes["x"] // 2
before = source.reflectance.isel(y=row, x=column).load()
after = restored.reflectance.isel(y=row, x=column).load()

print(f"{restored_path.parent.name}, row {row}, column {column}, {before.attrs.get('quantity', 'reflectance')}")
for band in range(10, before.sizes["band"], 30):
    nm = float(before.wavelength[band])
    print(f"{nm:7.1f} nm  {float(before[band]):10.4f} -> {float(after[band]):10.4f}")
