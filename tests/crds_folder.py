"""A made-up CRDS folder and a loopback server for it, for the tests of references and of the simulated CRDS server."""

from __future__ import annotations

import contextlib
import http.server
import json
import threading
import time
from hashlib import sha1
from pathlib import Path

import numpy as np
from astropy.io import fits

from survey.digest import file_sha1
from survey.simulate.crds_server import CrdsServer


def write_mapping(folder: Path, name: str, header: dict, selector: str) -> None:
    """A rule file with the checksum that crds wants."""

    def text(checksum: str) -> str:
        lines = [f"    {key!r} : {value!r}," for key, value in {**header, "name": name}.items()]
        return "header = {\n" + "\n".join([*lines, f"    'sha1sum' : '{checksum}',"]) + "\n}\n\nselector = " + selector

    plain = "".join(line for line in text("").splitlines(True) if "sha1sum" not in line)
    (folder / name).write_text(text(sha1(plain.encode()).hexdigest()))


def write_reference(path: Path, kind: str, value: float) -> None:
    header = {"TELESCOP": "JWST", "REFTYPE": kind.upper(), "INSTRUME": "NIRCAM", "USEAFTER": "2022-01-01T00:00:00"}
    primary = fits.PrimaryHDU(header=fits.Header(header))
    fits.HDUList([primary, fits.ImageHDU(np.full((8, 8), value, "f4"), name="SCI")]).writeto(path)


def make_observatory(folder: Path) -> Path:
    """Two contexts that differ in the F200W flat of NRCB1; flats have a second one from 2023 on."""
    mappings, files = folder / "mappings" / "jwst", folder / "references" / "jwst" / "nircam"
    mappings.mkdir(parents=True)
    files.mkdir(parents=True)
    for name, value in (("flat_0001", 1.0), ("flat_0002", 2.0), ("flat_0003", 3.0), ("mask_0001", 0.0)):
        write_reference(files / f"jwst_nircam_{name}.fits", name.split("_")[0], value)
    (files / "jwst_nircam_pars-jumpstep_0001.asdf").write_bytes(b"#ASDF 1.0.0\nmade up\n")
    common = {"observatory": "JWST", "derived_from": "made up"}
    dates = ("META.OBSERVATION.DATE", "META.OBSERVATION.TIME")
    rule = {**common, "mapping": "REFERENCE", "instrument": "NIRCAM", "classes": ("Match", "UseAfter")}

    def rmap(kind: str, number: int, parkeys: tuple, selector: str) -> None:
        header = {**rule, "filekind": kind.upper(), "parkey": (parkeys, dates), "suffix": kind}
        write_mapping(mappings, f"jwst_nircam_{kind}_{number:04d}.rmap", header, selector)

    for number, first in ((1, "flat_0001"), (2, "flat_0003")):
        selector = (
            "Match({\n    ('NRCB1', 'F200W') : UseAfter({\n"
            f"        '2021-01-01 00:00:00' : 'jwst_nircam_{first}.fits',\n"
            "        '2023-01-01 00:00:00' : 'jwst_nircam_flat_0002.fits',\n    }),\n})\n"
        )
        rmap("flat", number, ("META.INSTRUMENT.DETECTOR", "META.INSTRUMENT.FILTER"), selector)
    for kind, name in (("mask", "mask_0001.fits"), ("pars-jumpstep", "pars-jumpstep_0001.asdf")):
        date = f"        '2021-01-01 00:00:00' : 'jwst_nircam_{name}',\n"
        selector = f"Match({{\n    ('NRCB1',) : UseAfter({{\n{date}    }}),\n}})\n"
        rmap(kind, 1, ("META.INSTRUMENT.DETECTOR",), selector)
    for number in (1, 2):
        chosen = {kind: f"jwst_nircam_{kind}_0001.rmap" for kind in ("mask", "pars-jumpstep")}
        chosen |= {"flat": f"jwst_nircam_flat_{number:04d}.rmap", "rscd": "N/A", "pars-tweakregstep": "N/A"}
        header = {**common, "mapping": "INSTRUMENT", "instrument": "NIRCAM", "parkey": ("REFTYPE",)}
        write_mapping(mappings, f"jwst_nircam_{number:04d}.imap", header, selector_of(chosen))
        header = {**common, "mapping": "PIPELINE", "parkey": ("META.INSTRUMENT.NAME",)}
        write_mapping(
            mappings, f"jwst_{number:04d}.pmap", header, selector_of({"nircam": f"jwst_nircam_{number:04d}.imap"})
        )
    return write_catalog(folder)


def write_catalog(folder: Path) -> Path:
    found = [*(folder / "mappings" / "jwst").iterdir(), *(folder / "references" / "jwst" / "nircam").iterdir()]
    files = {path.name: {"sha1sum": file_sha1(path), "size": path.stat().st_size} for path in found}
    contexts = ["jwst_0001.pmap", "jwst_0002.pmap"]
    catalog = {"contexts": contexts, "operational": "jwst_0002.pmap", "files": files}
    (folder / "catalog.json").write_text(json.dumps(catalog))
    return folder


def selector_of(chosen: dict[str, str]) -> str:
    return "{\n" + "".join(f"    {key!r} : {value!r},\n" for key, value in chosen.items()) + "}\n"


class Server:
    """A CrdsServer on loopback, with a fault to switch on.

    For every request: 'broken' (503), 'refused' (401). For requests of the method ``silent_for``: 'silent' (30 s),
    'drip' (a header byte by byte). For files: 'short' (half of the body), 'wrong' (zeros), 'missing' (404).
    """

    def __init__(self, folder: Path):
        self.crds, self.fault, self.requests = CrdsServer(folder), "", []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                outer.answer(self, self.rfile.read(int(self.headers["Content-Length"])))

            def do_GET(self):
                outer.answer(self, b"")

            def log_message(self, *args):
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://localhost:{self.http.server_address[1]}/crds"

    def answer(self, handler, body: bytes) -> None:
        self.requests.append(handler.path)
        if handler.command == self.silent_for and self.fault in ("silent", "drip"):
            with contextlib.suppress(OSError):
                for _ in range(150):
                    time.sleep(0.2)
                    handler.wfile.write(b"H" if self.fault == "drip" else b"")
            return
        status, kind, content = self.crds.handle(handler.command, handler.path.removeprefix("/crds"), body, self.url)
        data = content.read_bytes() if isinstance(content, Path) else content
        if self.fault in ("broken", "refused"):
            status, data = (503 if self.fault == "broken" else 401), b"no"
        if isinstance(content, Path) and self.fault == "missing":
            status, data = 404, b"none"
        if isinstance(content, Path) and self.fault == "wrong":
            data = bytes(len(data))
        handler.send_response(status)
        handler.send_header("Content-Type", kind)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        with contextlib.suppress(OSError):
            handler.wfile.write(data[: len(data) // 2] if isinstance(content, Path) and self.fault == "short" else data)

    silent_for = "POST"

    def __enter__(self):
        threading.Thread(target=self.http.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *exception):
        self.http.shutdown()
        self.http.server_close()
