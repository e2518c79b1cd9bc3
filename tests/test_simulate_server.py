"""The simulated archive as its clients see it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import requests
from observatory import make_observatory

from survey.errors import ConfigError
from survey.simulate.faults import Fault, load_faults
from survey.simulate.server import SIMULATED_TOKEN, serve

ONE = "jw01345001001_02101_00001_nrcb1"
CLOSED = "jw01345003001_02101_00001_nrcb1"


@pytest.fixture(scope="module")
def observatory(tmp_path_factory):
    return make_observatory(tmp_path_factory.mktemp("observatory"), exposures=1)


@pytest.fixture
def server(observatory):
    with serve(observatory, page_size=10) as running:
        yield running


def url(server, name=ONE):
    return f"{server.url}/api/v0.1/Download/file?uri=mast:JWST/product/{name}_uncal.fits"


@pytest.fixture
def session():
    with requests.Session() as running:
        running.trust_env = False
        yield running


def test_whole_file_head_and_ranges(server, observatory, session):
    content = (observatory / "raw" / f"{ONE}_uncal.fits").read_bytes()
    whole = session.get(url(server))
    assert whole.content == content and whole.headers["Accept-Ranges"] == "bytes" and whole.headers["ETag"]
    head = session.head(url(server))
    assert head.status_code == 200 and int(head.headers["Content-Length"]) == len(content) and not head.content
    for value, start, end in (("bytes=100-", 100, None), ("bytes=0-9", 0, 10), ("bytes=-10", -10, None)):
        part = session.get(url(server), headers={"Range": value})
        assert part.status_code == 206 and part.content == content[start:end]
    assert part.headers["Content-Range"] == f"bytes {len(content) - 10}-{len(content) - 1}/{len(content)}"
    assert session.get(url(server), headers={"Range": "bytes=9999999-"}).status_code == 416
    assert session.get(url(server), headers={"Range": "bytes=1-", "If-Range": '"x"'}).status_code == 200


@pytest.mark.parametrize(
    "name", ["../exposures.json", "jw01345001001_02101_00001_nrcb1_rate", "", "%00", "/etc/passwd"]
)
def test_other_files_are_not_there(server, session, name):
    assert session.get(url(server, name)).status_code == 404


def test_token_by_cookie_or_header(server, session):
    assert session.get(url(server, CLOSED)).status_code == 401
    assert session.get(url(server, CLOSED), cookies={"mast_token": "wrong"}).status_code == 401
    assert session.get(url(server, CLOSED), cookies={"mast_token": SIMULATED_TOKEN}).status_code == 200
    session.cookies.clear()
    header = {"Authorization": f"token {SIMULATED_TOKEN}"}
    assert session.get(url(server, CLOSED), headers=header).status_code == 200
    assert session.get(f"{server.url}/whoami").json()["anon"] is True
    assert session.get(f"{server.url}/whoami", headers=header).json()["anon"] is False


def test_unmodified_astroquery_gets_tables_and_files(server, observatory, tmp_path):
    """In a fresh process, with the server set as its documentation says: before the import, in astroquery.cfg."""
    config = tmp_path / "config"
    (config / "astroquery").mkdir(parents=True)
    for path in (config / "astroquery.cfg", config / "astroquery" / "astroquery.cfg"):
        path.write_text(f"[mast]\nserver = {server.url}\n")
    script = f"""
import json
from astroquery.mast import Observations
rows = Observations.query_criteria(proposal_id="1345", instrument_name="NIRCAM*", obs_collection="JWST")
products = Observations.get_product_list(rows[rows["obs_id"] == "jw01345-o001_t001_nircam_clear-f200w-sub320"])
raw = Observations.filter_products(products, productType="SCIENCE", productSubGroupDescription="UNCAL", calib_level=1)
status = Observations.download_products(raw[:1], download_dir={str(tmp_path)!r}, flat=True, verbose=False)
count = Observations.query_criteria_count(proposal_id="1345")
print(json.dumps([len(rows), len(products), sorted(set(raw["productFilename"])), status["Status"][0], int(count)]))
"""
    env = {"ASTROPY_CONFIG_DIR": str(config), "HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    rows, products, names, status, count = json.loads(done.stdout.splitlines()[-1])
    assert names == [f"{ONE}_uncal.fits", f"{ONE[:-1]}2_uncal.fits"] and status == "COMPLETE"
    assert rows == len([row for row in server.archive.observations if "NIRCAM" in row["instrument_name"]])
    assert count == len(server.archive.observations) and products > 10  # more than one page
    downloaded = tmp_path / names[0]
    assert downloaded.read_bytes() == (observatory / "raw" / names[0]).read_bytes()


def test_rows_are_as_the_archive_has_them(server):
    kinds = {row["instrument_name"] for row in server.archive.observations}
    assert kinds == {"NIRCAM/IMAGE", "NIRCAM/GRISM", "MIRI/IMAGE", "NIRSPEC/MSA"}
    assert {row["calib_level"] for row in server.archive.observations} == {3, -1}
    assert any("-c1000_" in row["obs_id"] for row in server.archive.observations)
    products = [row for rows in server.archive.products.values() for row in rows]
    groups = {(row["productType"], row["productSubGroupDescription"]) for row in products}
    assert {
        ("PREVIEW", "UNCAL"),
        ("INFO", "ASN"),
        ("SCIENCE", "RATE"),
        ("SCIENCE", "I2D"),
        ("AUXILIARY", "GS-FG"),
    } <= groups
    assert any("xx101" in row["productFilename"] for row in products)
    uncal = [row["dataURI"] for row in products if row["productSubGroupDescription"] == "UNCAL"]
    assert len(uncal) > len(set(uncal))
    closed = {row["dataRights"] for row in products if row["productFilename"].startswith(CLOSED)}
    assert closed == {"EXCLUSIVE_ACCESS"}  # in every list that names them, that of c1000 too


def test_requests_are_recorded(server, session):
    session.get(url(server))
    session.get(f"{server.url}/nowhere")
    assert [(item.method, item.status) for item in server.requests] == [("GET", 200), ("GET", 404)]
    assert len(server.downloads(ONE)) == 1


def test_client_that_goes_away_does_not_stop_the_server(server, session):
    server.faults.add(Fault(kind="drip", bytes=10, seconds=0.01, times=1))
    response = session.get(url(server), stream=True)
    next(response.iter_content(10))
    response.close()
    assert session.get(url(server)).status_code == 200


def test_crds_part_is_mounted_or_missing(server, session):
    assert session.post(f"{server.crds_url}/json/get_server_info/", json={}).status_code == 404


def test_fault_that_strikes_twice(server, session):
    server.faults.add(Fault(kind="error", status=429, retry_after="7", times=2, match="GET .*nrcb1"))
    answers = [session.get(url(server)) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [429, 429, 200] and answers[0].headers["Retry-After"] == "7"
    assert session.get(url(server, f"{ONE[:-1]}2")).status_code == 200


def test_corrupt_body_has_the_right_length(server, observatory, session):
    content = (observatory / "raw" / f"{ONE}_uncal.fits").read_bytes()
    server.faults.add(Fault(kind="corrupt", bytes=3000))
    got = session.get(url(server)).content
    assert len(got) == len(content) and got != content and got[:3000] == content[:3000] and got[3064:] == content[3064:]


def test_fault_file(tmp_path):
    path = tmp_path / "faults.yaml"
    path.write_text("- {kind: error, status: 500, match: nrcb1, times: 2}\n- {kind: html}\n")
    assert load_faults(path) == [Fault(kind="error", status=500, match="nrcb1", times=2), Fault(kind="html")]
    path.write_text(json.dumps([{"kind": "drip", "bytes": 1, "seconds": 1}]))
    assert load_faults(path)[0].kind == "drip"
    path.write_text("- {kind: eror}\n- {kind: html, tmes: 2}\n- {kind: html, match: '('}\n")
    with pytest.raises(ConfigError) as caught:
        load_faults(path)
    assert len(caught.value.faults) == 4
    for text in ("kind: html", "[", ""):
        path.write_text(text)
        with pytest.raises(ConfigError):
            load_faults(path)
    with pytest.raises(ConfigError):
        load_faults(tmp_path / "nowhere")


def test_folder_that_is_no_observatory(tmp_path):
    with pytest.raises(ConfigError, match="survey simulate"):
        serve(tmp_path)


def test_port_that_is_taken(server, observatory):
    with pytest.raises(ConfigError, match="--port"):
        serve(observatory, port=int(server.url.rpartition(":")[2]))
