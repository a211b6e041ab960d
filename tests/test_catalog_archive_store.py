"""Root: what is put is what is got, on a folder and on S3 alike; nothing leaves the root, nothing secret is said."""

from __future__ import annotations

import http.client
import pickle
import socket
import struct
import threading
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from hypermend.catalog.cube.cube import Cube
from hypermend.catalog.errors import AccessDenied, ArchiveError, NotFound, Refused, Unreachable
from hypermend.catalog.storage.archive_store import ArchiveStore, safe_name
from hypermend.catalog.storage.hrefs import redact
from tests.small_cubes import make_cube, make_spec


@pytest.fixture(params=["folder", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> ArchiveStore:
    if request.param == "folder":
        return ArchiveStore(tmp_path / "archive")
    return ArchiveStore(f"s3://{request.getfixturevalue('s3_bucket')}/some/archive")


def test_an_object_is_written_listed_and_deleted(root: ArchiveStore) -> None:
    version = root.put("a/b/one.json", b"1")
    root.put("a/two.json", b"22")
    assert root.get("a/b/one.json") == b"1"
    found = {e.key: e for e in root.list("a")}
    assert {k: e.size for k, e in found.items()} == {"a/b/one.json": 1, "a/two.json": 2}
    stat = root.stat("a/b/one.json")
    assert stat is not None and version == stat.version == found["a/b/one.json"].version
    assert root.put("a/b/one.json", b"11") != version
    assert root.folders("a") == ["b"]
    root.delete("a/two.json")
    root.delete("a/two.json")
    assert not root.exists("a/two.json") and root.stat("a/two.json") is None
    with pytest.raises(NotFound, match=r"two\.json"):
        root.get("a/two.json")
    assert root.delete_prefix("a") == 1
    assert list(root.list("a")) == [] and root.folders("") == []


@pytest.mark.fault
def test_f01_what_a_killed_writer_left_goes_with_its_folder(tmp_path: Path) -> None:
    root = ArchiveStore(tmp_path)
    root.put("cube.done/0-0.json", b"{}")
    for name in ("0-1.json#1", f"0-2.json.{'a' * 32}.partial"):  # an object is written beside its place, then moved
        (tmp_path / "cube.done" / name).write_bytes(b"{")
    assert root.delete_prefix("cube.done") == 1
    assert not (tmp_path / "cube.done").exists()


def test_a_part_of_an_object_is_read(root: ArchiveStore) -> None:
    root.put("a/b", bytes(range(100)))
    assert root.get_range("a/b", 5, 20) == bytes(range(5, 20)) and root.get_range("a/b", 99, 100) == b"c"
    with pytest.raises(NotFound):
        root.get_range("a/none", 0, 1)


def test_of_two_who_create_one_wins(root: ArchiveStore) -> None:
    assert root.put_if_absent("lease", b"first")
    assert not root.put_if_absent("lease", b"second")
    assert root.get("lease") == b"first"


def test_json_is_written_once(root: ArchiveStore) -> None:
    value = {"b": [1, None, "é"], "a": 0.1}
    assert root.put_json("v.json", value)
    assert not root.put_json("v.json", dict(reversed(value.items())))
    assert root.get_json("v.json") == value
    root.put("broken.json", b"{")
    with pytest.raises(ArchiveError, match="no JSON"):
        root.get_json("broken.json")


def test_a_root_travels_as_its_url(root: ArchiveStore) -> None:
    root.put("k", b"v")
    twin = pickle.loads(pickle.dumps(root))
    assert twin == root and hash(twin) == hash(root) and twin.get("k") == b"v"
    assert root.href("k") == f"{root.url}/k"


@pytest.mark.parametrize("key", ["../x", "/x", "a//b", "a/../../b", "a/./b", "a\\b", "a\nb"])
def test_no_key_leaves_the_root(tmp_path: Path, key: str) -> None:
    root = ArchiveStore(tmp_path / "archive")
    for act in (root.get, root.delete, root.href, root.local_path, root.delete_prefix, lambda k: root.put(k, b"")):
        with pytest.raises(Refused, match="key"):
            act(key)
    with pytest.raises(Refused, match="name a folder"):
        root.delete_prefix("")


def test_leftovers_of_a_killed_writer_are_not_listed(tmp_path: Path) -> None:
    root = ArchiveStore(tmp_path)
    root.put("a/one.json", b"1")
    (tmp_path / "a" / "one.json#1").write_bytes(b"torn")
    (tmp_path / "a" / f"0.{'0f' * 16}.partial").write_bytes(b"torn")
    assert [e.key for e in root.list("a")] == ["a/one.json"]


def test_a_local_path_is_known_only_locally(tmp_path: Path, s3_bucket: str) -> None:
    assert ArchiveStore(tmp_path).local_path("a/b") == tmp_path / "a" / "b"
    assert ArchiveStore(f"s3://{s3_bucket}").local_path("a/b") is None


@pytest.mark.parametrize("url", ["https://host/archive", "s3://user:secret@bucket/x", "s3://bucket/x?token=secret"])
def test_another_kind_of_url_is_refused_without_its_secret(url: str) -> None:
    with pytest.raises(Refused) as refusal:
        ArchiveStore(url)
    assert "secret" not in str(refusal.value)


def test_a_bucket_that_is_not_there_or_not_reached(moto_s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ArchiveError):
        ArchiveStore("s3://no-such-bucket-of-ours").put("a", b"")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "very-secret")
    monkeypatch.setattr("hypermend.catalog.storage.archive_store._RETRY", {"max_retries": 1})
    with pytest.raises(Unreachable) as error:
        ArchiveStore("s3://bucket/x").get("a")
    assert error.value.transient
    assert "very-secret" not in str(error.value) and "very-secret" not in repr(ArchiveStore("s3://bucket/x"))


class Flaky(BaseHTTPRequestHandler):
    """A way to the S3 server that fails, by `plan`, the first `failures` requests of each object."""

    plan, failures, upstream = "503", 2, ""
    seen: ClassVar[Counter[str]] = Counter()
    protocol_version = "HTTP/1.1"

    def handle_any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.seen[self.path] += 1
        fails = self.seen[self.path] <= self.failures
        if fails and self.plan == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True  # no answer at all
            return
        if fails and self.plan.isdigit():
            self.answer(int(self.plan), b"<Error><Code>ExpiredToken</Code></Error>")
            return
        server = http.client.HTTPConnection(self.upstream.removeprefix("http://"), timeout=20)
        server.request(self.command, self.path, body or None, dict(self.headers.items()))
        reply = server.getresponse()
        status, data, names = reply.status, reply.read(), reply.headers
        server.close()
        kept = {k: names[k] for k in ("ETag", "Last-Modified", "Content-Range") if names[k]}
        if fails and self.plan == "truncated" and self.command == "GET":
            self.answer(status, data, length=len(data), cut=len(data) // 2, **kept)
            self.close_connection = True
            return
        self.answer(status, data, **kept)

    do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = handle_any

    def answer(
        self, status: int, data: bytes, *, length: int | None = None, cut: int | None = None, **kept: str
    ) -> None:
        self.send_response(status)
        for name, value in kept.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(length or len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data[:cut])

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def flaky(moto_s3: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Flaky]]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Flaky)
    server.handle_error = lambda *args: None  # type: ignore[method-assign]
    Flaky.upstream, Flaky.failures = moto_s3, 2
    Flaky.seen.clear()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
    quick = {"init_backoff": timedelta(milliseconds=5), "max_backoff": timedelta(milliseconds=20), "base": 2}
    monkeypatch.setattr("hypermend.catalog.storage.archive_store._RETRY", {"max_retries": 3, "backoff": quick})
    yield Flaky
    server.shutdown()
    server.server_close()


@pytest.mark.fault
@pytest.mark.parametrize("plan", ["500", "503", "reset"])
def test_f10_a_passing_fault_of_the_store_is_not_seen(flaky: type[Flaky], s3_bucket: str, plan: str) -> None:
    flaky.plan = plan
    root = ArchiveStore(f"s3://{s3_bucket}/archive")
    cube, stored, _ = make_cube(root, "a.zarr", make_spec((2, 32, 32), tile_px=32))
    flaky.seen.clear()
    got, _ = Cube(root, "a.zarr").read(slice(0, 32), slice(0, 32))
    assert np.array_equal(got, stored) and cube.marks.verify() == []


@pytest.mark.fault
def test_f10_half_a_body_is_noticed_and_may_be_asked_for_again(flaky: type[Flaky], s3_bucket: str) -> None:
    root = ArchiveStore(f"s3://{s3_bucket}/archive")
    flaky.plan, flaky.failures = "truncated", 0
    cube, stored, _ = make_cube(root, "a.zarr", make_spec((2, 32, 32), tile_px=32))
    flaky.seen.clear()
    flaky.failures = 1
    answers = []
    for _ in range(5):
        try:
            answers.append(cube.read(slice(0, 32), slice(0, 32))[0])
        except Unreachable as e:
            assert e.transient
    assert answers and all(np.array_equal(a, stored) for a in answers)


@pytest.mark.fault
@pytest.mark.parametrize("plan", ["500", "reset", "truncated", "403"])
def test_f10_a_lasting_fault_is_an_error_and_never_pixels(
    flaky: type[Flaky], s3_bucket: str, monkeypatch: pytest.MonkeyPatch, plan: str
) -> None:
    flaky.plan, flaky.failures = plan, 0
    root = ArchiveStore(f"s3://{s3_bucket}/archive")
    cube, _, _ = make_cube(root, "a.zarr", make_spec((2, 32, 32), tile_px=32))
    flaky.seen.clear()
    flaky.failures = 1000
    expected = AccessDenied if plan == "403" else Unreachable
    for act in (
        lambda: cube.read(slice(0, 32), slice(0, 32)),
        lambda: root.get("a.zarr/zarr.json"),
        lambda: Cube(root, "a.zarr"),
        lambda: cube.marks.verify(),
    ):
        with pytest.raises(expected) as error:
            act()
        assert error.value.transient == (plan != "403")
    if plan != "truncated":
        with pytest.raises(expected):
            cube.marks.done()
        with pytest.raises(expected):
            root.put("x", b"")


@pytest.mark.fault
def test_f20_a_password_in_the_stores_address_is_never_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "SECRET")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://user:SECRET@127.0.0.1:9")
    monkeypatch.setattr("hypermend.catalog.storage.archive_store._RETRY", {"max_retries": 0})
    root = ArchiveStore("s3://bucket/archive")
    for act in (lambda: root.get("a"), lambda: root.put("a", b""), lambda: list(root.list("a"))):
        with pytest.raises(Unreachable, match=r"http://127\.0\.0\.1:9/bucket") as error:
            act()
        assert "SECRET" not in str(error.value)


def test_names_become_parts_of_keys() -> None:
    assert safe_name("ENMAP01-____L2A-DT0000001049_20220611T11") == "ENMAP01-____L2A-DT0000001049_20220611T11"
    odd = ["a b", "a:b", "a/b", "../a", "", "catalog", ".hidden", "é"]
    names = [safe_name(n) for n in odd]
    assert len(set(names)) == len(odd)
    for name in names:
        assert name not in odd and "/" not in name and not name.startswith(".")


def test_redact() -> None:
    assert redact("https://u:p@h/x.tif?sig=1#f") == "https://h/x.tif"
