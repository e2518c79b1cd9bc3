"""The simulated CRDS server, asked by the unmodified crds client in processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from crds_folder import Server, make_observatory

from survey.errors import ConfigError
from survey.simulate.crds_server import CrdsServer


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_observatory(tmp_path_factory.mktemp("observatory") / "crds")


@pytest.fixture
def crds(folder):
    return CrdsServer(folder)


def call(crds: CrdsServer, method: str, *params):
    body = json.dumps({"jsonrpc": "1.0", "method": method, "params": params, "id": "7"}).encode()
    status, kind, answer = crds.handle("POST", f"/json/{method}/7/", body, "http://localhost:1/crds")
    assert (status, kind) == (200, "application/json")
    decoded = json.loads(answer)
    assert decoded["id"] == "7"
    return decoded


def test_server_info_has_what_the_client_reads(crds):
    info = call(crds, "get_server_info")["result"]
    assert info["operational_context"] == "jwst_0002.pmap"
    assert info["reference_url"] == {"jwst": "http://localhost:1/crds/unchecked_get/references/jwst"}
    assert {"latest_context", "edit_context", "bad_files_list", "force_remote_mode", "crds_version"} <= info.keys()


def test_the_closure_of_a_context(crds):
    names = call(crds, "get_mapping_names", "jwst_0002.pmap")["result"]
    assert names[0] == "jwst_0002.pmap"
    assert "jwst_nircam_flat_0002.rmap" in names
    assert "jwst_nircam_flat_0001.rmap" not in names
    references = call(crds, "get_reference_names", "jwst_0002.pmap")["result"]
    assert "jwst_nircam_flat_0003.fits" in references
    assert "jwst_nircam_flat_0001.fits" not in references


def test_file_information(crds, folder):
    name = "jwst_nircam_mask_0001.fits"
    info = call(crds, "get_file_info_map", "jwst", [name, "other.fits"], ["sha1sum", "size"])["result"]
    assert info["other.fits"].startswith("NOT FOUND")
    assert info[name]["size"] == str((folder / "references/jwst/nircam" / name).stat().st_size)
    assert len(info[name]["sha1sum"]) == 40
    keys = call(crds, "get_required_parkeys", "jwst_0001.pmap")["result"]["nircam"]
    assert "META.INSTRUMENT.DETECTOR" in keys


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("get_mapping_names", ["jwst_0009.pmap"]),
        ("get_mapping_names", ["../../etc/passwd"]),
        ("get_mapping_names", [5]),
        ("get_file_info_map", []),
        ("no_such_call", []),
    ],
)
def test_a_bad_call_is_answered_with_an_error(crds, method, params):
    answer = call(crds, method, *params)
    assert answer["result"] is None
    assert answer["error"]["message"]


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b"\xff", b'{"method": "get_server_info", "params": 5}'])
def test_a_body_that_is_no_call(crds, body):
    _, _, answer = crds.handle("POST", "/json/get_server_info/1/", body, "http://localhost:1/crds")
    assert json.loads(answer)["error"]


@pytest.mark.parametrize(
    "path",
    ["/references/jwst/nircam/", "/references/jwst/", "/references/", "/", "/unchecked_get/references/jwst/nircam/"],
)
@pytest.mark.parametrize("name", ["../catalog.json", "..", "catalog.json", "%2e%2e/catalog.json", "", "a\0b"])
def test_only_listed_files_are_served(crds, path, name):
    status, _, _ = crds.handle("GET", path + name, b"", "http://localhost:1/crds")
    assert status == 404


@pytest.mark.parametrize("prefix", ["", "/unchecked_get"])
@pytest.mark.parametrize("folder_name", ["/references/jwst", "/references/jwst/nircam"])
def test_files_are_found_where_clients_look(crds, prefix, folder_name):
    path = f"{prefix}{folder_name}/jwst_nircam_mask_0001.fits"
    status, _, found = crds.handle("GET", path, b"", "http://localhost:1/crds")
    assert status == 200
    assert found.name == "jwst_nircam_mask_0001.fits"
    assert found.is_file()


def test_wrong_http_methods(crds):
    assert crds.handle("GET", "/json/get_server_info/1/", b"", "http://x")[0] == 405
    assert crds.handle("POST", "/mappings/jwst/jwst_0001.pmap", b"", "http://x")[0] == 405


def test_a_folder_without_catalogue_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"catalog\.json"):
        CrdsServer(tmp_path)


def run_crds(arguments: list[str], server: Server, cache) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CRDS_")}
    environment |= {"CRDS_PATH": str(cache), "CRDS_SERVER_URL": server.url}
    command = [sys.executable, "-m", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stderr
    assert "ERROR" not in done.stderr
    return done.stdout


@pytest.mark.slow
def test_crds_sync_brings_a_context_and_its_references(folder, tmp_path):
    with Server(folder) as server:
        run_crds(["crds.sync", "--contexts", "jwst_0001.pmap", "--fetch-references"], server, tmp_path)
        run_crds(["crds.sync", "--contexts", "jwst_0001.pmap", "--check-sha1sum", "--check-files"], server, tmp_path)
        listed = run_crds(["crds.list", "--resolve-contexts", "--contexts", "jwst-latest"], server, tmp_path)
    assert "jwst_0002.pmap" in listed
    names = {path.name for path in (tmp_path / "references").rglob("*.fits")}
    assert names == {f"jwst_nircam_{name}.fits" for name in ("flat_0001", "flat_0002", "mask_0001")}
