"""A server with the traps of real ones: `python trap_server.py FOLDER LOG` prints its port and serves until killed.

    /<way>/<name>         a file of FOLDER, the way `WAYS` describes
    /stac/<kind>/         a STAC API of the items in FOLDER/items.json, with the fault of its kind (`KINDS`)

Every request is a line of LOG: method, path, headers, body.
"""

from __future__ import annotations

import base64
import contextlib
import email.utils
import gzip
import itertools
import json
import random
import re
import sys
import time
import zlib
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, parse_qsl, quote, unquote, urlsplit

WAYS = {
    "plain": "with ranges, ETag, If-Range and If-Match",
    "careless": "the same, but for If-Match",
    "dated": "with ranges, Last-Modified and If-Unmodified-Since",
    "login": "200 and an HTML page, whatever is asked for",
    "untyped": "an HTML page that is called application/octet-stream",
    "agent": "403 unless the User-Agent is one that a person could be asked about",
    "forbidden": "403",
    "gone": "404",
    "drop<n>": "every connection ends after n bytes",
    "restart<n>": "the same, and no ranges",
    "changing<n>": "the same, and the file is another one after the first connection",
    "busy<k>x<s>": "429 with Retry-After: s for the first k requests",
    "busydate<k>x<s>": "the same, with a date",
    "rangebusy": "429 to every range but the first byte",
    "sso": "the login form of another host, whose cookie opens the file",
    "policy": "the same, and a page of terms after the password",
    "basic": "401 and a challenge, until the account is sent",
    "astray": "the file once; then a redirect to it at another host",
    "packed": "JSON in gzip, although nobody asked: a small file of 8 MiB of blanks",
    "drip": "one byte of the body after the other, for ever",
    "dripping": "the same for the headers",
    "bearer": "401 until a token is sent; then the file, from another host",
}
KINDS = {
    "plain": "query, POST, pages by token in the body",
    "dlr": "filter only, with a box only; ignores query and ids; at most 500 a page; the next link loses the box",
    "getlost": "pages by GET, whose links lose everything but the page",
    "deaf": "ignores every filter and returns other collections",
    "loop": "the next link leads to the first page",
    "stuck": "the next link is new each time and its items are the same",
    "hole": "an empty page, with a next link, between two full ones",
    "picky": "400 for a comparison of properties",
    "getonly": "GET only",
    "moved": "308 to another path",
    "strayed": "302 to another host",
    "packed": "pages that are small in gzip and large without",
    "login": "an HTML page at /search",
    "cut": "the second page breaks off",
    "turning": "the same items for ever, in another order and with a new link each time",
    "empty": "no items for ever, with a new link each time",
}
PAGE = 3
ACCOUNT = ("mission-user", "mission-pa55word")
TOKEN = "bearer-t0ken"
SESSION = "session=c00kie-of-the-file-server"
LOGIN = """<!DOCTYPE html><html><h2>Sign in</h2>
<form action="elsewhere" method="post"><input type="hidden" name="_eventId" value="delegate"></form>
<form action="sign-on?service={service}" method="post"><input name="username"><input type="password" name="password">
<input type="hidden" name="execution" value="e1s1"><input type="submit" name="submit"></form></html>"""


class Traps(BaseHTTPRequestHandler):
    """All ways and kinds."""

    protocol_version = "HTTP/1.1"
    folder: Path
    log: Path
    seen: Counter[str]

    def log_message(self, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        with self.log.open("a") as out:
            line = {"method": self.command, "path": self.path, "headers": dict(self.headers), "body": self.body}
            out.write(json.dumps(line) + "\n")
        path = unquote(urlsplit(self.path).path)
        self.seen[path] += 1
        if path.startswith("/stac/"):
            return self.stac(path)
        if path == "/sign-on":
            return self.sign_on()
        _, way, name = path.split("/", 2)
        return self.file(way, name, self.seen[path])

    @property
    def here(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"  # type: ignore[attr-defined]

    def answer(self, code: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def page(self, text: str) -> None:
        self.answer(200, text.encode(), Content_Type="text/html; charset=utf-8")

    def file(self, way: str, name: str, count: int) -> None:
        numbers = [int(n) for n in re.findall(r"\d+", way)]
        kind = re.sub(r"\d.*", "", way)
        asked = self.headers.get("Range", "")
        if kind == "forbidden":
            return self.answer(403)
        if kind == "gone":
            return self.answer(404)
        if kind == "login":
            return self.page("<html><h1>Please log in</h1></html>")
        if kind == "untyped":
            return self.answer(200, b"\n<!DOCTYPE html><p>log in", Content_Type="application/octet-stream")
        if kind == "agent" and not self.headers.get("User-Agent", "").startswith("hypermend/"):
            return self.answer(403)
        if kind in ("busy", "busydate") and count <= numbers[0]:
            wait = str(numbers[1])
            if kind == "busydate":
                wait = email.utils.formatdate(time.time() + numbers[1], usegmt=True)
            return self.answer(429, Retry_After=wait)
        if kind == "rangebusy" and asked and asked != "bytes=0-0":
            return self.answer(429, Retry_After="900")
        if kind in ("sso", "policy") and SESSION not in self.headers.get("Cookie", ""):
            if "ticket=ST-1" in self.path:
                return self.answer(302, Location=f"{self.here}/{way}/{name}", Set_Cookie=f"{SESSION}; Path=/{way}")
            service = quote(f"{self.here}/{way}/{name}", safe="")
            port = self.server.server_port  # type: ignore[attr-defined]
            return self.answer(302, Location=f"http://localhost:{port}/sign-on?service={service}")
        if kind == "basic":
            good = "Basic " + base64.b64encode(":".join(ACCOUNT).encode()).decode()
            if self.headers.get("Authorization") != good:
                return self.answer(401, WWW_Authenticate='Basic realm="files"')
        if kind == "bearer":
            if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                return self.answer(401)
            port = self.server.server_port  # type: ignore[attr-defined]
            return self.answer(303, Location=f"http://localhost:{port}/plain/{name}")
        if kind == "astray" and count > 1:
            port = self.server.server_port  # type: ignore[attr-defined]
            return self.answer(302, Location=f"http://localhost:{port}/plain/{name}")
        if kind == "packed":
            body = gzip.compress(b'{"type": "FeatureCollection", "links": [' + b" " * (8 << 20) + b'], "features": []}')
            return self.answer(200, body, Content_Type="application/json", Content_Encoding="gzip")
        if kind.startswith("drip"):
            return self.drip(headers=kind == "dripping")
        return self.bytes_of(kind, name, numbers[0] if kind in ("drop", "restart", "changing") else None)

    def drip(self, *, headers: bool) -> None:
        with contextlib.suppress(OSError):  # the client has had enough
            if not headers:
                self.send_response(200)
                self.end_headers()
            for number in itertools.count():
                self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Long: "[number : number + 1] or b"x" if headers else b" ")
                self.wfile.flush()
                time.sleep(0.05)

    def bytes_of(self, kind: str, name: str, most: int | None) -> None:
        file = self.folder / name
        if not file.is_file():
            return self.answer(404)
        body = file.read_bytes()
        etag, written = f'"{zlib.crc32(body):08x}"', email.utils.formatdate(file.stat().st_mtime, usegmt=True)
        if kind == "changing" and self.seen[unquote(urlsplit(self.path).path)] > 2:  # the size is asked for first
            body, etag = body[::-1], '"another"'
        version = {"Last_Modified": written} if kind == "dated" else {"ETag": etag}
        start, stop, code, headers = 0, len(body), 200, {**version, "Accept_Ranges": "bytes"}
        match, since = self.headers.get("If-Match", etag), self.headers.get("If-Unmodified-Since", written)
        if kind != "careless" and (match, since) != (etag, written):
            return self.answer(412)
        span = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        same = self.headers.get("If-Range") in (None, etag)
        if span and same and kind != "restart":
            start = int(span[1])
            stop = min(stop, int(span[2]) + 1 if span[2] else stop)
            if start >= len(body):
                return self.answer(416, Content_Range=f"bytes */{len(body)}")
            code, headers["Content_Range"] = 206, f"bytes {start}-{stop - 1}/{len(body)}"
        part = body[start:stop]
        if most is None or len(part) <= most or self.command == "HEAD":
            return self.answer(code, part, **headers)
        self.send_response(code)
        for key, value in {**headers, "Content_Length": str(len(part))}.items():
            self.send_header(key.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(part[:most])
        self.close_connection = True
        return None

    def sign_on(self) -> None:
        """Another host: `localhost` in place of 127.0.0.1."""
        service = parse_qs(urlsplit(self.path).query).get("service", [""])[0]
        if self.command == "GET":
            return self.page(LOGIN.format(service=quote(service, safe="")))
        form = dict(parse_qsl(self.body))
        if (form.get("username"), form.get("password"), form.get("execution")) != (*ACCOUNT, "e1s1"):
            return self.page(LOGIN.format(service=quote(service, safe="")))
        if "/policy/" in service:
            return self.page("<html><h1>Acceptable Usage Policy</h1><form><input name=agree></form></html>")
        return self.answer(302, Location=f"{service}?ticket=ST-1")

    def stac(self, path: str) -> None:
        _, _, kind, *rest = path.split("/")
        root = f"{self.here}/stac/{kind}"
        if rest in ([], [""]):
            classes = ["core", "item-search", f"item-search#{'filter' if kind == 'dlr' else 'query'}"]
            methods = ["GET"] if kind in ("getonly", "getlost") else ["GET", "POST"]
            links = [{"rel": "self", "href": root}, {"rel": "root", "href": root}]
            links += [{"rel": "search", "href": f"{root}/search", "method": m} for m in methods]
            conforms = [f"https://api.stacspec.org/v1.0.0/{c}" for c in classes]
            return self.json(
                {
                    "type": "Catalog", "id": kind, "stac_version": "1.0.0", "description": kind,
                    "conformsTo": conforms, "links": links,
                }
            )  # fmt: skip
        if kind == "login":
            return self.page("<html>log in</html>")
        if kind == "strayed" and rest == ["search"]:
            return self.answer(302, Location=f"{root.replace('127.0.0.1', 'localhost')}/there")
        if kind == "packed":
            return self.file("packed", "", 1)
        if kind == "moved" and rest == ["search"]:
            return self.answer(308, Location=f"{root}/there")
        query = dict(parse_qsl(urlsplit(self.path).query))
        asked = json.loads(self.body) if self.body else query
        if kind == "getonly" and self.command == "POST":
            return self.answer(405)
        if kind == "picky" and "query" in asked:
            return self.answer(400)
        if int(asked.get("limit", 10)) > 500:
            return self.answer(400)
        if kind == "dlr" and "filter" in asked and "bbox" not in asked:
            return self.answer(504)
        return self.search(kind, f"{root}/{rest[0]}", asked, int(query.get("page", asked.get("page", 0))))

    def search(self, kind: str, href: str, asked: dict[str, Any], page: int) -> None:
        items = json.loads((self.folder / "items.json").read_text())
        if kind != "deaf":
            items = [item for item in items if matches(item, asked, ignore=("query", "ids") if kind == "dlr" else ())]
        if kind == "stuck":
            shown, more = items[:PAGE], True
        elif kind in ("turning", "empty"):
            shown, more = random.Random(page).sample(items, len(items)) if kind == "turning" else [], True
        elif kind == "hole":
            at = page if page < 1 else page - 1
            shown = [] if page == 1 else items[at * PAGE : (at + 1) * PAGE]
            more = (at + 1) * PAGE < len(items)
        else:
            shown, more = items[page * PAGE : (page + 1) * PAGE], (page + 1) * PAGE < len(items)
        follow = 0 if kind == "loop" and page else page + 1
        link: dict[str, Any] = {"rel": "next", "href": f"{href}?page={follow}"}
        if kind in ("dlr", "plain", "moved", "picky"):
            kept = asked if kind == "plain" else {"limit": asked.get("limit")}
            link = {"rel": "next", "href": href, "method": "POST", "body": {**kept, "page": follow}}
        body = {"type": "FeatureCollection", "features": shown, "links": [link] if more else []}
        if kind == "cut" and page:
            text = json.dumps(body).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text[: len(text) // 2])
            self.close_connection = True
            return None
        return self.json(body)

    def json(self, body: Any) -> None:
        self.answer(200, json.dumps(body).encode(), Content_Type="application/json")


def matches(item: dict[str, Any], asked: dict[str, Any], ignore: tuple[str, ...]) -> bool:
    """Whether an item passes what was asked, by a server that knows no date line: it reads west < east only."""
    collections = asked.get("collections")
    if isinstance(collections, str):
        collections = collections.split(",")
    if collections and item["collection"] not in collections:
        return False
    box = asked.get("bbox")
    if isinstance(box, str):
        box = [float(v) for v in box.split(",")]
    if box:
        w, s, e, n = item["bbox"]
        spans = [(w, e)] if w <= e else [(w, 180), (-180, e)]
        if not any(a <= box[2] and b >= box[0] for a, b in spans) or s > box[3] or n < box[1]:
            return False
    cloud = item["properties"]["eo:cloud_cover"]
    if "filter" in asked:
        assert asked["filter-lang"] == "cql2-json"
        flat = asked["filter"]["args"] if asked["filter"]["op"] == "and" else [asked["filter"]]
        for part in flat:
            (named, value), op = part["args"], part["op"]
            assert named == {"property": "eo:cloud_cover"}
            if not {"<": cloud < value, ">=": cloud >= value}[op]:
                return False
    query = {} if "query" in ignore else asked.get("query") or {}
    query = json.loads(query) if isinstance(query, str) else query
    return all(cloud < v["lt"] for v in query.values() if "lt" in v)


if __name__ == "__main__":
    Traps.folder, Traps.log, Traps.seen = Path(sys.argv[1]), Path(sys.argv[2]), Counter()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Traps)
    print(server.server_port, flush=True)
    server.serve_forever()
