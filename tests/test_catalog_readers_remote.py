"""Files over HTTP and S3: range reads, whole fetches under a limit, and every way a transfer can fail.

The server is a process of its own: GDAL holds the interpreter while it waits.
"""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio import session

from hypermend.catalog.errors import ArchiveError, BadAsset, NotFound, Refused, Unreachable
from hypermend.catalog.readers.scene_reader import open_scene
from hypermend.catalog.scene import Scene
from hypermend.catalog.stac.discover import discover, from_folder
from hypermend.catalog.stac.item import from_item, to_item
from hypermend.catalog.storage import gdal, transport
from hypermend.catalog.storage.fetch import AssetFetcher
from hypermend.catalog.storage.signing import Signed

SERVER = r"""
import json, re, sys, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

folder, log = Path(sys.argv[1]), Path(sys.argv[2])
seen = {}

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def note(self, sent):
        with log.open("a") as out:
            out.write(json.dumps({"path": self.path, "range": self.headers.get("Range"), "sent": sent,
                                  "agent": self.headers.get("User-Agent", ""),
                                  "token": self.headers.get("Authorization")}) + "\n")

    def refuse(self, code):
        self.note(0)
        self.send_response(code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_HEAD(self):
        self.do_GET(head=True)

    def do_GET(self, head=False):
        path, _, query = self.path.partition("?")
        _, way, name = path.split("/", 2)
        count = seen[path] = seen.get(path, 0) + 1
        if head and way == "nohead":
            return self.refuse(403)
        if match := re.fullmatch(r"fail(\d+)x(\d+)", way):  # the first n requests answer with a status
            if count <= int(match[2]):
                return self.refuse(int(match[1]))
        if way == "moved":
            self.note(0)
            self.send_response(302)
            self.send_header("Location", query)
            self.send_header("Content-Length", "0")
            return self.end_headers()
        if way == "signed" and "sig=good" not in query:
            return self.refuse(403)
        if way == "after":  # answers, then fails for good from the nth request on
            number, name = name.split("/", 1)
            if count > int(number):
                return self.refuse(503)
        file = folder / name
        if not file.is_file():
            return self.refuse(404)
        body = file.read_bytes()
        total, start, stop = len(body), 0, len(body)
        if (match := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))) and way != "norange":
            start = int(match[1])
            stop = min(total, int(match[2]) + 1 if match[2] else total)
            if start >= total:
                return self.refuse(416)
            if way == "short" and stop - start > 100:  # less than was asked for, and says so
                stop -= (stop - start) // 2
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{total}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(stop - start))
        self.send_header("ETag", f'"{total}-{file.stat().st_mtime_ns}"')
        self.send_header("Accept-Ranges", "bytes")
        self.end_headers()
        part = body[start:stop]
        if head:
            return self.note(0)
        if way == "cut" and len(part) > 100:
            part = part[: len(part) // 2]
            self.close_connection = True
        self.note(len(part))
        self.wfile.write(part)

server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(server.server_port, flush=True)
server.serve_forever()
"""


SECRET = "tok3n"


class Faulty:
    """The server's URL, and what was asked of it."""

    def __init__(self, url: str, log: Path) -> None:
        self.url, self._log = url, log

    def requests(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._log.read_text().splitlines()] if self._log.exists() else []

    def forget(self) -> None:
        self._log.unlink(missing_ok=True)


@pytest.fixture
def faulty(tmp_path: Path) -> Iterator[Callable[[Path], Faulty]]:
    running: list[subprocess.Popen[str]] = []

    def serve(folder: Path) -> Faulty:
        log = tmp_path / f"requests{len(running)}.jsonl"
        process = subprocess.Popen(
            [sys.executable, "-c", SERVER, str(folder), str(log)], stdout=subprocess.PIPE, text=True
        )
        running.append(process)
        assert process.stdout is not None
        return Faulty(f"http://127.0.0.1:{int(process.stdout.readline())}", log)

    yield serve
    for process in running:
        process.kill()
        process.wait()


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """The waits are what they are; tests need not sit them out."""
    monkeypatch.setattr(transport, "FIRST_WAIT_S", 0.01)
    monkeypatch.setitem(gdal.GDAL_OPTIONS, "GDAL_HTTP_RETRY_DELAY", "0.02")


@pytest.fixture(scope="module")
def cog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiled 9-band GeoTIFF of about 4.7 MB."""
    path = tmp_path_factory.mktemp("cog") / "a.tif"
    values = np.random.default_rng(0).integers(0, 60000, (9, 512, 512)).astype("uint16")
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        count=9,
        height=512,
        width=512,
        dtype="uint16",
        crs="EPSG:32633",
        transform=Affine(30, 0, 366000, 0, -30, 5810000),
        tiled=True,
        blockxsize=64,
        blockysize=64,
        interleave="pixel",
    ) as out:
        out.write(values)
    return path


def remote(folder: Path, sensor: str, url: str) -> Scene:
    """The scene of a folder, its hrefs replaced by URLs."""
    (scene,) = from_folder(folder, sensor=sensor, collection="c")
    assert isinstance(scene, Scene)
    assets = {
        k: replace(a, href=f"{url}/{Path(a.href).relative_to(folder.resolve())}") for k, a in scene.assets.items()
    }
    return replace(scene, assets=assets)


def test_a_window_of_a_geotiff_does_not_fetch_the_file(cog: Path, faulty: Callable[[Path], Faulty]) -> None:
    server = faulty(cog.parent)
    source = open_scene(remote(cog.parent, "ali", f"{server.url}/plain"))
    stored, _ = source.read(slice(130, 190), slice(70, 120))
    with rasterio.open(cog) as file:
        np.testing.assert_array_equal(stored, file.read()[:, 130:190, 70:120])
    asked = server.requests()
    sent = sum(r["sent"] for r in asked)
    assert sent < cog.stat().st_size / 4, (sent, cog.stat().st_size)
    assert len(asked) <= 8
    assert all(r["range"] for r in asked if r["sent"])
    assert all(r["path"].startswith("/plain/a.tif") for r in asked)  # no sidecars, no folder listing


def test_a_server_that_signs_for_get_only(cog: Path, faulty: Callable[[Path], Faulty]) -> None:
    server = faulty(cog.parent)
    source = open_scene(remote(cog.parent, "ali", f"{server.url}/nohead"))
    with rasterio.open(cog) as file:
        np.testing.assert_array_equal(source.read(slice(0, 9), slice(0, 9))[0], file.read()[:, :9, :9])


def moved(cog: Path, server: Faulty, to: str) -> Scene:
    """The scene of the file, at a server that sends everybody on."""
    scene = remote(cog.parent, "ali", f"{server.url}/moved")
    return replace(scene, assets={k: replace(a, href=f"{a.href}?{to}") for k, a in scene.assets.items()})


def by_gdal(server: Faulty) -> list[dict[str, Any]]:
    return [r for r in server.requests() if r["agent"].startswith(transport.USER_AGENT) and "GDAL" in r["agent"]]


def test_gdal_itself_follows_redirects_wherever_they_lead(cog: Path, faulty: Callable[[Path], Faulty]) -> None:
    """The reason why they are followed before GDAL is asked. Fails on the day on which it need not be any more."""
    door, house = faulty(cog.parent), faulty(cog.parent)
    options = {**gdal.GDAL_OPTIONS, "GDAL_HTTP_FOLLOWLOCATION": "NO", "GDAL_HTTP_MAXREDIRS": "0"}
    with rasterio.Env(**options), rasterio.open(f"/vsicurl/{door.url}/moved/a.tif?{house.url}/plain/a.tif") as file:
        assert file.count == 9
    assert by_gdal(door) and by_gdal(house)


def test_a_redirect_is_followed_step_by_step_before_gdal_sees_it(cog: Path, faulty: Callable[[Path], Faulty]) -> None:
    class Bearer:
        def __call__(self, href: str, *, fresh: bool = False) -> Signed:
            return Signed(url=href, headers={"Authorization": f"Bearer {SECRET}"})

    door, house = faulty(cog.parent), faulty(cog.parent)
    source = open_scene(moved(cog, door, f"{house.url}/plain/a.tif"), sign=Bearer())
    with rasterio.open(cog) as file:
        np.testing.assert_array_equal(source.read(slice(0, 9), slice(0, 9))[0], file.read()[:, :9, :9])
    assert by_gdal(house) and not by_gdal(door)
    assert {r["token"] for r in door.requests()} == {f"Bearer {SECRET}"}
    assert {r["token"] for r in house.requests()} == {None}  # another host


@pytest.mark.parametrize(
    ("to", "words"),
    [
        ("http://169.254.169.254/latest/meta-data/a.tif", "link-local address"),
        ("http://elsewhere.test/a.tif", "is not among HYPERMEND_ALLOWED_HOSTS"),
        ("file:///etc/passwd", "answers 302"),
    ],
)
def test_gdal_is_never_sent_where_nobody_may_go(
    cog: Path, faulty: Callable[[Path], Faulty], monkeypatch: pytest.MonkeyPatch, to: str, words: str
) -> None:
    monkeypatch.setenv("HYPERMEND_ALLOWED_HOSTS", "127.0.0.1,169.254.169.254")
    door = faulty(cog.parent)
    href = next(iter(moved(cog, door, to).assets.values())).href
    with pytest.raises(ArchiveError, match=words):
        AssetFetcher().raster(href, lambda dataset: dataset.read())
    assert door.requests() and not by_gdal(door)


def test_no_credentials_are_looked_for_to_read_a_file_of_this_machine(
    cog: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """rasterio would make a session of boto3 for every window, once the environment has credentials."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setattr(session.AWSSession, "__init__", lambda *args, **options: pytest.fail("it looked for them"))
    assert AssetFetcher().raster(str(cog), lambda dataset: dataset.count) == 9


def test_equal_over_http_and_from_disk(cog: Path, http_server: Callable[[Path], str]) -> None:
    local = open_scene(next(s for s in from_folder(cog.parent, sensor="ali", collection="c") if isinstance(s, Scene)))
    far = open_scene(remote(cog.parent, "ali", http_server(cog.parent)))
    assert far.spec == local.spec
    everything = slice(None), slice(None)
    np.testing.assert_array_equal(far.read(*everything)[0], local.read(*everything)[0])
    assert far.identity != local.identity and len(far.identity) == 32


@pytest.mark.fault
def test_f10_a_fault_that_passes_is_not_seen(cog: Path, faulty: Callable[[Path], Faulty]) -> None:
    server = faulty(cog.parent)
    source = open_scene(remote(cog.parent, "ali", f"{server.url}/fail503x2"))
    assert source.read(slice(0, 5), slice(0, 5))[1].all()


@pytest.mark.parametrize(
    ("way", "error", "words"),
    [
        ("fail404x999", NotFound, "answers 404"),
        ("fail403x999", Refused, "answers 403; it may need --sign"),
        ("fail503x999", Unreachable, "answers 503"),
        ("fail500x999", Unreachable, "answers 500"),
        ("fail429x999", Unreachable, "answers 429"),
        ("nothing-there", NotFound, "answers 404"),
    ],
)
@pytest.mark.fault
def test_f10_a_fault_that_stays_has_its_class(
    cog: Path, faulty: Callable[[Path], Faulty], way: str, error: type[ArchiveError], words: str
) -> None:
    server = faulty(cog.parent)
    scene = remote(cog.parent, "ali", f"{server.url}/{way}")
    if way == "nothing-there":
        scene = replace(scene, assets={"a": replace(scene.assets["a"], href=f"{server.url}/plain/b.tif")})
    with pytest.raises(error, match=words) as caught:
        open_scene(scene)
    assert caught.value.transient is (error is Unreachable)


def test_no_server_is_unreachable(cog: Path, faulty: Callable[[Path], Faulty]) -> None:
    scene = remote(cog.parent, "ali", "http://127.0.0.1:9/plain")
    with pytest.raises(Unreachable, match=r"127\.0\.0\.1:9"):
        open_scene(scene)


@pytest.mark.fault
def test_f10_a_server_that_dies_between_header_and_pixels_gives_an_error_and_no_pixels(
    cog: Path, faulty: Callable[[Path], Faulty]
) -> None:
    server = faulty(cog.parent)
    source = open_scene(remote(cog.parent, "ali", f"{server.url}/after/4"))
    with pytest.raises(Unreachable, match="answers 503"):
        for i in range(8):
            source.read(slice(64 * i, 64 * i + 64), slice(None))


@pytest.mark.fault
def test_f10_a_body_that_breaks_off_is_an_error_and_no_pixels(cog: Path, faulty: Callable[[Path], Faulty]) -> None:
    server = faulty(cog.parent)
    with pytest.raises(Unreachable):
        open_scene(remote(cog.parent, "ali", f"{server.url}/cut")).read(slice(None), slice(None))
    with pytest.raises(Unreachable, match="bytes"):
        AssetFetcher().fetch(f"{server.url}/cut/a.tif")


def test_what_is_no_raster_is_a_bad_asset(tmp_path: Path, cog: Path, faulty: Callable[[Path], Faulty]) -> None:
    (tmp_path / "a.tif").write_text("an error as text, of at least sixteen letters")
    server = faulty(tmp_path)
    with pytest.raises(BadAsset, match="is not a raster file"):
        open_scene(remote(cog.parent, "ali", f"{server.url}/plain"))


class Signer:
    """Signs with what it has; `fresh` asks for a new signature."""

    def __init__(self, *signatures: str) -> None:
        self.signatures, self.fresh_calls = list(signatures), 0

    def __call__(self, href: str, *, fresh: bool = False) -> Signed:
        if fresh:
            self.fresh_calls += 1
            if len(self.signatures) > 1:
                self.signatures.pop(0)
        return Signed(url=f"{href}?sig={self.signatures[0]}")


@pytest.mark.fault
def test_f10_a_signature_that_ran_out_is_renewed(cog: Path, faulty: Callable[[Path], Faulty]) -> None:
    server = faulty(cog.parent)
    signer = Signer("old", "good")
    source = open_scene(remote(cog.parent, "ali", f"{server.url}/signed"), sign=signer)
    assert source.read(slice(0, 5), slice(0, 5))[1].all() and signer.fresh_calls == 1
    source = open_scene(remote(cog.parent, "ali", f"{server.url}/signed"), sign=Signer("good"))
    source._fetcher.sign = signer = Signer("old", "good")  # type: ignore[attr-defined]
    assert source.read(slice(0, 5), slice(0, 5))[1].all() and signer.fresh_calls == 1  # it ran out before GDAL came


@pytest.mark.fault
def test_f20_a_signature_is_never_printed(
    cog: Path, faulty: Callable[[Path], Faulty], caplog: pytest.LogCaptureFixture
) -> None:
    server = faulty(cog.parent)
    scene = remote(cog.parent, "ali", f"{server.url}/signed")
    caplog.set_level(logging.DEBUG)
    with pytest.raises(Refused) as caught:
        open_scene(scene, sign=Signer(SECRET))
    text = "".join(traceback.format_exception(caught.value)) + repr(Signer("x")("http://h"))
    assert SECRET not in text and "sig=" not in text
    source = open_scene(scene, sign=Signer("good"))
    source._fetcher.sign = Signer(SECRET)  # type: ignore[attr-defined]
    with pytest.raises(Refused) as caught:
        source.read(slice(None), slice(None))
    assert SECRET not in "".join(traceback.format_exception(caught.value)) + caplog.text


def test_a_whole_fetch_is_limited_and_both_numbers_are_said(
    shared_data: Path, http_server: Callable[[Path], str]
) -> None:
    folder = shared_data / "pavia"
    url = http_server(folder)
    found = {s.id: s for s in from_folder(folder, sensor="rosis", collection="c") if isinstance(s, Scene)}
    scene = found["pavia_centre_crop"]
    href = f"{url}/pavia_centre_crop.mat"
    far = replace(scene, assets={"data": replace(scene.assets["data"], href=href)})
    size = (folder / "pavia_centre_crop.mat").stat().st_size
    with pytest.raises(Refused, match=f"{size} bytes.*limit is 1000"):
        open_scene(far, max_bytes=1000)
    here, there = open_scene(scene), open_scene(far)
    np.testing.assert_array_equal(here.read(slice(0, 9), slice(0, 9))[0], there.read(slice(0, 9), slice(0, 9))[0])


def test_a_server_without_ranges_still_tells_sizes(cog: Path, faulty: Callable[[Path], Faulty]) -> None:
    server = faulty(cog.parent)
    stat = AssetFetcher().stat(f"{server.url}/norange/a.tif")
    assert stat.size == cog.stat().st_size and stat.version.startswith('"')


@pytest.fixture(scope="module")
def big_mat(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    """A MATLAB v7.3 file of 16.8 MB, (band, x, y) in the file."""
    path = tmp_path_factory.mktemp("mat") / "big.mat"
    cube = np.random.default_rng(0).random((64, 256, 256)).astype("float32")
    with h5py.File(path, "w", userblock_size=512) as file:
        dataset = file.create_dataset("data", data=cube, chunks=(64, 16, 16))
        dataset.attrs["MATLAB_class"] = np.bytes_("single")
    with path.open("r+b") as raw:
        raw.write(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM")
    return path, cube


@pytest.mark.parametrize("way", ["after/9", "after/12", "cut", "short"])
@pytest.mark.fault
def test_f10_hdf5_that_dies_on_the_way_is_unreachable(
    big_mat: tuple[Path, np.ndarray], faulty: Callable[[Path], Faulty], way: str
) -> None:
    path, _ = big_mat
    scene = remote(path.parent, "muufl", f"{faulty(path.parent).url}/{way}")
    with pytest.raises(Unreachable):
        source = open_scene(scene)
        for i in range(16):
            source.read(slice(16 * i, 16 * i + 16), slice(None))


@pytest.mark.fault
def test_f20_hdf5_signatures_are_renewed_and_never_printed(
    big_mat: tuple[Path, np.ndarray], faulty: Callable[[Path], Faulty]
) -> None:
    path, _ = big_mat
    scene = remote(path.parent, "muufl", f"{faulty(path.parent).url}/signed")
    signer = Signer("good", "good")
    source = open_scene(scene, sign=signer)
    signer.signatures = ["old", "good"]  # ran out between opening and reading
    assert source.read(slice(0, 3), slice(0, 3))[1].all()
    with pytest.raises(Refused) as caught:
        open_scene(scene, sign=Signer(SECRET))
    assert SECRET not in "".join(traceback.format_exception(caught.value))


def test_hdf5_by_ranges(big_mat: tuple[Path, np.ndarray], faulty: Callable[[Path], Faulty]) -> None:
    path, cube = big_mat
    server = faulty(path.parent)
    scene = remote(path.parent, "muufl", f"{server.url}/plain")
    source = open_scene(scene)
    server.forget()
    stored, _ = source.read(slice(100, 110), slice(20, 30))
    np.testing.assert_array_equal(stored, cube.transpose(0, 2, 1)[:, 100:110, 20:30])
    sent = sum(r["sent"] for r in server.requests())
    assert sent < path.stat().st_size / 4
    dead = replace(scene, assets={"data": replace(scene.assets["data"], href=f"{server.url}/fail503x999/big.mat")})
    with pytest.raises(Unreachable, match="answers 503"):
        open_scene(dead)
    gone = replace(scene, assets={"data": replace(scene.assets["data"], href=f"{server.url}/plain/no.mat")})
    with pytest.raises(NotFound):
        open_scene(gone)


def test_a_png_stack_over_http(shared_data: Path, http_server: Callable[[Path], str]) -> None:
    folder = shared_data / "cave" / "paints_ms"
    scene = remote(folder, "cave", http_server(folder))
    far = open_scene(scene)
    (local,) = from_folder(folder, sensor="cave", collection="c")
    assert isinstance(local, Scene)
    np.testing.assert_array_equal(
        far.read(slice(0, 64), slice(0, 64))[0], open_scene(local).read(slice(0, 64), slice(0, 64))[0]
    )


def test_envi_over_http_is_fetched_whole(tmp_path: Path, http_server: Callable[[Path], str]) -> None:
    cube = np.arange(3 * 4 * 5, dtype="float32").reshape(3, 4, 5)
    (tmp_path / "i.img").write_bytes(cube.tobytes())
    (tmp_path / "i.hdr").write_text(
        "ENVI\nsamples = 5\nlines = 4\nbands = 3\ndata type = 4\ninterleave = bsq\nbyte order = 0\n"
        "wavelength = {450, 550, 650}\n"
    )
    source = open_scene(remote(tmp_path, "enmap", http_server(tmp_path)))
    assert not source.windowed
    np.testing.assert_array_equal(source.read(slice(1, 4), slice(0, 5))[0], cube[:, 1:4])
    source.close()


def test_the_enmap_mosaic_over_http(shared_data: Path, http_server: Callable[[Path], str]) -> None:
    folder = shared_data / "enmap_potsdam"
    scene = remote(folder, "enmap", http_server(folder))
    assert from_item(to_item(scene)) == scene
    (local,) = from_folder(folder, sensor="enmap", collection="c")
    assert isinstance(local, Scene)
    far, near = open_scene(scene), open_scene(local)
    assert far.spec == near.spec
    window = slice(30, 70), slice(20, 80)
    for a, b in zip(far.read(*window), near.read(*window), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_static_catalog_over_http(shared_data: Path, http_server: Callable[[Path], str]) -> None:
    url = http_server(shared_data / "stac" / "recursive-stac-example")
    found = list(discover(f"{url}/collection.json", sensor="sentinel2a"))
    assert len(found) == 3
    scene = found[-1]
    assert isinstance(scene, Scene) and next(iter(scene.assets.values())).href.startswith(f"{url}/sub-folder/")
    assert open_scene(scene).read(slice(0, 8), slice(0, 8))[1].all()


def test_the_same_from_s3(
    cog: Path, big_mat: tuple[Path, np.ndarray], moto_s3: str, s3_bucket: str, tmp_path: Path
) -> None:
    import boto3
    import scipy.io

    client = boto3.client("s3", endpoint_url=moto_s3)
    client.upload_file(str(cog), s3_bucket, "scenes/a.tif")
    scene = remote(cog.parent, "ali", f"s3://{s3_bucket}/scenes")
    source = open_scene(scene)
    with rasterio.open(cog) as file:
        np.testing.assert_array_equal(source.read(slice(60, 70), slice(0, 90))[0], file.read()[:, 60:70, 0:90])
    with pytest.raises(NotFound, match="no such object"):
        open_scene(remote(cog.parent, "ali", f"s3://{s3_bucket}/nowhere"))
    path, truth = big_mat
    client.upload_file(str(path), s3_bucket, "hdf/big.mat")
    hdf = open_scene(remote(path.parent, "muufl", f"s3://{s3_bucket}/hdf"))
    np.testing.assert_array_equal(hdf.read(slice(9, 12), slice(20, 30))[0], truth.transpose(0, 2, 1)[:, 9:12, 20:30])
    cube = np.random.default_rng(0).random((4, 5, 31))
    scipy.io.savemat(tmp_path / "c.mat", {"cube": cube})
    client.upload_file(str(tmp_path / "c.mat"), s3_bucket, "c.mat")
    mat = open_scene(remote(tmp_path, "cave", f"s3://{s3_bucket}"))
    np.testing.assert_array_equal(mat.read(slice(None), slice(None))[0], cube.transpose(2, 0, 1))


@pytest.mark.fault
def test_f10_waiting_is_bounded(cog: Path, faulty: Callable[[Path], Faulty]) -> None:
    server = faulty(cog.parent)
    began = time.monotonic()
    with pytest.raises(Unreachable):
        AssetFetcher().stat(f"{server.url}/fail503x999/a.tif")
    assert len(server.requests()) == transport.TRIES and time.monotonic() - began < 20
