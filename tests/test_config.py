"""The config file: every fault at once, each with its line and what is expected."""

from __future__ import annotations

import copy
import inspect
import time
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel

from survey.config.model import SurveyConfig, read_config, resolved
from survey.config.values import expand
from survey.errors import ConfigError
from survey.planning.recipe import checked
from survey.reduction.load import check_config, load_config

CONFIGS = Path(__file__).parent.parent / "configs"
SMALL = """\
survey: egs
program: 1345
references: {context: jwst_1584.pmap, cache: /crds}
workspace: ws
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    return path


def faults(tmp_path: Path, text: str) -> list[str]:
    with pytest.raises(ConfigError) as raised:
        read_config(write(tmp_path, text))
    assert raised.value.exit_code == 2
    return raised.value.faults


def test_a_small_config_and_its_defaults(tmp_path):
    config = read_config(write(tmp_path, SMALL))
    assert (config.survey, config.program, config.observations, config.filters) == ("egs", 1345, None, None)
    assert config.workspace == Path("ws")
    assert [step.name for step in config.steps] == ["detector1", "image2"]
    assert config.archive.server == "https://mast.stsci.edu"
    assert config.mosaic.engine == "tiled"
    assert config.mosaic.grid == {}
    assert config.mosaic.max_missing == 0


def test_the_folders_are_those_of_the_workspace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = read_config(write(tmp_path, SMALL))
    assert config.folders.root == tmp_path / "ws" and config.folders.raw == tmp_path / "ws" / "raw"
    moved = config.model_copy(update={"workspace": tmp_path / "elsewhere"})
    assert moved.folders.root == tmp_path / "elsewhere"
    assert "folders" not in config.model_dump() and not config.folders.root.exists()


def test_resolved_is_json_and_reads_back(tmp_path):
    config = read_config(write(tmp_path, SMALL + "mosaic: {crval_deg: [214.8, 52.8], shape: [10, 20]}\n"))
    facts = resolved(config)
    assert facts["mosaic"]["kernel"] is None
    assert facts["mosaic"]["shape"] == [10, 20]
    assert yaml.safe_load(yaml.safe_dump(facts)) == facts
    assert SurveyConfig(**{**facts, "steps": config.steps}) == config


@pytest.mark.parametrize("name", ["demo", "ceers"])
def test_the_configs_that_come_along(name, monkeypatch):
    monkeypatch.setenv("CRDS_PATH", "/crds")
    config = read_config(CONFIGS / f"{name}.yaml")
    assert config.program == 1345
    assert checked(config).faults == ()


def test_the_ceers_grid(monkeypatch):
    monkeypatch.setenv("CRDS_PATH", "/crds")
    config = read_config(CONFIGS / "ceers.yaml")
    assert set(config.filters) == {"F115W", "F150W", "F200W", "F277W", "F356W", "F410M", "F444W"}
    mosaic = config.mosaic
    assert (mosaic.pixel_scale_arcsec, mosaic.rotation_deg) == (0.03, -49.7)
    assert (mosaic.crval_deg, mosaic.crpix, mosaic.shape) == ((214.825, 52.825), (31584.5, 9043.5), (46200, 15400))


def test_the_grid_in_the_words_of_resample(tmp_path):
    text = SMALL + (
        "mosaic: {pixel_scale_arcsec: 0.03, crval_deg: [214.825, 52.825], crpix: [1.5, 2.5], rotation_deg: -49.7,"
        " shape: [30, 20], pixfrac: 0.8, kernel: square, weight: ivm}\n"
    )
    assert read_config(write(tmp_path, text)).mosaic.grid == {
        "pixel_scale": 0.03, "crval": [214.825, 52.825], "crpix": [1.5, 2.5], "rotation": -49.7,
        "output_shape": [30, 20], "pixfrac": 0.8, "kernel": "square", "weight_type": "ivm",
    }  # fmt: skip


def test_steps_in_all_their_forms(tmp_path):
    text = SMALL + "steps:\n  - detector1\n  - subtract_striping:\n  - image2: {photom: {skip: true}}\n"
    config = read_config(write(tmp_path, text))
    assert [step.name for step in config.steps] == ["detector1", "subtract_striping", "image2"]
    assert config.steps[2].settings == {"photom": {"skip": True}}


def test_every_fault_is_named_with_its_line(tmp_path):
    text = """\
survey: EGS
program: many
fliters: [F200W]
observations: [0]
references:
  context: jwst_1584.pmap
  cache: /crds
  sever: null
archive: {server: mast, downloads: 99}
mosaic:
  pixfrac: 2
  per: observation
  kernel: cubic
"""
    found = faults(tmp_path, text)
    path = tmp_path / "config.yaml"
    for line, words in (
        (1, "survey: 'EGS'"), (2, "program:"), (3, "fliters: unknown key; did you mean 'filters'?"),
        (4, "observations: [0]"), (8, "references.sever: unknown key; did you mean 'server'?"),
        (9, "archive.server: 'mast'"), (9, "archive.downloads:"), (11, "mosaic.pixfrac:"), (12, "mosaic.per:"),
        (13, "mosaic.kernel:"),
    ):  # fmt: skip
        assert any(fault.startswith(f"{path}:{line}: ") and words in fault for fault in found), (words, found)
    assert any("workspace: is required and missing." in fault for fault in found)
    assert len(found) == 11


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("filters: [F200X]", "'F200X' is not a NIRCam filter; did you mean 'F200W'?"),
        ("filters: []", "expected a list of filters"),
        ("filters: [F200W, F200W]", "is listed twice"),
        ("observations: [1, 1]", "each once"),
        ("steps: []", "expected a list such as"),
        ("steps: [detector1, detector1]", "detector1 is listed twice"),
        ("steps: [{detector1: 4}]", "expected a mapping of parameters, found 4"),
        ("steps: [{a: {}, b: {}}]", "expected one step"),
        ("mosaic: {crval_deg: [400, 0]}", "not on the sky"),
        ("mosaic: {shape: [0, 5]}", "has no pixels"),
        ("mosaic: {per: [filter, filter]}", "a mosaic holds one filter"),
        ("instrument: MIRI", "NIRCAM"),
        ("archive: {server: 'http://user:secret@host'}", "without a user name"),
        ("archive: {server: 'http://[::1'}", "not a valid address of a web server"),
        ("archive: {server: 'http://\u2100.com'}", "not a valid address of a web server"),
        ("archive: {server: 'http://host:99999999'}", "not a valid address of a web server"),
        ("archive: {server: 'http://:'}", "not a valid address of a web server"),
        ("observations: [true]", "expected whole numbers"),
        ("observations: [1, 052]", "observations.1: 052: YAML reads a number with a leading zero as octal; write 52."),
        ("mosaic: {pixel_scale_arcsec: 0.0000083}", "pixel_scale_arcsec"),
        ("mosaic: {pixel_scale_arcsec: 1.0e-320}", "pixel_scale_arcsec"),
        (f"archive: {{local: {'a' * 5000}}}", "the path is too long"),
        ("archive: {local: ''}", "must not be empty"),
        ("archive: {local: '${NOT_SET_ANYWHERE}'}", "environment variable NOT_SET_ANYWHERE is not set"),
        ("mosaic: 4", "mosaic"),
    ],
)
def test_faults_say_what_is_expected(tmp_path, line, words):
    found = faults(tmp_path, SMALL + line + "\n")
    assert len(found) == 1
    assert words in found[0]
    assert ":5: " in found[0]


def test_a_step_that_stands_twice_does_not_hide_behind_other_faults(tmp_path):
    found = faults(tmp_path, SMALL + "steps: [image2, image2]\nfilters: []\n")
    assert [fault.split(": ")[1] for fault in found] == ["filters", "steps"]


def test_each_entry_of_a_list_has_its_own_line(tmp_path):
    text = SMALL + "filters:\n  - F200W\n  - F200X\n  - 4\nsteps:\n  - detector1: 4\n  - image2: 5\n"
    found = [fault.removeprefix(f"{tmp_path}/config.yaml:") for fault in faults(tmp_path, text)]
    assert [fault.split(": ")[:2] for fault in found] == [
        ["7", "filters.1"], ["8", "filters.2"], ["10", "steps.0"], ["11", "steps.1"],
    ]  # fmt: skip


def test_a_value_out_of_a_list_has_the_nearest_one(tmp_path):
    found = faults(tmp_path, SMALL + "mosaic: {kernel: squar, engine: 7}\n")
    assert "found 'squar'; did you mean 'square'?" in found[1]
    assert "expected 'stock' or 'tiled', found 7." in found[0]


def test_keys_that_stand_twice_do_not_hide_other_faults(tmp_path):
    found = faults(tmp_path, SMALL + "fliters: []\nmosaic:\n  tile: 512\n  tile: 9\nprogram: 2\n")
    path = tmp_path / "config.yaml"
    assert found[:2] == [
        f"{path}:8: mosaic.tile: is given twice; first in line 7.",
        f"{path}:9: program: is given twice; first in line 2.",
    ]
    assert len(found) == 4 and any(f"{path}:5: fliters" in fault for fault in found)


def test_what_the_pipeline_says_is_told_at_once_with_the_rest(tmp_path):
    """Step parameters are checked against the installed pipeline although other parts of the file are wrong."""
    text = SMALL.replace("jwst_1584.pmap", "latest") + (
        "archive: {sever: x}\n"
        "steps:\n"
        "  - detector1:\n"
        "      jump:\n"
        "        rejection_treshold: 4\n"
        "  - imge2\n"
        "  - {image2: {photom: 4}}\n"
        "mosaic:\n"
        "  engine: tild\n"
        "  image3:\n"
        "    resample:\n"
        "      kernel: squre\n"
    )
    with pytest.raises(ConfigError) as raised:
        load_config(write(tmp_path, text), until="drizle")
    found, path = raised.value.faults, tmp_path / "config.yaml"
    for line, words in (
        (5, "archive.sever: unknown key; did you mean 'server'?"),
        (9, "no parameter 'rejection_treshold'; did you mean 'rejection_threshold'?"),
        (10, "'imge2' is not a step of an exposure; did you mean 'image2'?"),
        (11, "'photom' is a step; expected a mapping"),
        (13, "did you mean 'tiled'?"),
        (16, "did you mean 'square'?"),
        (3, "references.context: 'latest'"),
    ):
        assert any(fault.startswith(f"{path}:{line}: ") and words in fault for fault in found), (words, found)
    assert any(fault.startswith("--until drizle") for fault in found)
    assert len(found) == 8


def test_a_config_read_from_a_file_names_lines_later_too(tmp_path):
    config = read_config(write(tmp_path, SMALL + "steps:\n- detector1: {jmp: {}}\n"))
    with pytest.raises(ConfigError, match=r"config\.yaml:6: steps\.detector1\.jmp: .*did you mean 'jump'"):
        check_config(config)
    assert config == SurveyConfig(**config.model_dump())


def test_files_that_parameters_name_are_looked_for_at_once(tmp_path):
    text = SMALL + (
        "archive: {local: nowhere}\n"
        "steps:\n"
        "  - detector1: {jump: {override_gain: gain_of_mine.fits}}\n"
        "mosaic:\n"
        "  alignment: aligned\n"
        "  image3: {tweakreg: {abs_refcat: mine.ecsv}}\n"
    )
    with pytest.raises(ConfigError) as raised:
        load_config(write(tmp_path, text))
    found = sorted(fault.removeprefix(f"{tmp_path}/config.yaml:").split(": ")[:2] for fault in raised.value.faults)
    assert found == [
        ["10", "mosaic.image3.tweakreg.abs_refcat"], ["5", "archive.local"],
        ["7", "steps.detector1.jump.override_gain"], ["9", "mosaic.alignment"],
    ]  # fmt: skip


def test_thousands_of_faults_are_told_briefly(tmp_path):
    start = time.monotonic()
    found = faults(tmp_path, SMALL + "".join(f"k{number}: {'x' * 50}\n" for number in range(5_000)))
    assert time.monotonic() - start < 30  # measured 1 s
    assert len(found) == 101 and found[-1].endswith("and 4900 more faults.")


def test_control_characters_of_a_file_reach_no_terminal(tmp_path):
    found = faults(
        tmp_path, SMALL + '"\\e[2J\\a": 1\nsteps: ["\\e[2Jx", {"\\e[2J": {}}]\narchive: {local: "a\\e[2J"}\n'
    )
    assert all(fault.isprintable() for fault in found)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty; expected a mapping such as 'survey: egs-demo'."),
        (b"- a\n- b\n", "found ['a', 'b']"),
        (b"a: [1, 2\n", "not valid YAML"),
        (b"a: 1\na: 2\n", "config.yaml:2: a: is given twice; first in line 1."),
        (b"a: &x [1]\nb: *x\n", "aliases (*name) are not accepted"),
        (b"a: !!python/object/apply:os.system ['true']\n", "not valid YAML"),
        (b"\xff\xfe\x00", "cannot be read"),
        (b"a: " + b"[" * 5000, "not valid YAML"),
        (b"# " + b"x" * 1_000_001, "expected a config"),
        (b"? [1, 2]\n: 3\n", "not valid YAML"),
        (b"1: 2\n", "unknown key"),
        (b"2022-01-01: x\n", "unknown key"),
        (b"a: 1\nb: [1, 2\nc: 3\n", "config.yaml:3: not valid YAML"),
        (b"a: 1\nb: !!python/name:os.system\n", "config.yaml:2: not valid YAML"),
        (b"survey: a\nprogram: \xe9\n", "config.yaml:2: cannot be read: it is not UTF-8"),
        (b"\x7fELF\x02\x01\x01\x00\x00" * 50, "config.yaml"),
        (b"a: 1\0\n", "config.yaml"),
        (b"a: &a [x]\nb: &b [*a, *a]\nc: &c [*b, *b]\n", "config.yaml:2: not valid YAML here: aliases"),
        (b"a: " + b"{a: " * 300 + b"1" + b"}" * 300, "more than 100 levels"),
        (b"- [" + b"[" * 990_000, "more than 100 levels"),
        (b"a: [" + b"1," * 300_000 + b"]", "more than 20000 values"),
        (b"program: " + b"9" * 5000, "not valid YAML"),
        (b'survey: "\\ud800"\nworkspace: "\\ud800"\n', "config.yaml"),
    ],
)
def test_files_that_are_no_config(tmp_path, content, words):
    path = tmp_path / "config.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as raised:
        read_config(path)
    assert words in str(raised.value)


def test_a_file_without_end_is_read_no_further(tmp_path):
    with pytest.raises(ConfigError, match="larger than"):
        read_config("/dev/zero")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_config("a\0b")


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.yaml: cannot be read"):
        read_config(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_config(tmp_path)


def test_the_workspace_can_be_replaced(tmp_path):
    path = write(tmp_path, SMALL)
    assert read_config(path, workspace="/other").workspace == Path("/other")
    path = write(tmp_path, SMALL.replace("workspace: ws\n", ""))
    assert read_config(path, workspace=tmp_path).workspace == tmp_path


def test_variables_expand_in_paths_and_servers(tmp_path, monkeypatch):
    monkeypatch.setenv("FIELD", "egs")
    monkeypatch.delenv("HOST_OF_ARCHIVE", raising=False)
    text = SMALL.replace("workspace: ws", "workspace: /data/${FIELD}/ws")
    config = read_config(write(tmp_path, text + "archive: {server: '${HOST_OF_ARCHIVE:-http://localhost:1/}'}\n"))
    assert config.workspace == Path("/data/egs/ws")
    assert config.archive.server == "http://localhost:1"
    assert expand("a${FIELD}b${NONE_SUCH:-c}") == "aegsbc"
    with pytest.raises(ValueError, match="NONE_SUCH is not set"):
        expand("${NONE_SUCH}")


def test_the_cache_defaults_to_crds_path(tmp_path, monkeypatch):
    text = SMALL.replace(", cache: /crds", "")
    monkeypatch.setenv("CRDS_PATH", "/shared/crds")
    assert read_config(write(tmp_path, text)).references.cache == Path("/shared/crds")
    monkeypatch.delenv("CRDS_PATH")
    assert "environment variable CRDS_PATH is not set" in faults(tmp_path, text)[0]


def test_every_field_is_described():
    for name, item in SurveyConfig.model_fields.items():
        section = item.annotation if isinstance(item.annotation, type) else None
        fields = getattr(section, "model_fields", None)
        for key, value in (fields or {name: item}).items():
            plain = {"instrument", "kernel", "weight"}  # their values say it
            assert value.description or key in plain, f"{name}.{key}"


@pytest.mark.parametrize(
    ("resample", "words"),
    [
        ("{crval: [.nan, 52.8]}", "finite"),
        ("{crval: [1.0e+400, -500]}", "crval"),
        ("{crval: [214.8, -500]}", "is not on the sky"),
        ("{crval: [214.8, 52.8], crpix: [.inf, 0]}", "finite"),
        ("{pixel_scale_ratio: 1.0e-9}", "pixel_scale_ratio: 1e-09: expected 0.01 to 1000"),
        ("{pixel_scale: 8.3e-6}", "pixel_scale: 8.3e-06: expected 0.001 to 10"),
    ],
)
def test_a_grid_that_no_mosaic_has_is_refused(tmp_path, resample, words):
    with pytest.raises(ConfigError) as raised:
        load_config(write(tmp_path, f"{SMALL}mosaic: {{image3: {{resample: {resample}}}}}\n"))
    assert any(words in fault and ":5: mosaic.image3.resample." in fault for fault in raised.value.faults)


def test_a_file_in_place_of_the_workspace_is_refused(tmp_path):
    path = write(tmp_path, SMALL)
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match=r"workspace: .*is no folder"):
        load_config(path, workspace=tmp_path / "file")


def keys_below(model, place=""):
    """Every key of a config's mappings, by dotted place."""
    for name, field in model.model_fields.items():
        yield f"{place}{name}", field
        below = field.annotation
        if inspect.isclass(below) and issubclass(below, BaseModel):
            yield from keys_below(below, f"{place}{name}.")


UNITS = {"seconds": "s", "hours": "h", "minutes": "min", "deg": "deg", "arcsec": "arcsec", "gb": "GB"}


def test_every_key_has_a_description_and_a_unit_where_its_name_has_one():
    found = dict(keys_below(SurveyConfig))
    assert len(found) > 35
    assert [place for place, field in found.items() if not field.description] == []
    ends = {place: UNITS.get(place.rpartition("_")[2]) for place in found}
    assert [place for place, unit in ends.items() if unit and f"[{unit}]" not in found[place].description] == []


def test_examples_of_keys_are_accepted():
    """Each example of a description, put into a sound config."""
    sound = {"survey": "x", "program": 1, "workspace": ".", "references": {"context": "jwst_0001.pmap", "cache": "."}}
    for place, field in keys_below(SurveyConfig):
        for example in field.examples or ():
            *above, name = place.split(".")
            data = copy.deepcopy(sound)
            inner = data
            for part in above:
                inner = inner.setdefault(part, {})
            inner[name] = example
            found = SurveyConfig(**data)
            for part in [*above, name]:
                found = getattr(found, part)
            assert found != field.default, place
