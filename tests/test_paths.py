"""Names from outside, and links that somebody planted: nothing is written, removed or read for ever outside of the
workspace.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from crds_folder import Server, make_observatory, write_catalog, write_mapping
from stub_steps import ENVIRONMENT, exposure
from test_archive_fetch import QUICK
from test_execution_task import detector1
from test_references import Settings, write_raw

from survey import references
from survey.archive import held
from survey.archive.fetch import fetch
from survey.archive.ledger import LEDGER, Entry, Ledger, signature
from survey.archive.local import find_exposures as find_local
from survey.archive.raw import kept
from survey.cluster.connect import _quiet
from survey.config.model import SurveyConfig
from survey.config.pipeline_spec import check_settings, read_spec
from survey.digest import file_sha256
from survey.errors import ConfigError, ReferencesError, TaskError
from survey.execution.children import close_idle
from survey.execution.publication import publish
from survey.execution.task import Site, run_task
from survey.models import COMPLETE, Exposure, Product, Task
from survey.mosaics.grid import Box, Tile
from survey.mosaics.layouts import read_layout
from survey.mosaics.tiles import remove_old_chunks
from survey.names import parse_mosaic
from survey.reduction import inspection
from survey.steps.base import Outcome
from survey.steps.pipeline import reject_remote_hooks
from survey.workspace import paths, provenance
from survey.workspace.folders import Workspace
from survey.workspace.products import stored_record
from survey.workspace.records import read_record, read_records, record_path

GOOD = "stage1/jw01345001001_02101_00001_nrcb1_rate.fits"
ODD_PARTS = [
    "..", ".", "", "../x", "/etc/passwd", "a/../../x", "x\0.fits", "x\n", "x\r.fits", "..\\x", "C:\\x", "~", "~root",
    "-rf", ".hidden", "x y", "\u2024\u2024", "\uff0e\uff0e", "\u202egnp.stif", "rate\u200b.fits", "r\u0430te.fits",
    "e\u0301.fits", "\u00e9.fits", "\ud800", "\u2215etc\u2215passwd", "x" * 201, "x" * 5000, "%2e%2e", "$HOME", "a;b",
]  # fmt: skip
SUBJECT = exposure(1).name
GROUP = "mosaics/mosaics.zarr/F200W"


@pytest.fixture(scope="module", autouse=True)
def servers():
    yield
    close_idle()


@pytest.fixture
def workspace(tmp_path):
    made = Workspace(tmp_path / "ws")
    made.create()
    return made


@pytest.fixture
def victim(tmp_path):
    """Something outside of the workspace, with all the names that are looked for in it."""
    folder = tmp_path / "outside"
    (folder / "sci" / "c").mkdir(parents=True)
    for name in ("thesis.tex", "zarr.json", "sci/zarr.json", "sci/c/0", f"{SUBJECT}_rate.fits"):
        (folder / name).write_text("years of work")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    yield folder
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


@pytest.fixture
def config(workspace, tmp_path):
    settings = {"context": "jwst_0001.pmap", "cache": tmp_path / "crds"}
    return SurveyConfig(survey="t", program=1345, workspace=workspace.root, references=settings)


def run(workspace: Workspace, task: Task | None = None):
    return run_task(task or detector1(workspace, 1), Site(str(workspace.root), "t", ENVIRONMENT))


def rewrite(workspace: Workspace, key: str, **changes) -> None:
    path = record_path(workspace.records, key)
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


# --- names -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", ODD_PARTS, ids=ascii)
def test_odd_names_are_no_paths(part, tmp_path):
    for path in (part, f"stage1/{part}", f"stage1/{part}/x.fits", f"{part}/{GOOD}"):
        assert "not the path of a product" in paths.product_fault(path)
        assert len(paths.product_fault(path)) < 300 and paths.product_fault(path).isascii()
        with pytest.raises(ValueError, match="not the path of a product"):
            paths.inside(tmp_path, path)
    assert not paths.plain_name(part)


@pytest.mark.parametrize("path", [GOOD, f"{GROUP}/con/c/0/12/3", "asn/jw01345-a3001_t001_nircam_clear-f200w_asn.json"])
def test_paths_of_products_are(path, tmp_path):
    assert paths.product_fault(path) == ""
    assert paths.inside(tmp_path, path) == tmp_path / path


@pytest.mark.parametrize(
    "path", ["raw/x.fits", "records/x.json", "logs/x.log", "stage1", "x.fits", "a/b", "stage1/" * 13]
)
def test_only_products_lie_where_products_lie(path):
    assert paths.product_fault(path)


def test_a_very_long_product_name_is_none():
    assert parse_mosaic("jw01345-o001_t001_nircam_clear-f200w-sub320").elements == "clear-f200w"
    for name in ("jw01345-o001_t001_nircam_clear-" + "f" * 300, "jw01345-o001_t001_nircam_clear-f200w-" + "s" * 300):
        with pytest.raises(ConfigError):
            parse_mosaic(name)


@pytest.mark.parametrize("value", ["../../x", "/tmp/x", "a/b", "..", "x\0"])
def test_a_parameter_that_names_an_output_leads_nowhere(value):
    spec = read_spec("jwst.pipeline.calwebb_detector1:Detector1Pipeline")
    for step, name in (("ramp_fit", "opt_name"), ("ramp_fit", "int_name"), ("dark_current", "dark_output")):
        _, faults = check_settings(spec, {step: {name: value}}, "steps: detector1")
        assert len(faults) == 1 and "expected a plain file name" in faults[0]
    assert check_settings(spec, {"ramp_fit": {"opt_name": "fit_details"}}, "steps: detector1")[1] == []


@pytest.mark.parametrize(
    "orders",
    [{"pre_hooks": ["os.abort"]}, {"steps": {"jump": {"post_hooks": ["/bin/false"]}}},
     {"steps": {"ramp_fit": {"opt_name": "../../x"}}}, {"steps": {"jump": {"output_dir": "/tmp"}}}],
    ids=str,
)  # fmt: skip
def test_a_parameter_file_of_crds_gives_no_orders(orders):
    with pytest.raises(TaskError, match="which it must not"):
        reject_remote_hooks(orders)
    reject_remote_hooks({"output_dir": "own", "pre_hooks": [], "steps": {"jump": {"rejection_threshold": 4.0}}})


# --- records -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["../outside/thesis.tex", "/etc/passwd", "raw/../../outside/thesis.tex", "stage1/.."])
def test_a_record_that_names_a_file_outside_is_none(workspace, victim, config, path):
    task = detector1(workspace, 1)
    done = run(workspace, task)
    rewrite(workspace, task.key, products=[{"path": path, "sha256": "0" * 64, "bytes": 13}])
    found = read_records(workspace.records)
    assert not found.by_key and "not the path of a product" in next(iter(found.faults.values()))
    assert stored_record(workspace, task.key) is None
    faults = inspection.verify(config)
    assert list(faults) == [f"records/{record_path(workspace.records, task.key).name}"]
    assert inspection.status(config) == []
    with pytest.raises(ConfigError):
        inspection.explain(config, path)
    again = run(workspace, task)
    assert again.status == COMPLETE and again.products == done.products


def test_what_an_earlier_record_names_outside_is_not_removed(workspace, victim):
    """Also when a record comes into memory another way than by being read."""
    from survey.execution.publication import _remove_former

    link = workspace.folder("stage1") / "more"
    link.symlink_to(victim)
    for path in ("../outside/thesis.tex", str(victim / "thesis.tex"), "stage1/more/thesis.tex"):
        product = Product(path, "0" * 64, 13)
        _remove_former(replace(run(workspace), products=(product,)), (), workspace)
        paths.discard(workspace.root, path)
    assert link.is_symlink()


def test_a_link_in_a_products_place_is_removed_and_not_what_it_leads_to(workspace, victim):
    link = workspace.root / GOOD
    link.symlink_to(victim / "thesis.tex")
    paths.discard(workspace.root, GOOD)
    assert not link.is_symlink()
    paths.discard(workspace.root, GOOD)


@pytest.mark.parametrize(
    "product", ["nothing", "../../x", "/etc/passwd", "a\u202eb", "x" * 10_000, "\udcff"], ids=ascii
)
def test_explain_of_odd_words_is_a_wrong_usage(config, product):
    with pytest.raises(ConfigError, match="not a product of any of the 0 records"):
        inspection.explain(config, product)


@pytest.mark.timeout(30)
def test_a_record_that_is_a_pipe_is_a_fault(workspace):
    os.mkfifo(workspace.records / "detector1.x.json")
    assert "not a regular file" in read_records(workspace.records).faults["detector1.x.json"]


# --- links in the place of products ------------------------------------------------------------------------------


@pytest.mark.parametrize("to", ["file", "folder", "nothing"])
def test_a_task_replaces_a_link_and_leaves_what_it_led_to(workspace, victim, to):
    target = {"file": victim / "thesis.tex", "folder": victim, "nothing": victim / "none"}[to]
    link = workspace.root / GOOD
    link.symlink_to(target)
    (workspace.folder("logs") / f"detector1.{SUBJECT}.log").symlink_to(victim / "thesis.tex")
    record_path(workspace.records, f"detector1/{SUBJECT}").symlink_to(victim / "thesis.tex")
    record = run(workspace)
    assert record.status == COMPLETE and paths.is_file(link)
    assert paths.is_file(record_path(workspace.records, record.key)) and paths.is_file(workspace.root / record.log)
    assert not (victim / "none").exists()


def product_faults(config) -> dict[str, str]:
    """What verify says of products: the raw files here are in no ledger."""
    return {name: fault for name, fault in inspection.verify(config).items() if not name.startswith("raw/")}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", ["link", "link to a copy", "pipe"])
def test_what_is_no_file_is_no_product(workspace, config, tmp_path, kind):
    task = detector1(workspace, 1)
    run(workspace, task)
    path = workspace.root / GOOD
    shutil.copy(path, tmp_path / "copy")
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(tmp_path / "copy" if kind == "link to a copy" else "/dev/zero")
    assert inspection.verify(config)[GOOD].endswith("expected a file")
    run(workspace, task)
    assert paths.is_file(path) and product_faults(config) == {}


def test_a_folder_of_the_workspace_may_be_on_another_disk(tmp_path, config):
    workspace = Workspace(config.workspace)
    (tmp_path / "scratch").mkdir()
    workspace.folder("stage1").rmdir()
    workspace.folder("stage1").symlink_to(tmp_path / "scratch")
    task = detector1(workspace, 1)
    assert run(workspace, task).status == COMPLETE
    assert run(workspace, task) == run(workspace, task)
    assert product_faults(config) == {} and len(list((tmp_path / "scratch").iterdir())) == 1


def made_group(workspace: Workspace) -> tuple[Task, Outcome, Path]:
    """A tile's task and what its child made."""
    folder = workspace.root / "mosaics" / ".job"
    chunk = folder / "store" / "sci" / "c" / "0" / "0"
    chunk.parent.mkdir(parents=True)
    chunk.write_text("pixels")
    task = Task("drizzle/p_x0y0", "drizzle", "p_x0y0", "F200W", {"group": "F200W"}, digest="d" * 64)
    return task, Outcome((("store/sci/c/0/0", f"{GROUP}/sci/c/0/0"),)), folder


@pytest.mark.parametrize("link", ["mosaics/mosaics.zarr", GROUP, f"{GROUP}/sci", f"{GROUP}/sci/c"])
def test_no_tile_goes_through_a_link(workspace, victim, link):
    from survey.execution.task import blank_record

    task, outcome, folder = made_group(workspace)
    place = workspace.root / link
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(victim, target_is_directory=True)
    with pytest.raises(TaskError, match="is a link; expected a folder") as raised:
        publish(replace(blank_record(task), status=COMPLETE), task, outcome, folder, workspace)
    assert raised.value.retry == "never" and str(place) in str(raised.value)
    empty = Outcome(())  # a tile without pixels takes the mosaic's commit mark away all the same
    if link in ("mosaics/mosaics.zarr",):
        with pytest.raises(TaskError, match="is a link"):
            publish(replace(blank_record(task), status=COMPLETE), task, empty, folder, workspace)


def test_an_empty_tile_takes_no_mark_off_what_a_link_leads_to(workspace, victim):
    from survey.execution.task import blank_record

    task, _, folder = made_group(workspace)
    (workspace.root / "mosaics" / "mosaics.zarr").mkdir()
    (workspace.root / GROUP).symlink_to(victim, target_is_directory=True)
    with pytest.raises(TaskError, match="is a link"):
        publish(replace(blank_record(task), status=COMPLETE), task, Outcome(()), folder, workspace)


def test_strangers_behind_a_link_stay(workspace, victim):
    store = workspace.root / "mosaics" / "mosaics.zarr"
    store.mkdir()
    tile = Tile(0, 0, Box(0, 0, 8, 8))
    (store / "F200W").symlink_to(victim, target_is_directory=True)
    with pytest.raises(TaskError, match="is a link"):
        remove_old_chunks(store / "F200W", ["sci"], [tile], 1)
    (store / "F444W").mkdir()
    (store / "F444W" / "odd").symlink_to(victim, target_is_directory=True)
    (store / "F444W" / "old.txt").symlink_to(victim / "thesis.tex")
    remove_old_chunks(store / "F444W", ["sci"], [tile], 1)
    assert list((store / "F444W").iterdir()) == []


# --- links in the place of the workspace's own files -------------------------------------------------------------


def test_snapshots_of_provenance_clear_nothing_but_snapshots(workspace, victim):
    link = workspace.root / provenance.SNAPSHOTS
    link.symlink_to(victim, target_is_directory=True)
    dataset = provenance.to_dataset([run(workspace)])
    for _ in range(2):
        provenance.publish(workspace.root, dataset)
    assert link.is_dir() and not link.is_symlink()
    (link / "mine").mkdir()
    (link / "mine" / "notes").write_text("kept")
    provenance.publish(workspace.root, dataset)
    assert (link / "mine" / "notes").read_text() == "kept"
    assert len([path for path in link.iterdir() if path.suffix == ".zarr"]) == 1


def test_a_lock_is_not_written_through_a_link(workspace, victim):
    (workspace.root / ".lock.json").symlink_to(victim / "thesis.tex")
    with workspace.lock():
        assert json.loads((workspace.root / ".lock.json").read_text())["pid"] == os.getpid()
    (workspace.root / ".lock").unlink()
    (workspace.root / ".lock").symlink_to(victim / "new")
    with pytest.raises(ConfigError, match="symbolic link"), workspace.lock():
        pass
    assert not (victim / "new").exists()


def test_leftovers_behind_a_link_are_not_swept(workspace, victim):
    (victim / ".drizzle.x.0123abcd").mkdir()
    (workspace.root / "mosaics" / "mosaics.zarr").symlink_to(victim, target_is_directory=True)
    (workspace.folder("stage1") / ".detector1.x.0123abcd").symlink_to(victim, target_is_directory=True)
    workspace.sweep(0.0)
    assert (victim / ".drizzle.x.0123abcd").is_dir()


def test_the_clusters_log_is_not_written_through_a_link(workspace, victim):
    log = workspace.folder("logs") / "cluster.log"
    log.symlink_to(victim / "thesis.tex")
    with _quiet(log):
        logging.getLogger("distributed").warning("a word")
    assert "a word" in log.read_text() and not log.is_symlink()


@pytest.mark.timeout(30)
def test_a_layout_that_is_a_pipe_or_a_link_is_none(workspace, victim):
    os.mkfifo(workspace.folder("stage3") / "p_layout.json")
    (workspace.folder("stage3") / "q_layout.json").symlink_to(victim / "thesis.tex")
    assert read_layout(workspace.root, "p") is None and read_layout(workspace.root, "q") is None


# --- raw files ---------------------------------------------------------------------------------------------------


@pytest.mark.timeout(60)
@pytest.mark.parametrize("to", ["/etc/passwd", "/dev/zero", "pipe", "victim", "nothing", "itself"])
def test_a_raw_file_that_is_a_link_is_fetched_in_its_place(tmp_path, workspace, victim, to):
    from observatory import make_observatory as make_archive

    from survey.simulate.server import serve

    make_archive(tmp_path / "observatory", observations=(1,), exposures=1)
    with serve(tmp_path / "observatory") as server:
        row = next(iter(server.archive.exposures.values()))
        values = {key: row[key] for key in ("name", "program", "observation", "visit", "detector", "filter")}
        wanted = Exposure(**values, uri=f"mast:JWST/product/{row['name']}_uncal.fits")
        path, part = workspace.raw / wanted.file, workspace.raw / f".{wanted.file}.part"
        if to == "pipe":
            os.mkfifo(path)
        else:
            target = {"victim": victim / "thesis.tex", "nothing": victim / "none", "itself": path}.get(to, to)
            path.symlink_to(target)
        part.symlink_to(victim / "thesis.tex")
        part.with_name(f"{part.name}.tag").symlink_to(victim / "thesis.tex")
        report = fetch([wanted], workspace.raw, server=server.url, settings=QUICK)
    assert report.error is None and paths.is_file(path)
    assert path.read_bytes() == (tmp_path / "observatory" / "raw" / wanted.file).read_bytes()
    assert not (victim / "none").exists()


@pytest.mark.timeout(30)
def test_a_ledger_leads_nowhere(workspace, victim, config):
    path = workspace.raw / LEDGER
    stat = signature(victim / "thesis.tex")
    names = ["../../outside/thesis.tex", str(victim / "thesis.tex"), f"{SUBJECT}_uncal.fits", "a\0b", "", "\ud800"]
    lines = [json.dumps({"name": name, "size": 13, "sha256": "0" * 64, "uri": "x", "stat": stat}) for name in names]
    lines += ['{"name": "x", "size": 1e999, "sha256": "0", "uri": "", "stat": [1, 2, 3, 4]}', "[" * 200_000]
    path.write_text("\n".join(lines) + "\n")
    os.mkfifo(workspace.raw / f"{SUBJECT}_uncal.fits")
    faults = inspection.verify(config)
    assert faults[f"raw/{SUBJECT}_uncal.fits"].endswith("not a file")
    assert "which is not the name of a raw file" in faults[f"raw/{LEDGER}"] and len(faults) == 2
    assert held.held(workspace.raw) == () and kept(exposure(1), workspace.raw, Ledger(path)) is None
    path.unlink()
    path.symlink_to(victim / "thesis.tex")
    with pytest.raises(OSError, match="symbolic link"):
        Ledger(path).append(Entry("x", 1, "0", "", stat))


@pytest.mark.timeout(30)
def test_a_pipe_in_a_folder_of_raw_files_is_left_out(tmp_path):
    from observatory import write_raw as write_exposure

    write_exposure(tmp_path / f"{SUBJECT}_uncal.fits", SUBJECT, "NRCB1", "F200W")
    other = SUBJECT.replace("_00001_", "_00002_")
    os.mkfifo(tmp_path / f"{other}_uncal.fits")
    found, faults = find_local(tmp_path)
    assert [item.name for item in found] == [SUBJECT] and "is not a file" in faults[f"{other}_uncal.fits"]


# --- a CRDS server that means harm -------------------------------------------------------------------------------

BAD_NAMES = ["../../../../outside/thesis.tex", "/etc/cron.d/x"]


def tree(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
@pytest.mark.parametrize("name", BAD_NAMES, ids=ascii)
def test_rules_that_name_a_file_outside_are_refused(tmp_path, victim, name):
    """The server lists no such file; its rules, whole and with the right checksum, choose it."""
    folder = make_observatory(tmp_path / "crds")
    rules = folder / "mappings" / "jwst"
    text = (rules / "jwst_nircam_mask_0001.rmap").read_text()
    header = {"observatory": "JWST", "mapping": "REFERENCE", "instrument": "NIRCAM", "filekind": "MASK",
              "classes": ("Match", "UseAfter"), "suffix": "mask", "derived_from": "made up",
              "parkey": (("META.INSTRUMENT.DETECTOR",), ("META.OBSERVATION.DATE", "META.OBSERVATION.TIME")),
              }  # fmt: skip
    assert "mask_0001.fits" in text
    selector = f"Match({{\n    ('NRCB1',) : UseAfter({{\n        '2021-01-01 00:00:00' : {name!r},\n    }}),\n}})\n"
    write_mapping(rules, "jwst_nircam_mask_0001.rmap", header, selector)
    write_catalog(folder)
    raw = {"early": write_raw(tmp_path / "early.fits")}
    with Server(folder) as server, pytest.raises(ReferencesError, match="not a plain file name"):
        references.sync(raw, Settings(server.url, "jwst_0001.pmap", tmp_path / "cache"), types=("mask",))
    assert {path.split("/")[0] for path in tree(tmp_path)} <= {"crds", "cache", "outside", "early.fits"}
    assert not any("references" in path for path in tree(tmp_path / "cache"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["../../../outside/zarr.json", "/etc/x.pmap", "..", "x\0.rmap"], ids=ascii)
def test_a_list_of_rules_that_leads_outside_is_refused(tmp_path, victim, name):
    folder = make_observatory(tmp_path / "crds")
    with Server(folder) as server:
        calls = server.crds._calls
        hostile = {"get_mapping_names": lambda context: ["jwst_0001.pmap", name]}
        server.crds._calls = lambda base: calls(base) | hostile
        settings = Settings(server.url, "jwst_0001.pmap", tmp_path / "cache")
        with pytest.raises((ReferencesError, ConfigError), match="not a plain file name"):
            references.sync({"early": write_raw(tmp_path / "early.fits")}, settings, types=("mask",))
    assert tree(tmp_path / "cache") == set() or not any("zarr.json" in path for path in tree(tmp_path / "cache"))


@pytest.mark.slow
@pytest.mark.parametrize("url", ["file:///etc", "ftp://127.0.0.1/x", "data:text/plain,"])
def test_files_come_from_web_addresses_alone(tmp_path, url):
    folder = make_observatory(tmp_path / "crds")
    with Server(folder) as server:
        calls = server.crds._calls

        def info(base):
            told = calls(base)["get_server_info"]()
            return told | {"mapping_url": {"jwst": url}, "reference_url": {"jwst": url}}

        server.crds._calls = lambda base: calls(base) | {"get_server_info": lambda: info(base)}
        settings = Settings(server.url, "jwst_0001.pmap", tmp_path / "cache")
        with pytest.raises((ReferencesError, ConfigError), match=r"expected http\(s\)"):
            references.sync({"early": write_raw(tmp_path / "early.fits")}, settings, types=("mask",))


@pytest.mark.slow
def test_an_instrument_that_is_a_path_is_none(tmp_path):
    from astropy.io import fits

    folder = make_observatory(tmp_path / "crds")
    raw = write_raw(tmp_path / "early.fits")
    fits.setval(raw, "INSTRUME", value="../../outside")
    with Server(folder) as server, pytest.raises(ReferencesError, match="not the name of an instrument"):
        references.sync({"early": raw}, Settings(server.url, "jwst_0001.pmap", tmp_path / "cache"), types=("mask",))


def test_a_remembered_answer_is_of_the_cache_of_the_config(tmp_path):
    """The workspace's references.json says what workers read: not another folder than the config's."""
    from survey.references.record import Question
    from survey.references.record import read_record as recall
    from survey.references.record import write_record as remember

    (tmp_path / "config" / "jwst").mkdir(parents=True)
    (tmp_path / "config" / "jwst" / "server_config").write_text("{}")
    (tmp_path / "references").mkdir()
    (tmp_path / "references" / "x.fits").write_text("x")
    sha1 = hashlib.sha1(b"x").hexdigest()
    good = references.References(
        "jwst_0001.pmap", str(tmp_path), ({"flat": "x.fits"},), {"a": 0}, {"x.fits": sha1},
        {"x.fits": "references/x.fits"}, {},
    )  # fmt: skip
    (tmp_path / "a_uncal.fits").write_text("x")
    raw = {"a": tmp_path / "a_uncal.fits"}
    record, question = tmp_path / "references.json", Question(raw, "jwst_0001.pmap", tmp_path, ())
    remember(record, question, good)
    assert recall(record, question) == good
    remember(record, question, replace(good, paths={"x.fits": "references/../references/x.fits"}))
    assert recall(record, question) is None
    remember(record, question, replace(good, cache=str(tmp_path / "config")))
    assert recall(record, question) == good  # that of the config
    elsewhere = Question(raw, "jwst_0001.pmap", tmp_path / "config", ())
    assert recall(record, elsewhere) is None  # which lacks the file


def test_records_of_this_project_pass_their_own_check(workspace):
    record = run(workspace)
    assert read_record(record_path(workspace.records, record.key)) == record
    assert file_sha256(workspace.root / record.products[0].path) == record.products[0].sha256
