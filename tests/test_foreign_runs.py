"""Steps and hooks of another package as a task runs them: their pixels, and what is said of those that misbehave."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import numpy as np
import pytest
from foreign_package import forget, install, use

from survey.errors import TaskError
from survey.steps.base import CLASS, Job
from survey.steps.exposure import run
from survey.steps.foreign import foreign_row
from survey.steps.foreign_code import add_hooks

pytestmark = pytest.mark.pipeline
NAME = "jw01345001001_02201_00001_nrcb1"


@pytest.fixture(scope="module", autouse=True)
def tiny(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        use(patch, install(tmp_path_factory.mktemp("site")))
        from stpipe import crds_client

        patch.setattr(crds_client, "get_reference_file", lambda *_: "N/A")
        yield
    forget()


@pytest.fixture
def image(tmp_path):
    from stdatamodels.jwst import datamodels

    model = datamodels.ImageModel(data=np.arange(256, dtype=np.float32).reshape(16, 16))
    model.dq = np.zeros((16, 16), np.uint32)
    model.meta.instrument.name = "NIRCAM"
    model.save(tmp_path / f"{NAME}_rate.fits")
    return tmp_path / f"{NAME}_rate.fits"


def step_of(name: str, image, tmp_path, **settings):
    """Run a Step on the image; returns the outcome and the folder of the job."""
    facts = {"path": f"tiny.live:{name}", "accepts": "rate", "suffix": "tiny-add"}
    folder = tmp_path / "job"
    folder.mkdir()
    job = Job(
        f"tiny_add/{NAME}", "tiny_add", NAME, "d" * 64, "t", (str(image),), str(folder), {CLASS: facts, **settings}
    )
    return run(job, foreign_row("tiny_add", facts)), folder


def pixels(folder):
    from astropy.io import fits

    return fits.getdata(folder / "products" / f"{NAME}_tiny-add.fits", "SCI")


def test_its_pixels_are_those_of_a_call_by_hand(image, tmp_path):
    from astropy.io import fits
    from tiny.live import AddStep  # type: ignore[import-not-found]

    outcome, folder = step_of("AddStep", image, tmp_path, amount=2.5)
    by_hand = AddStep.call(str(image), amount=2.5)
    np.testing.assert_array_equal(pixels(folder), by_hand.data)
    np.testing.assert_array_equal(pixels(folder), fits.getdata(image, "SCI") + np.float32(2.5))
    assert outcome.products == ((f"products/{NAME}_tiny-add.fits", f"stage1/{NAME}_tiny-add.fits"),)
    assert outcome.resolved["amount"] == 2.5
    assert fits.getheader(folder / "products" / f"{NAME}_tiny-add.fits")["SVYDIGST"] == "d" * 64


def test_other_files_that_it_saves_carry_its_suffix(image, tmp_path):
    outcome, _ = step_of("AddStep", image, tmp_path, also=True)
    assert [target for _, target in outcome.products] == [
        f"stage1/{NAME}_tiny-add-mask.fits", f"stage1/{NAME}_tiny-add.fits",
    ]  # fmt: skip


def test_hooks_run_in_order_with_their_parameters(image, tmp_path):
    from astropy.io import fits

    post = [{"tiny.live:AddStep": {"amount": 0.5}}, "tiny.live:double"]
    hooks = {"pre_hooks": [{"tiny.live:AddStep": {"amount": 3.0}}], "post_hooks": post}
    outcome, folder = step_of("AddStep", image, tmp_path, amount=1.0, **hooks)
    before = fits.getdata(image, "SCI").astype(np.float32)
    np.testing.assert_array_equal(pixels(folder), (before + np.float32(4.5)) * 2)
    assert outcome.resolved["post_hooks"][1] == "tiny.live.double"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("NothingStep", "tiny.live:NothingStep returned nothing; expected the corrected image"),
        ("ListStep", "tiny.live:ListStep returned a list of 2; expected one image"),
        ("ArrayStep", "tiny.live:ArrayStep returned ndarray; expected a data model"),
        ("CropStep", r"has an image of shape \(8, 8\), its input of shape \(16, 16\)"),
        ("SkipStep", "tiny.live:SkipStep skipped this exposure"),
        ("SaysSkippedStep", "tiny.live:SaysSkippedStep skipped this exposure"),
        ("RaiseStep", "tiny.live:RaiseStep raised RuntimeError: no stars in this image"),
        ("MissingFileStep", "tiny.live:MissingFileStep raised FileNotFoundError"),
        ("WriteStep", "wrote notes.txt into the current folder, where it would be lost"),
    ],
)
def test_a_step_that_misbehaves_fails_with_its_cause(name, said, image, tmp_path):
    with pytest.raises(TaskError, match=said) as caught:
        step_of(name, image, tmp_path)
    assert caught.value.retry == "never"


@pytest.mark.parametrize(
    ("hook", "said"),
    [
        ("tiny.live:fail", "post_hooks of AddStep: tiny.live:fail raised ValueError: a hook of mine"),
        ("tiny.live:RaiseStep", "post_hooks of AddStep: tiny.live:RaiseStep raised RuntimeError: no stars"),
        ({"tiny.live:RaiseStep": {"amount": 2.0}}, "post_hooks of AddStep: tiny.live:RaiseStep raised RuntimeError"),
    ],
)
def test_a_hook_that_raises_is_named(hook, said, image, tmp_path):
    with pytest.raises(TaskError, match=said):
        step_of("AddStep", image, tmp_path, post_hooks=[hook])


def test_hooks_reach_the_steps_of_a_pipeline(image):
    from configobj import ConfigObj

    given = ConfigObj({"steps": {"jump": {"rejection_threshold": 5.0}}})
    settings = {"jump": {"post_hooks": ["tiny.live:AddStep"]}, "ramp_fit": {"algorithm": "OLS_C"}}
    add_hooks(given, settings, {"jump", "ramp_fit"})
    assert given.dict() == {"steps": {"jump": {"rejection_threshold": 5.0, "post_hooks": ["tiny.live.AddStep"]}}}


def test_the_package_of_the_guide_works(image, tmp_path, monkeypatch):
    from survey.config.probes import probe

    text = (Path(__file__).parent.parent / "docs" / "guide" / "other-packages.md").read_text()
    project = tomllib.loads(re.search(r"```toml\n(.*?)```", text, re.DOTALL)[1])
    listed, pedestal = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    files = {"__init__.py": listed, "pedestal.py": pedestal}
    point = project["project"]["entry-points"]["stpipe.steps"]["sky_steps"]
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    use(monkeypatch, install(tmp_path / "mine", "sky_steps", files, point))
    found = probe("subtract_pedestal")
    assert found.path == "sky_steps.pedestal:SubtractPedestalStep" and not found.needs_association

    def values(scale):
        facts = {"path": found.path, "accepts": "rate", "suffix": f"pedestal-{scale:.0f}"}
        folder = tmp_path / f"job{scale}"
        folder.mkdir()
        job = Job(f"p/{NAME}", "p", NAME, "d", "t", (str(image),), str(folder), {CLASS: facts, "scale": scale})
        run(job, foreign_row("p", facts))
        return datamodels.open(folder / "products" / f"{NAME}_pedestal-{scale:.0f}.fits").data

    from stdatamodels.jwst import datamodels

    assert np.median(values(1.0)) == 0.0
    np.testing.assert_array_equal(values(0.0), np.arange(256, dtype=np.float32).reshape(16, 16))


@pytest.mark.whole
@pytest.mark.parametrize("engine", ["tiled", "stock"])
def test_a_step_after_image2_makes_the_members_of_the_mosaic(engine, small, finished, tmp_path):
    """A step that adds nothing gives the mosaic's pixels, one that adds a number does not."""
    from astropy.io import fits
    from whole_run import survey

    workspace = small.copy(tmp_path / "ws")

    def mosaic(amount):
        path = small.config(f"foreign-{engine}", workspace, engine=engine)
        added = f"  - image2: {{}}\n  - tiny.live:AddStep: {{amount: {amount}}}\n"
        path.write_text(path.read_text().replace("  - image2: {}\n", added) + "filters: [F200W]\n")
        survey("run", path)
        survey("verify", path)
        (product,) = (workspace / "mosaics").glob("*f200w*_i2d.fits")
        return {name: fits.getdata(product, name) for name in ("SCI", "ERR", "WHT")}

    (plain,) = (small.workspace / "mosaics").glob("*f200w*_i2d.fits")
    same, other = mosaic(0.0), mosaic(0.25)
    for name, values in same.items():
        np.testing.assert_array_equal(values, fits.getdata(plain, name), err_msg=name)
    seen = np.isfinite(same["SCI"]) & np.isfinite(other["SCI"])
    assert np.median(other["SCI"][seen] - same["SCI"][seen]) == pytest.approx(0.25, abs=0.02)
    (link,) = {path.readlink().name for path in (workspace / "asn").glob("*00001_nrcb1_cal.fits")}
    assert link.endswith("_tiny-add.fits")
