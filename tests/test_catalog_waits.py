"""Files that would make a reader wait for ever: FIFOs and devices wherever a file is read, and a lock that is held."""

from __future__ import annotations

import fcntl
import os
import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import zarr

from hypermend.catalog.cube.cube import Cube
from hypermend.catalog.errors import ArchiveError, BadAsset, Unreachable
from hypermend.catalog.readers.folder import Skipped, from_folder
from hypermend.catalog.stac.discover import discover
from hypermend.catalog.storage import archive_store
from hypermend.catalog.storage.archive_store import ArchiveStore
from hypermend.catalog.storage.fetch import AssetFetcher
from hypermend.catalog.storage.leases import Leases
from hypermend.models.card import BadCard, ModelCard
from tests.small_cubes import make_cube, make_spec

pytestmark = pytest.mark.fault
KEY = "leases/ingest/S1.json"


@pytest.fixture(autouse=True)
def alarm() -> Iterator[None]:
    """A wait is a failure, not a hang."""

    def rung(*_: object) -> None:
        raise TimeoutError("still waiting after 20 s")

    before = signal.signal(signal.SIGALRM, rung)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def fifo(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(path)
    return path


def device(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to("/dev/zero")
    return path


MAKERS = pytest.mark.parametrize("make", [fifo, device])


@MAKERS
@pytest.mark.parametrize(
    "name", ["a.tif", "a.jp2", "a.h5", "a.nc", "a.mat", "a.hdr", "a.zarr/zarr.json", "a.zarr/.zgroup"]
)
def test_g5_no_asset_that_is_no_file_is_waited_for(tmp_path: Path, make: Callable[[Path], Path], name: str) -> None:
    make(tmp_path / "deliveries" / name)
    found = list(from_folder(tmp_path / "deliveries", sensor="enmap"))
    assert all(isinstance(one, Skipped) for one in found), found
    for read in (AssetFetcher().read, AssetFetcher().head, AssetFetcher().seekable, AssetFetcher().stat):
        with pytest.raises(ArchiveError, match="no file"):
            read(str(tmp_path / "deliveries" / name), *([4] if read.__name__ == "head" else []))


@MAKERS
def test_g5_no_raster_that_is_no_file_is_waited_for(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    with pytest.raises(BadAsset, match="is no file"):
        AssetFetcher().raster(str(make(tmp_path / "a.tif")), lambda dataset: dataset.count)


@MAKERS
@pytest.mark.parametrize("name", ["MTL.txt", "a.hdr", "MTD_MSIL1C.xml", "catalog.json", "a_1.png"])
def test_g5_no_document_that_is_no_file_is_waited_for(tmp_path: Path, make: Callable[[Path], Path], name: str) -> None:
    path = make(tmp_path / name)
    with pytest.raises(BadAsset, match="is no file"):
        AssetFetcher().read(str(path))
    with pytest.raises(BadAsset, match="is no file"):
        list(discover(path))


@MAKERS
def test_g5_no_object_of_an_archive_that_is_no_file_is_waited_for(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    root = ArchiveStore(tmp_path)
    make(tmp_path / KEY)
    reads = (root.get, root.get_versioned, root.get_json, root.stat, root.exists, root.changed_at)
    for read in (*reads, partial(root.get_range, start=0, stop=9), partial(root.put_if_changed, data=b"a")):
        with pytest.raises(ArchiveError, match=r"is no file|is a link"):
            read(KEY)
    with pytest.raises(ArchiveError, match=r"is no file|is a link"):
        Leases(root, what="a").take(KEY)


@MAKERS
@pytest.mark.parametrize("name", ["zarr.json", "reflectance/zarr.json", "reflectance/c/0/0/0"])
def test_g5_no_object_of_a_cube_that_is_no_file_is_waited_for(
    tmp_path: Path, make: Callable[[Path], Path], name: str
) -> None:
    root = ArchiveStore(tmp_path)
    make_cube(root, "source/S1/a.zarr", make_spec())
    file = tmp_path / "source" / "S1" / "a.zarr" / name
    file.unlink()
    make(file)
    with pytest.raises(ArchiveError, match=r"is no file|is a link"):
        Cube(root, "source/S1/a.zarr").read(slice(0, 4), slice(0, 4))


@MAKERS
def test_g5_no_model_that_is_no_file_is_waited_for(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    with pytest.raises(BadCard, match="is no file"):
        ModelCard.read(make(tmp_path / "card.json"))


def test_g5_a_store_whose_links_lead_back_ends_with_an_error(tmp_path: Path) -> None:
    store = tmp_path / "a.zarr"
    zarr.open_group(store, mode="w")
    for name in "abc":
        (store / name).symlink_to(store)
    assert all(isinstance(one, Skipped) for one in from_folder(tmp_path, sensor="enmap"))


def test_g5_nobody_who_may_only_read_holds_the_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leases = Leases(ArchiveStore(tmp_path), what="a")
    folder = tmp_path / "leases"
    folder.mkdir()
    for mode, right in ((0o755, 0o600), (0o775, 0o660), (0o777, 0o666), (0o750, 0o600)):
        folder.chmod(mode)
        (folder / ".lock").touch(0o644)
        leases.take(KEY)
        leases.renew(KEY)
        assert (folder / ".lock").stat().st_mode & 0o777 == right
    leases.close()


def test_g5_a_lock_that_is_held_is_given_up_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive_store, "LOCK_WAIT_S", 0.1)
    leases = Leases(ArchiveStore(tmp_path), what="a")
    leases.take(KEY)
    leases.renew(KEY)
    with (tmp_path / "leases" / ".lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(Unreachable, match=r"leases/.lock: another process has held this lock.*fuser"):
            leases.renew(KEY)
    assert leases.renew(KEY)
    leases.close()
