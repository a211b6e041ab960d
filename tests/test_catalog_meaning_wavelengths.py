"""Wavelengths as files write them: their unit by its name, else by their size, else refused."""

from __future__ import annotations

import pytest

from hypermend.catalog.meaning.wavelengths import nm_per, wavelengths_nm


@pytest.mark.parametrize(
    ("unit", "factor"),
    [
        *[(unit, 1.0) for unit in ("nm", "Nanometers", "nanometres")],
        *[(unit, 1e3) for unit in ("um", "µm", "\u03bcm", "Micro Metres", "microns", "Micrometers.")],
        *[("m", 1e9), ("Angstroms", 0.1), ("Å", 0.1)],
        *[(unit, None) for unit in ("Index", "Wavenumber", "GHz", "")],
    ],
)
def test_a_unit_in_any_spelling(unit: str, factor: float | None) -> None:
    assert nm_per(unit) == factor


@pytest.mark.parametrize("unit", [None, "", "Unknown", "1"])
def test_without_a_unit_the_size_decides(unit: str | None) -> None:
    for values, nm, factor in (
        ([400.0, 2500.0], (400.0, 2500.0), 1.0),
        ([0.4, 2.5], (400.0, 2500.0), 1e3),
        ([8.0, 14.0], (8000.0, 14_000.0), 1e3),
    ):
        found = wavelengths_nm(values, unit)
        assert found is not None and (found.nm, found.factor) == (pytest.approx(nm), factor)


@pytest.mark.parametrize(
    "values",
    [[], [0.0, 500.0], [1.0, 200.0], [float("nan"), 500.0], [1.0, 2.0, 3.0, 4.0], [float(i) for i in range(1, 225)]],
)
def test_what_is_no_list_of_wavelengths(values: list[float]) -> None:
    assert wavelengths_nm(values, None) is None


def test_numbers_of_another_unit_are_no_wavelengths() -> None:
    assert wavelengths_nm([400.0, 500.0], "Wavenumber") is None
    assert wavelengths_nm([1.0, 2.0], "um") is not None
