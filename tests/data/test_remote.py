"""URLs that nothing installed can read, and clients that fail, end in one typed error that says what to do."""

import functools
import http.server
import sys
import threading
import time
import tomllib
from contextlib import suppress
from pathlib import Path

import fsspec
import pandas as pd
import pytest
from fsspec.spec import AbstractFileSystem

from rightfit.console import Console
from rightfit.data import image, listing, reading, remote, stamps, store, stream
from rightfit.data.audit.check import check
from rightfit.data.image import read_bytes, size
from rightfit.data.resize import ImageSpec
from rightfit.errors import DataError, ImageError, UsageError

ROOT = Path(__file__).parents[2]
PLACES = {
    "a folder": lambda url: reading.read(url),
    "a table": lambda url: reading.read(f"{url}/table.csv"),
    "a Parquet file": lambda url: reading.read(f"{url}/table.parquet"),
    "paths of a table": lambda url: reading.read(
        pd.DataFrame({"path": [f"{url}/1.jpg", f"{url}/2.jpg"], "label": ["a", "b"]})
    ),
    "a file's bytes": lambda url: read_bytes(f"{url}/1.jpg"),
    "a file's size": lambda url: size(f"{url}/1.jpg"),
    "what to label": lambda url: list(stream.files_of(f"{url}/1.jpg")),
    "a folder to label": lambda url: list(stream.images_of(stream.files_of(url), 8, 8, "crop", 64)),
}
CLIENTS = {
    "s3": ("s3fs", "s3"),
    "gs": ("gcsfs", "gs"),
    "gcs": ("gcsfs", "gs"),
    "http": ("aiohttp", "http"),
    "https": ("aiohttp", "http"),
}


@pytest.fixture
def nothing_installed(monkeypatch):
    """As where rightfit is installed without extras: importing a client fails."""
    from fsspec import registry

    monkeypatch.delitem(sys.modules, "fsspec.implementations.http", raising=False)
    for scheme, (module, _) in CLIENTS.items():
        monkeypatch.setitem(sys.modules, module, None)
        monkeypatch.delitem(getattr(registry, "_registry", {}), scheme, raising=False)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("scheme", CLIENTS)
def test_a_missing_client_is_named_with_what_installs_it(place, scheme, nothing_installed):
    with pytest.raises(UsageError, match=rf"pip install 'rightfit\[{CLIENTS[scheme][1]}\]'"):
        PLACES[place](f"{scheme}://photos")


@pytest.mark.parametrize("place", PLACES)
def test_an_unknown_protocol_is_named(place):
    with pytest.raises(UsageError, match="Protocol not known: photo"):
        PLACES[place]("photo://photos")


def test_a_client_below_another_is_named_too(nothing_installed):
    with pytest.raises(UsageError, match=r"rightfit\[s3\]"):
        remote.filesystem("simplecache::s3://photos")


def test_a_client_that_we_have_no_extra_for_is_named_by_fsspec(monkeypatch):
    monkeypatch.setitem(sys.modules, "adlfs", None)
    with pytest.raises(UsageError, match="adlfs"):
        remote.filesystem("abfs://photos")


class Refusing(AbstractFileSystem):
    """A file system whose client has errors of its own."""

    protocol = "refusing"

    def ls(self, path, detail=True, **options):
        raise RuntimeError("the token has expired")

    info = ls

    def _open(self, path, mode="rb", **options):
        raise RuntimeError("the token has expired")


@pytest.mark.parametrize(
    "place", ["a folder", "a table", "a Parquet file", "paths of a table", "a folder to label"]
)
def test_an_error_of_the_client_is_typed_and_names_the_url(place):
    fsspec.register_implementation("refusing", Refusing, clobber=True)
    with pytest.raises(DataError, match=r"refusing://photos.*the token has expired"):
        PLACES[place]("refusing://photos")


def test_the_extras_are_those_of_the_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for module, extra in CLIENTS.values():
        assert module in project["optional-dependencies"][extra]


@pytest.fixture
def web(tmp_path, picture):
    """Four images and their table behind a real web server; its URL and what it was asked."""
    pytest.importorskip("aiohttp")
    asked = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            asked.append((self.command, self.path))

    for name in "0123":
        (tmp_path / f"{name}.png").write_bytes(picture())
    rows = [f"{name}.png,{name in '13'}" for name in "0123"]
    (tmp_path / "table.csv").write_text("\n".join(["path,label", *rows]), encoding="utf-8")
    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Handler, directory=str(tmp_path))
    ) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()
        thread.join()


def test_images_on_the_web_are_read_each_time_and_their_folder_never(web, tmp_path):
    url, asked = web
    found = reading.read(f"{url}/table.csv")
    for _ in range(2):
        asked.clear()
        opened = store.open_or_build(found.paths(range(4)), ImageSpec(8, 8), tmp_path / "cache", url)
        assert opened.ok.all()
        assert sorted(path for method, path in asked if method == "GET") == [
            f"/{name}.png" for name in "0123"
        ]
    with pytest.raises(DataError, match=r"none\.csv: no such file"):
        reading.read(f"{url}/none.csv")


def test_a_file_whose_server_does_not_say_how_long_it_is_is_read_within_the_limit(monkeypatch):
    pytest.importorskip("aiohttp")
    monkeypatch.setattr(image, "MAX_BYTES", 3 * 2**20)

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_HEAD(self):
            self.send_response(200)
            self.end_headers()

        def do_GET(self):
            self.do_HEAD()
            with suppress(OSError):  # whoever has read enough closes
                for _ in range(2 if self.path == "/short" else 40):
                    self.wfile.write(bytes(2**20))

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        assert len(read_bytes(f"{url}/short")) == 2 * 2**20
        with pytest.raises(ImageError, match="3,145,729 bytes, more than 3,145,728"):
            read_bytes(f"{url}/long")
        server.shutdown()


def test_a_signature_behind_a_name_is_no_part_of_it(web):
    url, _ = web
    signed = [f"{url}/{name}.png?X-Signature=a.b/c.d" for name in "0123"]
    source = pd.DataFrame({"path": signed, "label": list("abab")})
    audit = check(source, None, "auto", None, "6:1:2", 0, Console(quiet=True))
    assert {"unreadable", "misnamed"}.isdisjoint(finding.kind for finding in audit)


def test_the_web_is_not_listed(monkeypatch):
    """Nothing listens on port 1: asking it would be an error."""
    assert list(stamps.stamps_of(["http://localhost:1/a.png"]).ravel()) == [0] * stamps.DIGEST
    monkeypatch.setattr(remote, "filesystem", lambda url: (None, url))
    assert listing.missing(["http://localhost:1/a.png"]) == []


# A network that stalls ------------------------------------------------------------------------------


@pytest.fixture
def stalling(tmp_path, picture, monkeypatch):
    """A real web server that answers nothing, or half an answer, for the paths in `stalled`, and waits."""
    pytest.importorskip("aiohttp")
    monkeypatch.setattr(remote, "STALLED", 1.0)  # an answer of this machine takes less, even while it is busy
    remote._stalled.clear()
    stalled, ended = {}, threading.Event()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_GET(self):
            how = stalled.get(self.path)
            if how == "error":
                self.send_error(500)
                return
            if how == "half":
                self.send_response(200)
                self.send_header("Content-Length", "1000")
                self.end_headers()
                self.wfile.write(b"half of it")
                self.wfile.flush()
            if how:
                ended.wait(60)
                self.close_connection = True
            elif self.command == "HEAD":
                super().do_HEAD()
            else:
                super().do_GET()

        do_HEAD = do_GET

    for number in range(40):
        (tmp_path / f"{number:02d}.png").write_bytes(picture())
    rows = [f"{number:02d}.png,{number % 2}" for number in range(40)]
    (tmp_path / "table.csv").write_text("\n".join(["path,label", *rows]), encoding="utf-8")
    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Handler, directory=str(tmp_path))
    ) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", stalled
        ended.set()
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("how", ["nothing", "half"])
def test_a_file_that_stalls_is_left_out_with_its_reason_and_asked_for_again(stalling, how, tmp_path):
    url, stalled = stalling
    stalled["/03.png"] = how
    paths = reading.read(f"{url}/table.csv").paths(range(40))
    began = time.monotonic()
    opened = store.open_or_build(paths, ImageSpec(8, 8), tmp_path / "cache", url, workers=1)
    assert time.monotonic() - began < 30
    assert set(opened.reasons) == {3} and "the network stalled" in opened.reasons[3]
    stalled.clear()
    assert store.open_or_build(paths, ImageSpec(8, 8), tmp_path / "cache", url, workers=1).ok.all()


@pytest.mark.parametrize("how", ["nothing", "half", "error"])
def test_an_image_to_label_that_is_not_to_be_had_is_left_out_alone(stalling, how):
    """Not there, an error of the server, or no answer: the others are labelled."""
    url, stalled = stalling
    stalled["/03.png"] = how
    asked = [f"{url}/{name}" for name in ("00.png", "none.png", "03.png", "04.png")]
    batches = list(stream.images_of(stream.files_of(asked), 8, 8, "crop", 64))
    assert [path for batch in batches for path in batch.paths] == [asked[0], asked[3]]
    reasons = dict(pair for batch in batches for pair in batch.unreadable)
    assert list(reasons) == asked[1:3] and "404" in reasons[asked[1]]
    assert ("500" if how == "error" else "the network stalled") in reasons[asked[2]]


def test_the_network_that_stalls_ends_labelling_too(stalling):
    url, stalled = stalling
    stalled.update({f"/{number:02d}.png": "nothing" for number in range(2, 40)})
    asked = [f"{url}/{number:02d}.png" for number in range(10)]
    with pytest.raises(DataError, match="the network stalls: reads of 3 files in a row"):
        list(stream.images_of(stream.files_of(asked), 8, 8, "crop", 64))


@pytest.mark.parametrize("how", ["nothing", "half"])
def test_a_network_that_stalls_ends_in_one_typed_error_soon(stalling, how, tmp_path):
    url, stalled = stalling
    paths = reading.read(f"{url}/table.csv").paths(range(40))
    stalled.update({f"/{number:02d}.png": how for number in range(2, 40)})
    began = time.monotonic()
    with pytest.raises(DataError, match="the network stalls: reads of 3 files in a row"):
        store.open_or_build(paths, ImageSpec(8, 8), tmp_path / "cache", url, workers=1)
    assert time.monotonic() - began < 30
    assert not list((tmp_path / "cache").rglob(".building-*"))


def test_a_table_behind_a_network_that_stalls_is_said_to_be_that(stalling):
    url, stalled = stalling
    stalled["/table.csv"] = "nothing"
    with pytest.raises(DataError, match=r"table\.csv: the network stalled"):
        reading.read(f"{url}/table.csv")


def test_a_slow_file_whose_bytes_come_is_waited_for(stalling, monkeypatch):
    """The limit is on silence, not on the whole."""
    url, _ = stalling
    system, _ = remote.filesystem(f"{url}/00.png")
    timeout = system.client_kwargs["timeout"]
    assert (timeout.total, timeout.sock_read, timeout.sock_connect) == (None, 1.0, 1.0)
