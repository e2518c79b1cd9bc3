"""Online reference catalogues: fetched before a run, kept, digested by their bytes, given to tweakreg in its cone."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from observatory import make_observatory
from stub_steps import FakeReferences, exposure

from survey.cli.plan_report import Planned, plan_blocks, plan_document
from survey.cli.tables import text_of
from survey.config.model import SurveyConfig
from survey.errors import ServiceUnreachableError, TaskError
from survey.models import CatalogFile
from survey.planning.planner import plan
from survey.planning.staleness import differences
from survey.reduction.catalogs import online_catalog, sync_catalogs, with_catalogs
from survey.references import References
from survey.references.catalogs import ADDRESS, Cone, Query, faults, fetch, parameters_in, recall
from survey.simulate.faults import Fault
from survey.simulate.server import serve
from survey.steps.reference_catalog import _Service, rows_in_cone, stored_catalog

CONE = Cone(214.82, 52.82, 0.02)
QUERY = Query("m_gaiadr3_2022-12-21", "GAIADR3", "2022-12-21", CONE)
MOSAIC = "jw01345-a3001_t001_nircam_clear-f200w-sub320"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An observatory with a sky of 25 stars."""
    made = make_observatory(tmp_path_factory.mktemp("observatory"), observations=(1,), exposures=1)
    (made / "truth").mkdir()
    rows = [
        f"{n} star {214.80 + 0.01 * (n % 5):.4f} {52.80 + 0.01 * (n // 5):.4f} {18 + n / 10:.2f}" for n in range(25)
    ]
    (made / "truth" / "sources.ecsv").write_text(
        "# %ECSV 1.0\n# ---\n# datatype:\n# - {name: id, datatype: int64}\n# - {name: kind, datatype: string}\n"
        "# - {name: ra, datatype: float64}\n# - {name: dec, datatype: float64}\n# - {name: mag_ab, datatype: float64}\n"
        "id kind ra dec mag_ab\n" + "\n".join(rows) + "\n"
    )
    (made / "scene.yaml").write_text('start: "2022-12-21T08:30:00"\n')
    return made


@pytest.fixture
def service(folder, monkeypatch):
    with serve(folder) as server:
        monkeypatch.setenv(ADDRESS, server.catalogs_url)
        yield server


def test_a_catalogue_is_kept_with_its_query(service, tmp_path):
    stored = fetch(tmp_path, QUERY, 20)
    lines = stored.path.read_text().splitlines()
    assert lines[0].startswith("# Objects found : ") and len(lines) == stored.rows + 2
    kept = json.loads(stored.path.with_suffix(".json").read_text())
    assert (kept["catalog"], kept["date"], kept["rows"]) == ("GAIADR3", "2022-12-21", stored.rows)
    assert kept["epoch"] == pytest.approx(2022.96986, abs=1e-5) and kept["service"] == service.catalogs_url
    assert "EPOCH=2022.969" in service.requests[-1].path
    assert recall(tmp_path, QUERY) == stored and faults(tmp_path) == {}


def test_a_smaller_cone_needs_no_other_catalogue_and_another_epoch_does(service, tmp_path):
    stored = fetch(tmp_path, QUERY, 20)
    assert recall(tmp_path, replace(QUERY, cone=Cone(214.825, 52.82, 0.01))) == stored
    assert recall(tmp_path, replace(QUERY, cone=Cone(214.82, 52.82, 0.021))) is None
    assert recall(tmp_path, replace(QUERY, date="2022-12-22")) is None
    assert recall(tmp_path, replace(QUERY, catalog="GAIADR2")) is None


def test_a_changed_catalogue_is_found(service, tmp_path):
    stored = fetch(tmp_path, QUERY, 20)
    stored.path.write_text(stored.path.read_text().replace("18", "19"))
    assert recall(tmp_path, QUERY) is None
    assert list(faults(tmp_path)) == [stored.path.name] and "sha256" in faults(tmp_path)[stored.path.name]


def test_an_empty_cone_has_no_rows(service, tmp_path):
    assert fetch(tmp_path, replace(QUERY, cone=Cone(10.0, 10.0, 0.01)), 20).rows == 0


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (Fault(match="webservices", kind="error", status=500), "HTTP 500"),
        (Fault(match="webservices", kind="html"), "no catalogue"),
        (Fault(match="webservices", kind="silence", seconds=30), "no complete answer within 3 s"),
    ],
    ids=["error", "page", "silence"],
)
def test_a_service_that_fails_is_named_with_what_to_do(folder, monkeypatch, tmp_path, fault, words):
    with serve(folder, faults=[fault]) as server:
        monkeypatch.setenv(ADDRESS, server.catalogs_url)
        with pytest.raises(ServiceUnreachableError) as error:
            fetch(tmp_path, QUERY, 3)
    for text in (words, server.catalogs_url, "GAIADR3", QUERY.name, "abs_refcat also takes a file"):
        assert text in str(error.value)
    assert not list(tmp_path.iterdir())


# --- what tweakreg gets -----------------------------------------------------------------------------------------

TEXT = "# a comment\nobjID,dec,ra\n1,0.0,359.9999\n2,0.0,0.0100\n3,0.0,0.0101\n"


def test_rows_of_a_cone_keep_head_and_order():
    assert rows_in_cone(TEXT, Cone(0.0, 0.0, 0.01)) == TEXT.replace("3,0.0,0.0101\n", "")
    assert rows_in_cone(TEXT, Cone(90.0, 0.0, 0.01)).startswith("No data records")
    assert rows_in_cone("No data records found\n", Cone(0, 0, 1)) == "No data records found\n"


def test_a_stored_catalogue_answers_as_the_service_does(service, tmp_path):
    import requests

    stored = fetch(tmp_path, QUERY, 20)
    for cone in ("RA=214.82&DEC=52.82&SR=0.011", "RA=214.83&DEC=52.82&SR=0.0073", "RA=214.815&DEC=52.815&SR=0.001"):
        query = f"/vo/CatalogSearch.aspx?{cone}&EPOCH={QUERY.epoch}&FORMAT=CSV&CAT=GAIADR3"
        asked = requests.get(service.catalogs_url + query, timeout=10).text.splitlines()
        found = _Service(str(stored.path)).get("https://somewhere" + query, timeout=1).content.decode().splitlines()
        assert found[1:] == asked[1:]  # the comment has the number of rows
    for wrong, words in (
        (query.replace("GAIADR3", "GAIADR2"), "GAIADR2"),
        (query.replace("EPOCH=2022", "EPOCH=2021"), "EPOCH|epoch"),
        (query.replace("SR=0.001", "SR=0.05"), "does not hold"),
    ):
        with pytest.raises(TaskError, match=words):
            _Service(str(stored.path)).get(wrong)
    with pytest.raises(TaskError, match="not fetched"):
        _Service(None).get(query)


def test_the_catalogue_is_found_among_the_files_of_a_job():
    assert stored_catalog(["/w/catalogs/a.csv", "/w/asn/b.json"]) == ("/w/catalogs/a.csv", ["/w/asn/b.json"])
    assert stored_catalog(["/w/asn/b.json"]) == (None, ["/w/asn/b.json"])


# --- the plan ---------------------------------------------------------------------------------------------------


def config(root, tweakreg=None, **mosaic):
    image3 = {"tweakreg": tweakreg} if tweakreg is not None else {}
    return SurveyConfig(
        survey="t", program=1345, workspace=root, steps=["detector1", "image2"],
        mosaic={"image3": image3, **mosaic}, references={"context": "jwst_0001.pmap", "cache": "/nowhere"},
    )  # fmt: skip


class WithCatalog(FakeReferences):
    def __init__(self, *files):
        super().__init__()
        self.catalogs = {MOSAIC: {exposure(n + 1).name: file for n, file in enumerate(files)}} if files else {}


def test_the_alignment_depends_on_the_bytes_of_its_catalogue_alone(tmp_path):
    chosen, exposures = config(tmp_path), [exposure(1), exposure(2)]
    digests = []
    for references in (
        FakeReferences(), WithCatalog(), WithCatalog(CatalogFile("catalogs/a.csv", "1" * 64)),
        WithCatalog(CatalogFile("catalogs/a.csv", "2" * 64)),
    ):  # fmt: skip
        made = plan(chosen, exposures, references)
        digests.append({task.key: task.digest for task in made})
    assert digests[0] == digests[1]
    changed = {key for key in digests[1] if digests[1][key] != digests[2][key]}
    assert changed == {key for key in digests[2] if digests[2][key] != digests[3][key]} == {f"align/{MOSAIC}"}
    assert plan(chosen, exposures, references)[f"align/{MOSAIC}"].files == ("catalogs/a.csv",)


def test_the_plan_says_which_catalogue_changed_or_is_missing(tmp_path):
    from survey.execution.task import blank_record

    made = [
        plan(config(tmp_path), [exposure(1)], WithCatalog(CatalogFile("catalogs/a.csv", sha)))[f"align/{MOSAIC}"]
        for sha in ("1" * 64, "2" * 64, "")
    ]
    assert differences(made[1], blank_record(made[0])) == ["catalogs/a.csv holds other bytes"]
    assert made[2].unknown == "catalogs/a.csv is not there yet" and not made[2].digest
    references = WithCatalog(CatalogFile("catalogs/a.csv"))
    planned = Planned(config(tmp_path), plan(config(tmp_path), [exposure(1)], references), ())
    assert plan_document(planned)["catalogs_to_fetch"] == ["catalogs/a.csv"]
    assert "to fetch before the first task: catalogs/a.csv" in text_of(plan_blocks(planned))


def test_a_mosaic_whose_first_exposure_is_lost_needs_the_catalogue_of_another_date(tmp_path):
    from survey.planning.planner import Planner

    references = WithCatalog(CatalogFile("catalogs/a.csv", "1" * 64), CatalogFile("catalogs/b.csv", "2" * 64))
    made = plan(config(tmp_path), [exposure(1), exposure(2), exposure(3)], references)
    chains = {name: [task for task in made if task.subject == name] for name in made.associations[0].members}
    by_name = {item.name: item for item in made.exposures}
    for lost, file in ((0, "catalogs/a.csv"), (1, "catalogs/b.csv")):
        left = dict(list(chains.items())[lost:])
        first, _ = Planner(config(tmp_path), references).mosaic_tasks(made.associations[0], left, by_name)
        assert first[-1].files == (file,)


# --- which mosaics need one -------------------------------------------------------------------------------------

PARS = """#ASDF 1.0.0
%YAML 1.1
--- !core/asdf-1.1.0
class: jwst.tweakreg.TweakRegStep
name: tweakreg
parameters: {abs_refcat: gaiadr3, minobj: 10}
history: !core/history-1.0.0 [!x {a: 1}]
...
"""


class Pars:
    """References with a parameter file of tweakreg."""

    def __init__(self, path):
        self._path = path

    def for_step(self, _exposure, types):
        return {kind: "pars.asdf" for kind in types if kind == "pars-tweakregstep"}

    def path(self, _file):
        return self._path


def test_parameter_files_of_crds_are_read(tmp_path):
    path = tmp_path / "pars.asdf"
    path.write_text(PARS)
    assert parameters_in(path) == {"abs_refcat": "gaiadr3", "minobj": 10}
    path.write_text(PARS.replace("parameters:", "steps: [{name: tweakreg, parameters: {abs_refcat: GAIADR2}}]\nx:"))
    assert parameters_in(path, "tweakreg") == {"abs_refcat": "GAIADR2"} and parameters_in(path, "skymatch") == {}
    path.write_bytes(b"\x80\x81")
    assert parameters_in(path) == {} == parameters_in(tmp_path / "none")


@pytest.mark.parametrize(
    ("tweakreg", "expected"),
    [(None, "GAIADR3"), ({"abs_refcat": " gaiadr2 "}, "GAIADR2"), ({"abs_refcat": ""}, ""), ({"skip": True}, "")],
    ids=str,
)
def test_the_config_takes_precedence_over_parameter_files(tmp_path, tweakreg, expected):
    (tmp_path / "pars.asdf").write_text(PARS)
    assert online_catalog(config(tmp_path, tweakreg), Pars(tmp_path / "pars.asdf"), "a") == expected


@pytest.fixture
def held(service, folder, tmp_path):
    """A config for the raw files of the observatory, these exposures, and references without parameter files."""
    from survey.archive.local import find_exposures
    from survey.digest import file_sha256

    root = tmp_path / "ws"
    root.mkdir()
    (root / "raw").symlink_to(folder / "raw")
    for path in sorted((folder / "raw").glob("*.fits")):
        from astropy.io import fits

        fits.setval(path, "DATE-OBS", value="2022-12-21")
    found, _ = find_exposures(folder / "raw", 1345)
    exposures = [replace(item, sha256=file_sha256(folder / "raw" / item.file)) for item in found]
    references = References("jwst_0001.pmap", "/nowhere", ({},), {item.name: 0 for item in exposures}, {}, {}, {})
    return config(root, {"abs_refcat": "GAIADR3"}), exposures, references


def test_catalogues_are_fetched_once_and_again_on_demand(held, service):
    chosen, exposures, references = held
    before = with_catalogs(chosen, exposures, references).catalogs
    assert len(before) == 2 and not any(item.sha256 for files in before.values() for item in files.values())
    asked = len(service.requests)
    found = sync_catalogs(chosen, exposures, references).catalogs
    assert len(service.requests) == asked + 2
    files = [item for rows in found.values() for item in rows.values()]
    assert all((chosen.folders.root / item.file).is_file() and len(item.sha256) == 64 for item in files)
    assert sync_catalogs(chosen, exposures, references).catalogs == found
    assert with_catalogs(chosen, exposures, references).catalogs == found and len(service.requests) == asked + 2
    sync_catalogs(chosen, exposures, references, renew=True)
    assert len(service.requests) == asked + 4


def test_the_stored_cone_holds_what_tweakreg_can_ask_for(held):
    chosen, exposures, references = held
    sync_catalogs(chosen, exposures, references)
    kept = json.loads(next((chosen.folders.root / "catalogs").glob("*.json")).read_text())
    cone = Cone(kept["ra_deg"], kept["dec_deg"], kept["radius_deg"])
    corners = [point for item in exposures for point in item.footprint]
    assert all(cone.holds(Cone(ra, dec, 0.01)) for ra, dec in corners)


@pytest.mark.parametrize("mosaic", [{"alignment": "/tmp"}, {"align_to": "F200W"}], ids=str)
def test_a_mosaic_that_is_aligned_otherwise_needs_none(held, mosaic):
    chosen, exposures, references = held
    other = config(chosen.workspace, **mosaic)
    pars = replace(references, groups=({"pars-tweakregstep": "p"},), files={"p": ""}, paths={"p": "p"})
    (Path(chosen.workspace) / "p").write_text(PARS)
    pars = replace(pars, cache=str(chosen.workspace))
    wanted = set(with_catalogs(other, exposures, pars).catalogs)
    assert wanted == ({MOSAIC} if "align_to" in mosaic else set())


def test_without_the_service_nothing_starts(held, monkeypatch):
    chosen, exposures, references = held
    monkeypatch.setenv(ADDRESS, "http://localhost:9")
    quick = chosen.model_copy(update={"references": chosen.references.model_copy(update={"timeout_seconds": 3})})
    with pytest.raises(ServiceUnreachableError, match=r"localhost:9.*\n.*GAIADR3"):
        sync_catalogs(quick, exposures, references)
