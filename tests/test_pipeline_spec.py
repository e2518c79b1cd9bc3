"""Parameters read from the installed pipeline's source, beside what its classes say."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from survey.config.pipeline_spec import (
    FILE_PARAMETERS,
    OUTPUT_NAMES,
    RESERVED,
    check_settings,
    missing_files,
    named_files,
    override_files,
    read_spec,
    types_in_use,
    with_files,
)
from survey.messages import nearest

PIPELINES = {
    name: f"jwst.pipeline.calwebb_{name}:{name.capitalize()}Pipeline" for name in ("detector1", "image2", "image3")
}
STRIPING = "survey.corrections.striping:SubtractStripingStep"


@pytest.fixture(scope="module")
def detector1():
    return read_spec(PIPELINES["detector1"])


def test_a_pipeline_its_steps_and_their_parameters(detector1):
    assert detector1.class_name == "Detector1Pipeline"
    assert {"dq_init", "saturation", "superbias", "linearity", "dark_current", "jump", "ramp_fit"} <= set(
        detector1.steps
    )
    jump = detector1.steps["jump"]
    assert jump.path == "jwst.jump.jump_step:JumpStep"
    assert jump.parameters["rejection_threshold"].startswith("float(default=4.0")
    assert "skip" in jump.parameters  # of all steps
    assert set(jump.reference_types) == {"gain", "readnoise"}
    assert "override_gain" in jump.parameters
    assert "pars-jumpstep" in detector1.pars_types
    assert {"gain", "dark", "mask"} <= set(detector1.all_reference_types)


def test_the_projects_own_step():
    spec = read_spec(STRIPING)
    assert spec.alias == "subtract_striping"
    assert {"n_sigma", "grow", "min_pixels", "skip", "override_flat"} <= set(spec.parameters)
    assert spec.reference_types == ("flat",)


def test_what_is_not_installed_is_an_error():
    with pytest.raises(LookupError, match="no_such_package"):
        read_spec("no_such_package.x:Y")
    with pytest.raises(LookupError, match="no such class"):
        read_spec("jwst.jump.jump_step:NoStep")
    with pytest.raises(LookupError, match=r"jwst\.jump\.nothing"):
        read_spec("jwst.jump.nothing:X")


def test_values_become_what_the_pipeline_will_see(detector1):
    given = {"jump": {"rejection_threshold": "5", "skip": "False"}, "save_calibrated_ramp": True}
    clean, faults = check_settings(detector1, given, "steps.detector1")
    assert faults == []
    assert clean == {"jump": {"rejection_threshold": 5.0, "skip": False}, "save_calibrated_ramp": True}
    assert check_settings(detector1, {}, "x") == ({}, [])
    assert check_settings(detector1, {"jump": {"rejection_threshold": None}}, "x")[1] == []


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"jump": {"rejection_treshold": 4}}, "no parameter 'rejection_treshold'; did you mean 'rejection_threshold'?"),
        ({"jmp": {}}, "did you mean 'jump'?"),
        ({"jump": 4}, "'jump' is a step; expected a mapping"),
        ({"jump": {"rejection_threshold": "many"}}, "rejection_threshold = 'many' does not match float"),
        ({"jump": {"rejection_threshold": -4}}, "does not match"),
        ({"jump": {"skip": "perhaps"}}, "does not match"),
        ({"output_dir": "/tmp"}, "set by survey"),
        ({"jump": {"suffix": "x"}}, "set by survey"),
        ({"jump": {"override_gain": 4}}, "does not match"),
    ],
)  # fmt: skip
def test_faults_name_the_place_the_value_and_what_is_known(detector1, settings, words):
    _, faults = check_settings(detector1, settings, "steps.detector1")
    assert len(faults) == 1
    assert faults[0].startswith("steps.detector1")
    assert words in faults[0]


def test_all_faults_are_found_at_once(detector1):
    settings = {"jump": {"a": 1, "rejection_threshold": "x"}, "ramp_fit": {"b": 2}, "zzz": 1}
    assert len(check_settings(detector1, settings, "x")[1]) == 4


def test_skipped_steps_read_no_references(detector1):
    default = types_in_use(detector1, {})
    assert {"dark", "pars-darkcurrentstep", "pars-detector1pipeline"} <= set(default)
    assert "flat" not in default  # of clean_flicker_noise, skipped by default
    without = types_in_use(detector1, {"dark_current": {"skip": True}})
    assert "dark" not in without
    assert "pars-darkcurrentstep" in without  # read before skip is known
    assert "flat" in types_in_use(detector1, {"clean_flicker_noise": {"skip": False}})
    assert "flat" in types_in_use(detector1, {}, pars={"pars-cleanflickernoisestep"})  # CRDS may switch it on
    assert list(default) == sorted(set(default))


def test_override_files_at_any_depth():
    settings = {"detector1": {"jump": {"override_gain": "/b.fits"}, "dark_current": {"override_dark": "N/A"}},
                "image2": {"flat_field": {"override_flat": "/a.fits", "skip": False}}}  # fmt: skip
    assert override_files(settings) == ["/a.fits", "/b.fits"]


def test_every_parameter_that_names_files_is_known():
    settings = {"image2": {"flat_field": {"user_supplied_flat": "f.fits"}, "bkg_subtract": {"bkg_list": ["b1", "b2"]}},
                "detector1": {"clean_flicker_noise": {"user_mask": "m.fits", "fit_method": "median"},
                              "dq_init": {"user_supplied_dq": "d.fits"}, "emicorr": {"user_supplied_reffile": None},
                              "persistence": {"persistence_array_file": "p.asdf"}}}  # fmt: skip
    assert override_files(settings) == ["b1", "b2", "d.fits", "f.fits", "m.fits", "p.asdf"]
    moved = with_files(settings, lambda path: f"/data/{path}")
    assert override_files(moved) == [f"/data/{path}" for path in ("b1", "b2", "d.fits", "f.fits", "m.fits", "p.asdf")]
    assert moved["detector1"]["clean_flicker_noise"]["fit_method"] == "median"
    faults = missing_files(settings, "steps")
    assert "steps.image2.bkg_subtract.bkg_list: 'b2': not found." in faults
    assert len(faults) == 6


# Parameters with a text that is no file: choices, numbers and names of bits, written as text.
NO_FILES = frozenset(
    {"dqbits", "fillval", "good_bits", "kernel_size", "maximum_cores", "scale", "snr", "source_type", "skip"}
)
NUMBERS = ("boolean", "integer", "float", "option", "float_list", "int_list")


def text_parameters(spec):
    """Parameters of a class and its steps whose value can be a text."""
    found = {name: check for name, check in spec.parameters.items() if check.partition("(")[0] not in NUMBERS}
    for step in spec.steps.values():
        found |= text_parameters(step)
    return found


def test_every_text_parameter_of_the_installed_pipeline_is_known_to_be_a_file_or_not():
    """A file that is not known as one would be read without being part of any digest."""
    from survey.steps.registry import REGISTRY

    classes = set(PIPELINES.values())
    classes |= {step.step_class for step in REGISTRY.values() if step.step_class}
    found = {name: check for path in classes for name, check in text_parameters(read_spec(path)).items()}
    assert {"abs_refcat", "bkg_list", "user_supplied_flat", "override_flat"} <= set(found)
    known = FILE_PARAMETERS | NO_FILES | RESERVED | OUTPUT_NAMES
    assert [name for name in sorted(found) if name not in known and not name.startswith("override_")] == []
    assert sorted(FILE_PARAMETERS - set(found)) == ["alignment", "user_background"]  # a key; of another version


def test_only_the_names_of_catalogues_are_no_files():
    for value in ("GAIADR3", " gaiadr2 "):
        assert named_files("abs_refcat", value) == []
    for value in ("gaia_mine.ecsv", "GAIADR3.ecsv", "GAIADR9", "/data/GAIADR3"):
        assert named_files("abs_refcat", value) == [value]
    assert named_files("user_mask", "GAIADR3") == ["GAIADR3"]


def test_nearest():
    assert nearest("jmp", ["jump", "ramp_fit"]) == "; did you mean 'jump'?"
    assert nearest("qqqq", ["jump", "ramp_fit"]) == "; known: jump, ramp_fit."


def test_reading_imports_nothing_of_the_pipeline():
    code = f"""
import sys
from survey.config.pipeline_spec import read_spec
for path in {list(PIPELINES.values())!r}: read_spec(path)
print([name for name in sys.modules if name.split('.')[0] in ('jwst', 'stpipe', 'stcal', 'astropy', 'numpy')])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


IMPORTED = """
import importlib, json, sys
def facts(cls):
    spec, types = cls.load_spec_file(), cls.reference_file_types
    own = {name: str(check) for name, check in spec.items() if name != "steps"}
    return {
        "class": cls.__name__, "alias": cls.class_alias, "parameters": sorted(own), "checks": own,
        "types": [] if isinstance(types, property) else sorted(types),
        "steps": {name: facts(step) for name, step in (getattr(cls, "step_defs", None) or {}).items()},
    }
found = {}
for path in json.loads(sys.argv[1]):
    module, _, name = path.partition(":")
    found[path] = facts(getattr(importlib.import_module(module), name))
print(json.dumps(found))
"""


def facts(spec) -> dict:
    return {"class": spec.class_name, "alias": spec.alias, "parameters": sorted(spec.parameters),
            "steps": {name: facts(step) for name, step in spec.steps.items()}, "checks": dict(spec.parameters),
            "types": sorted(spec.reference_types)}  # fmt: skip


@pytest.mark.pipeline
def test_what_is_read_is_what_the_imported_classes_say(tmp_path):
    """Parameters, their checks, class names, aliases and reference types of all three pipelines and every step."""
    paths = [*PIPELINES.values(), STRIPING]
    environment = {**os.environ, "CRDS_PATH": str(tmp_path), "USER": "survey"}
    done = subprocess.run(
        [sys.executable, "-c", IMPORTED, json.dumps(paths)], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    imported = json.loads(done.stdout.splitlines()[-1])
    for path in paths:
        assert_same(facts(read_spec(path)), imported[path], path)
    assert len(imported[PIPELINES["detector1"]]["steps"]) > 15


def assert_same(read: dict, imported: dict, where: str) -> None:
    assert read["class"] == imported["class"], where
    assert read["alias"] == imported["alias"], where
    assert read["types"] == imported["types"], where
    known = set(imported["parameters"])
    assert set(read["parameters"]) - RESERVED == known - RESERVED, where
    for name in known - RESERVED:
        assert squeezed(read["checks"][name]) == squeezed(imported["checks"][name]), f"{where}.{name}"
    assert set(read["steps"]) == set(imported["steps"]), where
    for name, step in read["steps"].items():
        assert_same(step, imported["steps"][name], f"{where}.{name}")


def squeezed(text: str) -> str:
    return "".join(text.split()).replace('"', "'")


def test_an_overridden_type_is_not_looked_up():
    spec = read_spec("jwst.pipeline.calwebb_detector1:Detector1Pipeline")
    assert "dark" in types_in_use(spec, {})
    assert "dark" not in types_in_use(spec, {"dark_current": {"override_dark": "/x/dark.fits"}})


@pytest.mark.parametrize("settings", [{"save_results": True}, {"skip": True}])
def test_what_survey_sets_itself_is_refused_of_a_whole_task(settings):
    spec = read_spec("jwst.pipeline.calwebb_detector1:Detector1Pipeline")
    assert "set by survey" in check_settings(spec, settings, "x")[1][0]
    assert check_settings(spec, {"jump": settings}, "x")[1] == []


@pytest.mark.parametrize("value", [float("inf"), float("nan"), 10**400])
def test_numbers_that_are_not_finite_are_refused(value):
    spec = read_spec("jwst.pipeline.calwebb_detector1:Detector1Pipeline")
    assert check_settings(spec, {"jump": {"rejection_threshold": value}}, "x")[1]
