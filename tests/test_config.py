"""The config file: every fault at once, each with its line and what is expected."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from survey.config import SurveyConfig, load_config, resolved
from survey.errors import ConfigError
from survey.sections import expand

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
        load_config(write(tmp_path, text))
    assert raised.value.exit_code == 2
    return raised.value.faults


def test_a_small_config_and_its_defaults(tmp_path):
    config = load_config(write(tmp_path, SMALL))
    assert (config.survey, config.program, config.observations, config.filters) == ("egs", 1345, None, None)
    assert config.workspace == Path("ws")
    assert [step.name for step in config.steps] == ["detector1", "image2"]
    assert config.archive.server == "https://mast.stsci.edu"
    assert config.mosaic.engine == "tiled"
    assert config.mosaic.grid == {}
    assert config.mosaic.max_missing == 0


def test_resolved_is_json_and_reads_back(tmp_path):
    config = load_config(write(tmp_path, SMALL + "mosaic: {crval_deg: [214.8, 52.8], shape: [10, 20]}\n"))
    facts = resolved(config)
    assert facts["mosaic"]["kernel"] is None
    assert facts["mosaic"]["shape"] == [10, 20]
    assert yaml.safe_load(yaml.safe_dump(facts)) == facts
    assert SurveyConfig(**{**facts, "steps": config.steps}) == config


@pytest.mark.parametrize("name", ["demo", "ceers"])
def test_the_configs_that_come_along(name, monkeypatch):
    monkeypatch.setenv("CRDS_PATH", "/crds")
    config = load_config(CONFIGS / f"{name}.yaml")
    assert config.program == 1345
    from survey.planning import check

    assert check(config)[2] == []


def test_the_ceers_grid(monkeypatch):
    monkeypatch.setenv("CRDS_PATH", "/crds")
    config = load_config(CONFIGS / "ceers.yaml")
    assert set(config.filters) == {"F115W", "F150W", "F200W", "F277W", "F356W", "F410M", "F444W"}
    mosaic = config.mosaic
    assert (mosaic.pixel_scale_arcsec, mosaic.rotation_deg) == (0.03, -49.7)
    assert (mosaic.crval_deg, mosaic.crpix, mosaic.shape) == ((214.825, 52.825), (31584.5, 9043.5), (46200, 15400))


def test_the_grid_in_the_words_of_resample(tmp_path):
    text = SMALL + (
        "mosaic: {pixel_scale_arcsec: 0.03, crval_deg: [214.825, 52.825], crpix: [1.5, 2.5], rotation_deg: -49.7,"
        " shape: [30, 20], pixfrac: 0.8, kernel: square, weight: ivm}\n"
    )
    assert load_config(write(tmp_path, text)).mosaic.grid == {
        "pixel_scale": 0.03, "crval": [214.825, 52.825], "crpix": [1.5, 2.5], "rotation": -49.7,
        "output_shape": [30, 20], "pixfrac": 0.8, "kernel": "square", "weight_type": "ivm",
    }  # fmt: skip


def test_steps_in_all_their_forms(tmp_path):
    text = SMALL + "steps:\n  - detector1\n  - subtract_striping:\n  - image2: {photom: {skip: true}}\n"
    config = load_config(write(tmp_path, text))
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
        ("filters: [F200W, F200W]", "stands twice"),
        ("observations: [1, 1]", "each once"),
        ("steps: []", "expected a list such as"),
        ("steps: [detector1, detector1]", "detector1 stands twice"),
        ("steps: [{detector1: 4}]", "expected a mapping of parameters, found 4"),
        ("steps: [{a: {}, b: {}}]", "expected one step"),
        ("steps: [{detector1: 4}, {image2: 5}]", "expected a mapping of parameters, found 5"),
        ("mosaic: {crval_deg: [400, 0]}", "not on the sky"),
        ("mosaic: {shape: [0, 5]}", "has no pixels"),
        ("mosaic: {per: [filter, filter]}", "a mosaic holds one filter"),
        ("instrument: MIRI", "NIRCAM"),
        ("archive: {server: 'http://user:secret@host'}", "without a user name"),
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


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "expected a mapping"),
        (b"- a\n- b\n", "found list"),
        (b"a: [1, 2\n", "not valid YAML"),
        (b"a: 1\na: 2\n", "line 2: key 'a' stands twice"),
        (b"a: &x [1]\nb: *x\n", "aliases (*name) are not accepted"),
        (b"a: !!python/object/apply:os.system ['true']\n", "not valid YAML"),
        (b"\xff\xfe\x00", "cannot be read"),
        (b"a: " + b"[" * 5000, "not valid YAML"),
        (b"# " + b"x" * 1_000_001, "this is not a config"),
        (b"? [1, 2]\n: 3\n", "not valid YAML"),
        (b"1: 2\n", "unknown key"),
        (b"2022-01-01: x\n", "unknown key"),
    ],
)
def test_files_that_are_no_config(tmp_path, content, words):
    path = tmp_path / "config.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as raised:
        load_config(path)
    assert words in str(raised.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.yaml: cannot be read"):
        load_config(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path)


def test_the_workspace_can_be_replaced(tmp_path):
    path = write(tmp_path, SMALL)
    assert load_config(path, workspace="/other").workspace == Path("/other")
    path = write(tmp_path, SMALL.replace("workspace: ws\n", ""))
    assert load_config(path, workspace=tmp_path).workspace == tmp_path


def test_variables_expand_in_paths_and_servers(tmp_path, monkeypatch):
    monkeypatch.setenv("FIELD", "egs")
    monkeypatch.delenv("HOST_OF_ARCHIVE", raising=False)
    text = SMALL.replace("workspace: ws", "workspace: /data/${FIELD}/ws")
    config = load_config(write(tmp_path, text + "archive: {server: '${HOST_OF_ARCHIVE:-http://localhost:1/}'}\n"))
    assert config.workspace == Path("/data/egs/ws")
    assert config.archive.server == "http://localhost:1"
    assert expand("a${FIELD}b${NONE_SUCH:-c}") == "aegsbc"
    with pytest.raises(ValueError, match="NONE_SUCH is not set"):
        expand("${NONE_SUCH}")


def test_the_cache_defaults_to_crds_path(tmp_path, monkeypatch):
    text = SMALL.replace(", cache: /crds", "")
    monkeypatch.setenv("CRDS_PATH", "/shared/crds")
    assert load_config(write(tmp_path, text)).references.cache == Path("/shared/crds")
    monkeypatch.delenv("CRDS_PATH")
    assert "environment variable CRDS_PATH is not set" in faults(tmp_path, text)[0]


def test_every_field_is_described():
    for name, item in SurveyConfig.model_fields.items():
        section = item.annotation if isinstance(item.annotation, type) else None
        fields = getattr(section, "model_fields", None)
        for key, value in (fields or {name: item}).items():
            plain = {"instrument", "kernel", "weight"}  # their values say it
            assert value.description or key in plain, f"{name}.{key}"
