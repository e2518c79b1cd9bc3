"""Steps of other packages in a config: what is checked before the run, and what enters the digests."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from foreign_package import COMPUTED, STEPS, forget, install, use
from stub_steps import exposure

from survey.config import probes
from survey.config.code_versions import code_versions
from survey.config.hooks import parse_hook
from survey.config.model import SurveyConfig
from survey.config.probes import probe
from survey.errors import ConfigError
from survey.planning.planner import plan
from survey.planning.recipe import recipe_of
from survey.steps.registry import row_for, row_of

HOOK = "tiny.steps:double"


NAMES = (
    "ScaleStep NoStep NotAStep StackStep RampOnlyStep EmptyStep WrongSpecStep OwnSuffixStep TakenSuffixStep NoAliasStep"
)
ASKED = [f"tiny.steps:{name}" for name in [*NAMES.split(), "number", "double"]]
ASKED += [name.replace(":", ".") for name in ASKED] + ["tiny.nowhere:X", "no_such_package.x:Y"]


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A cache folder, and answers about the package, which one process gives to all tests."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        use(patch, install(tmp_path_factory.mktemp("site")))
        probes.probe_all(ASKED)
        answers = dict(probes._found)
    forget()
    return folder, answers


@pytest.fixture
def tiny(tmp_path, monkeypatch, kept):
    """The package on the search path."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(kept[0]))
    folder = install(tmp_path / "site")
    use(monkeypatch, folder)
    probes._found.update(kept[1])
    yield folder
    forget()


def config(tmp_path, steps, **more) -> SurveyConfig:
    references = {"context": "jwst_0001.pmap", "cache": tmp_path, "server": None}
    return SurveyConfig(survey="t", program=1345, workspace=tmp_path, references=references, steps=steps, **more)


def faults(tmp_path, steps, **more) -> str:
    with pytest.raises(ConfigError) as caught:
        recipe_of(config(tmp_path, steps, **more))
    return "\n".join(caught.value.faults)


CHAIN = ["detector1", {"tiny_scale": {"factor": "2"}}, "image2"]


def test_a_registered_step_stands_between_the_stages_under_its_own_suffix(tiny, tmp_path):
    recipe = recipe_of(config(tmp_path, CHAIN))
    assert list(recipe.chain) == ["detector1", "tiny_scale", "image2"]
    facts = {"path": "tiny.steps:ScaleStep", "accepts": "rate", "suffix": "tiny-scale"}
    assert recipe.chain["tiny_scale"] == {"class": facts, "factor": 2.0}
    row = row_for("tiny_scale", recipe.chain["tiny_scale"])
    assert row.path("jw01") == "stage1/jw01_tiny-scale.fits"
    assert recipe.makes_mosaics
    assert row.reference_types(recipe.chain["tiny_scale"]) == ("flat",)
    tasks = {task.step: task for task in plan(config(tmp_path, CHAIN), [exposure(1)])}
    assert tasks["image2"].inputs == ("tiny_scale/" + exposure(1).name,)
    assert row_of(tasks["tiny_scale"]) == row


@pytest.mark.parametrize("name", ["tiny.steps.ScaleStep", "tiny.steps:ScaleStep", "ScaleStep", "tiny::tiny_scale"])
def test_other_names_of_the_same_step(name, tiny, tmp_path):
    assert recipe_of(config(tmp_path, ["detector1", name])).chain.keys() == {"detector1", "tiny_scale"}


def test_after_image2_its_product_is_the_member_of_a_mosaic(tiny, tmp_path):
    chosen = config(tmp_path, ["detector1", "image2", "tiny_scale"])
    made = plan(chosen, [exposure(1), exposure(2)])
    row = row_of(next(task for task in made if task.step == "tiny_scale"))
    assert row.makes_members and row.path("x") == "stage2/x_tiny-scale.fits"
    asn = next(task for task in made if task.step == "association")
    assert set(asn.inputs) == {f"tiny_scale/{exposure(number).name}" for number in (1, 2)}
    (sources, _) = [task for task in made if task.step == "sources"]
    assert sources.inputs[0].startswith("tiny_scale/")


def test_digests_depend_on_code_and_parameters_and_others_do_not(tiny, tmp_path, monkeypatch):
    def digests(steps):
        tasks = plan(config(tmp_path, steps), [exposure(1)])
        return {task.step: (task.versions, dict(task.settings)) for task in tasks}

    before = digests(CHAIN)
    assert set(before["detector1"][0]) == {"jwst", "stcal", "crds"}
    version = before["tiny_scale"][0]["tiny"]
    assert version.startswith("0.1 sha256:")  # it has no list of installed files: its source counts
    (tiny / "tiny" / "steps.py").write_text(STEPS + "\n# changed\n")
    forget()
    after = digests(CHAIN)
    assert after["tiny_scale"][0]["tiny"] not in (version, "0.1")
    assert after["detector1"] == before["detector1"] and after["image2"] == before["image2"]
    hooked = digests([{"detector1": {"jump": {"post_hooks": [HOOK]}}}, "image2"])
    assert hooked["detector1"][0]["tiny"] == after["tiny_scale"][0]["tiny"]
    assert "tiny" not in hooked["image2"][0]


def test_a_version_stands_for_an_installed_package(tmp_path, monkeypatch):
    use(monkeypatch, install(tmp_path / "site", record="tiny/__init__.py,,\n", version="2.5"))
    assert code_versions(["tiny.steps"]) == {"tiny": "2.5"}
    (tmp_path / "loose").mkdir()
    (tmp_path / "loose" / "single.py").write_text("x = 1\n")
    use(monkeypatch, tmp_path / "loose")
    ((name, first),) = code_versions(["single"]).items()
    assert name == "single" and first.startswith("sha256:")
    (tmp_path / "loose" / "single.py").write_text("x = 2\n")
    assert code_versions(["single"]) != {"single": first}
    assert code_versions(["no_such_module_anywhere"]) == {"no_such_module_anywhere": "not found"}
    forget()


def test_a_package_in_development_mode_counts_with_its_source(tmp_path, monkeypatch):
    folder = install(tmp_path / "site", record="tiny/__init__.py,,\n")
    origin = folder / "tiny-0.1.dist-info" / "direct_url.json"
    origin.write_text('{"url": "file:///x", "dir_info": {"editable": true}}')
    use(monkeypatch, folder)
    assert code_versions(["tiny"])["tiny"].startswith("0.1 sha256:")
    forget()


def test_the_current_folder_is_no_place_for_steps(tmp_path, monkeypatch):
    (tmp_path / "mysteps.py").write_text(STEPS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend("")
    assert code_versions(["mysteps"]) == {"mysteps": "not found"}
    said = faults(tmp_path, ["detector1", "mysteps.ScaleStep"])
    assert "package 'mysteps' is not installed. mysteps.py in the current folder is not used" in said
    assert "PYTHONPATH" in said


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        (["detector1", "tiny.steps.NoStep"], "module 'tiny.steps' has no 'NoStep'; its Steps: Step, ScaleStep"),
        (["detector1", "tiny.steps.NotAStep"], "class 'tiny.steps.NotAStep' is no subclass of stpipe.Step"),
        (["detector1", "tiny.steps:number"], "'tiny.steps:number' is of type int; expected a subclass"),
        (["detector1", "tiny.steps:EmptyStep"], "has no method 'process'"),
        (["detector1", "tiny.steps:WrongSpecStep"], "cannot be read: ValueError: factor = flot(default=1)"),
        (["detector1", "tiny.nowhere:X"], "importing 'tiny.nowhere' failed: ModuleNotFoundError"),
        (["detector1", "no_such_package.x:Y"], "package 'no_such_package' is not installed."),
        (["detector1", HOOK], "is a function; a step is a class. A function can be a hook"),
        (["detector1", "tiny_stack"], "tiny.steps:StackStep works on an association of exposures"),
        (["detector1", "tiny.steps:RampOnlyStep"], "works on ramps, which exist inside of detector1 only"),
        (["tiny_scale", "detector1"], "it accepts rate or cal, got uncal. Add 'detector1' before it"),
        (["detector1", "tiny_scale", "tiny.steps:ScaleStep"], "tiny.steps:ScaleStep is in steps twice"),
        (["detector1", "tiny_skale"], "'tiny_skale' is not a step of an exposure; did you mean 'tiny_scale'?"),
        (["detector1", {"tiny_scale": {"factr": 1}}], "ScaleStep has no parameter 'factr'; did you mean 'factor'?"),
        (["detector1", {"tiny_scale": {"factor": -1}}], "factor = -1 does not match float(default=1.0, min=0.0)"),
        (["detector1", {"tiny_scale": {"output_dir": "x"}}], "'output_dir' is set by survey"),
        (["detector1", {"tiny_scale": {"class": "x"}}], "'class' is set by survey"),
        (["detector1", {"tiny_scale": {"suffix": "rate"}}], "would have the suffix 'rate', as step 'detector1'"),
        (["detector1", {"tiny_scale": {"suffix": "Not_ok"}}], "suffix 'Not_ok': expected lower-case letters"),
        (["detector1", {"tiny_scale": {"template": "/no/such/file"}}], "template: '/no/such/file': not found"),
    ],
)  # fmt: skip
def test_what_cannot_be_a_step_is_named_before_the_run(steps, said, tiny, tmp_path):
    from survey.planning.recipe import path_faults

    chosen = config(tmp_path, steps)
    try:
        recipe_of(chosen)
        found = "\n".join(path_faults(chosen))
    except ConfigError as error:
        found = "\n".join(error.faults)
    assert said in found


@pytest.mark.parametrize(
    "name",
    [
        ".",
        "..",
        ":",
        ".x",
        "x.",
        "a..b",
        "a:b:c",
        "\0.x",
        "1.2",
        "../x.Y",
        "x" * 5000 + ".y",
        "a b.c",
        "\ud800.x",
        "\u00e9.X",
        "::",
        "a::b",
    ],
)
def test_a_name_that_is_none_is_refused_and_no_process_started(name, tmp_path, monkeypatch):
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("a process was started"))
    with pytest.raises(LookupError):
        probe(name)
    assert "is not a step of an exposure" in faults(tmp_path, ["detector1", name])


@pytest.mark.parametrize(
    ("hook", "said"),
    [
        ("tiny.steps.NoStep", "has no 'NoStep'"),
        ("tiny.steps:StackStep", "works on an association of exposures; this step has one exposure"),
        ("fitsverify --all", "a command of the shell cannot be a hook"),
        ("echo", "no installed package registers a Step 'echo'"),
        ("tiny.steps.ScaleStep(factr=2)", "ScaleStep has no parameter 'factr'; did you mean 'factor'?"),
        ("tiny.steps.ScaleStep(2)", "expected parameters as in 'Step(name=1.5)'"),
        ({"tiny_scale": {"skip": True}}, "'skip' of a hook is set by the step that it belongs to"),
        ({HOOK: {"a": 1}}, "function tiny.steps:double takes no parameters"),
        (7, "7: expected a Step or function"),
    ],
)
def test_what_cannot_be_a_hook_is_named_before_the_run(hook, said, tiny, tmp_path):
    found = faults(tmp_path, [{"detector1": {"jump": {"post_hooks": [hook]}}}, "image2"])
    assert found.startswith("steps.detector1.jump.post_hooks") and said in found


def test_hooks_are_kept_by_class_and_parameters(tiny, tmp_path):
    hooks = ["tiny.steps.ScaleStep(factor=1.5)", {"tiny_scale": {"factor": 2}}, "tiny.steps.double", "tiny_scale"]
    chosen = config(
        tmp_path, [{"detector1": {"jump": {"post_hooks": hooks}}}, {"image2": {"photom": {"pre_hooks": HOOK}}}]
    )
    chain = recipe_of(chosen).chain
    path = "tiny.steps:ScaleStep"
    assert chain["detector1"]["jump"]["post_hooks"] == [{path: {"factor": 1.5}}, {path: {"factor": 2.0}}, HOOK, path]
    assert chain["image2"]["photom"]["pre_hooks"] == [HOOK]
    assert "flat" in row_for("detector1", chain["detector1"]).reference_types(chain["detector1"])  # of the hook
    assert parse_hook(" a.B( x = 'y(z)' ) ") == ("a.B", {"x": "y(z)"})


def test_a_class_can_be_given_in_place_of_its_name(tiny, tmp_path):
    import tiny.steps as steps  # type: ignore[import-not-found]

    chosen = config(tmp_path, [{"detector1": {"jump": {"post_hooks": [steps.ScaleStep]}}}, steps.ScaleStep])
    assert recipe_of(chosen).chain["detector1"]["jump"]["post_hooks"] == ["tiny.steps:ScaleStep"]

    class Local:
        pass

    with pytest.raises(ValueError, match="Local is defined inside of a function, from which tasks cannot import it"):
        config(tmp_path, [{"detector1": {"jump": {"post_hooks": [Local]}}}])


def test_hooks_of_image3_need_the_stock_engine(tiny, tmp_path):
    hooked = {"image3": {"tweakreg": {"pre_hooks": ["tiny.steps:StackStep"]}}}
    said = faults(tmp_path, ["detector1", "image2"], mosaic=hooked)
    assert "mosaic.image3.tweakreg.pre_hooks: the tiled engine does the steps of Image3 in parts" in said
    assert "engine: stock" in said
    recipe = recipe_of(config(tmp_path, ["detector1", "image2"], mosaic={**hooked, "engine": "stock"}))
    assert recipe.image3["tweakreg"]["pre_hooks"] == ["tiny.steps:StackStep"]
    assert recipe.packages.keys() == {"image3"}


def test_suffixes_of_two_steps_differ(tiny, tmp_path):
    own = recipe_of(config(tmp_path, ["detector1", "tiny.steps:OwnSuffixStep", "tiny.steps:NoAliasStep"])).chain
    assert own["own"]["class"]["suffix"] == "mysky"  # the default of its spec
    assert own["no_alias_step"]["class"]["suffix"] == "no-alias-step"  # from the name of its class
    both = ["detector1", "tiny.steps:OwnSuffixStep", "taken"]
    chain = recipe_of(config(tmp_path, both)).chain
    assert chain["taken"]["class"]["suffix"] == "taken"  # 'mysky' is in use
    third = recipe_of(config(tmp_path, [*both[:2], {"taken": {"suffix": "third"}}])).chain
    assert third["taken"]["class"]["suffix"] == "third"


def test_an_alias_of_two_packages_is_ambiguous(tiny, tmp_path, monkeypatch):
    listed = 'def steps():\n    return [("other.steps.MyStep", "tiny_scale", False)]\n'
    use(monkeypatch, install(tmp_path / "more", "other", {"__init__.py": "", "a.py": listed}, "other.a:steps"))
    said = faults(tmp_path, ["detector1", "tiny_scale"])
    assert "'tiny_scale' is registered by" in said
    assert "tiny (tiny.steps.ScaleStep)" in said and "other (other.steps.MyStep)" in said
    assert "write the class that is meant, such as '" in said
    assert recipe_of(config(tmp_path, ["detector1", "tiny::tiny_scale"])).chain.keys() == {"detector1", "tiny_scale"}


def test_an_entry_point_that_computes_its_list_is_called_in_a_child(tiny, tmp_path, monkeypatch):
    files = {"__init__.py": "", "listed.py": COMPUTED.replace("tiny.", "tiny.")}
    use(monkeypatch, install(tmp_path / "more", "other", files, "other.listed:steps"))
    assert probe("noaliasstep").path == "tiny.steps:NoAliasStep"
    assert "other" not in sys.modules


def test_an_entry_point_that_fails_is_named_for_a_name_that_may_be_its(tiny, tmp_path, monkeypatch):
    files = {"__init__.py": "import no_such_module_either\n", "listed.py": COMPUTED}
    use(monkeypatch, install(tmp_path / "more", "broken", files, "broken.listed:steps"))
    said = faults(tmp_path, ["detector1", "unheard_of"])
    assert "the entry point of package broken cannot be used" in said and "no_such_module_either" in said
    assert recipe_of(config(tmp_path, CHAIN))  # others are not affected


def test_files_that_parameters_name_enter_digests(tiny, tmp_path):
    from survey.reduction.inputs import override_digests

    (tmp_path / "wisps.fits").write_bytes(b"1")
    chosen = config(tmp_path, ["detector1", {"tiny_scale": {"template": str(tmp_path / "wisps.fits")}}])
    ((path, first),) = override_digests(chosen).items()
    assert path == str(tmp_path / "wisps.fits")
    (tmp_path / "wisps.fits").write_bytes(b"2")
    assert override_digests(chosen)[path] != first
    folder = config(tmp_path, ["detector1", {"tiny_scale": {"template": str(tiny)}}])
    assert override_digests(folder).keys() == {str(tiny)}


def test_a_fault_names_the_line_of_a_step_with_a_dotted_name(tiny, tmp_path):
    import survey

    path = tmp_path / "c.yaml"
    path.write_text(
        "survey: t\nprogram: 1345\nreferences: {server: null, context: jwst_0001.pmap, cache: .}\nworkspace: ws\n"
        "steps:\n  - detector1: {}\n  - tiny.steps.ScaleStep:\n      factor: 1\n      factr: 1\n"
    )
    with pytest.raises(ConfigError, match=r"c.yaml:9: steps.tiny.steps.ScaleStep.factr: ScaleStep has no parameter"):
        survey.load_config(path)


def test_planning_imports_neither_the_package_nor_the_pipeline(tiny, tmp_path):
    code = (
        "import sys; from survey.config.model import SurveyConfig; from survey.planning.recipe import recipe_of\n"
        f"c = SurveyConfig(survey='t', program=1, workspace='/', steps={CHAIN!r},"
        " references={'context': 'jwst_0001.pmap', 'cache': '/', 'server': None})\n"
        "recipe_of(c); print(sorted({'tiny', 'jwst', 'stpipe'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout == "[]\n"


def test_answers_are_kept_and_an_unusable_cache_is_no_fault(tiny, tmp_path, monkeypatch, kept):
    kept = kept[0]
    assert list(kept.rglob("*.json"))
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("asked again"))
    forget()
    assert probe("tiny_scale").path == "tiny.steps:ScaleStep"
    for path in kept.rglob("*.json"):
        path.write_text("{}")
    monkeypatch.undo()
    shutil.rmtree(kept / "jwst-survey")
    Path(kept / "jwst-survey").write_text("a file")
    monkeypatch.setenv("XDG_CACHE_HOME", str(kept))
    use(monkeypatch, tiny)
    assert probe("tiny_scale").path == "tiny.steps:ScaleStep"
    (kept / "jwst-survey").unlink()
