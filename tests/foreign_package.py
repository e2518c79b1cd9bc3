"""A small package of Steps, as a user might write one: folders with source and metadata, for PYTHONPATH."""

from __future__ import annotations

import os
from pathlib import Path

# Steps import jwst inside of process: the tests of planning need not wait for it.
STEPS = '''
import numpy as np
from stpipe import Step


class ScaleStep(Step):
    """Multiply an image by a factor."""

    class_alias = "tiny_scale"
    spec = """
    factor = float(default=1.0, min=0.0)
    template = string(default=None)
    """
    reference_file_types = ["flat"]

    def process(self, input_data):
        """Scale.

        Parameters
        ----------
        input_data : str or `~stdatamodels.jwst.datamodels.ImageModel`
            The image.
        """
        raise NotImplementedError


class NoAliasStep(Step):
    def process(self, image):
        return image


class OwnSuffixStep(Step):
    class_alias = "own"
    spec = """
    suffix = string(default='mysky')
    """

    def process(self, image):
        return image


class TakenSuffixStep(OwnSuffixStep):
    class_alias = "taken"


class StackStep(Step):
    class_alias = "tiny_stack"

    def process(self, images):
        """Stack.

        Parameters
        ----------
        images : str, list or `~jwst.datamodels.container.ModelContainer`, or
                 `~jwst.datamodels.library.ModelLibrary`
            The exposures.
        """
        return images


class RampOnlyStep(Step):
    class_alias = "tiny_ramp"

    def process(self, ramp):
        """Look at a ramp.

        Parameters
        ----------
        ramp : `~stdatamodels.jwst.datamodels.RampModel`
            The ramp.
        """
        return ramp


class EmptyStep(Step):
    class_alias = "tiny_empty"


class NotAStep:
    pass


class WrongSpecStep(Step):
    spec = "factor = flot(default=1)"

    def process(self, image):
        return image


def double(model):
    model.data *= 2
    return model


number = 3
'''
LISTED = '''
def steps():
    """Steps of this package."""
    return [
        ("tiny.steps.ScaleStep", "tiny_scale", False),
        ("tiny.steps.StackStep", "tiny_stack", False),
        ("tiny.steps.TakenSuffixStep", "taken", False),
    ]
'''
COMPUTED = """
def steps():
    found = [("tiny.steps." + name, name.lower(), False) for name in ("NoAliasStep",)]
    return found
"""


# Steps that run: these import jwst.
LIVE = '''
import numpy as np
from jwst.stpipe import Step
from stdatamodels.jwst import datamodels


class AddStep(Step):
    """Add a number to an image."""

    class_alias = "tiny_add"
    spec = """
    amount = float(default=1.0)
    also = boolean(default=False)
    """

    def process(self, input_data):
        """Add.

        Parameters
        ----------
        input_data : str or `~stdatamodels.jwst.datamodels.ImageModel` or `~stdatamodels.jwst.datamodels.RampModel`
            The image.
        """
        with datamodels.open(input_data) as model:
            result = model.copy()
        result.data = result.data + np.float32(self.amount)
        if self.also:
            self.save_model(result, suffix="mask", force=True)
        return result


class NothingStep(AddStep):
    def process(self, input_data):
        self.prepare_output(input_data)


class ListStep(AddStep):
    def process(self, input_data):
        return [super(ListStep, self).process(input_data)] * 2


class ArrayStep(AddStep):
    def process(self, input_data):
        return super().process(input_data).data


class CropStep(AddStep):
    def process(self, input_data):
        result = super().process(input_data)
        return datamodels.ImageModel(data=result.data[:8, :8])


class SkipStep(AddStep):
    def process(self, input_data):
        self.skip = True
        return super().process(input_data)


class SaysSkippedStep(AddStep):
    class_alias = "tiny_says"

    def process(self, input_data):
        result = super().process(input_data)
        result.meta.cal_step.tiny_says = "SKIPPED"
        return result


class RaiseStep(AddStep):
    def process(self, input_data):
        raise RuntimeError("no stars in this image")


class MissingFileStep(AddStep):
    def process(self, input_data):
        return open("templates.fits")


class WriteStep(AddStep):
    def process(self, input_data):
        with open("notes.txt", "w") as notes:
            notes.write("seen")
        return super().process(input_data)


def double(model):
    model.data = model.data * 2
    return model


def fail(model):
    raise ValueError("a hook of mine")
'''


def install(
    folder: Path, name: str = "tiny", files: dict[str, str] | None = None, point: str = "tiny.listed:steps", **more: str
) -> Path:
    """Write a package and the metadata of its distribution; returns the folder to put on PYTHONPATH.

    Parameters
    ----------
    files : module file -> source, below the package's folder
    point : of the group stpipe.steps; '': none
    more : 'version', and 'record' for the content of RECORD, without which it counts as not installed from a wheel
    """
    source = {"__init__.py": "", "steps.py": STEPS, "live.py": LIVE, "listed.py": LISTED} if files is None else files
    for file, text in source.items():
        path = folder / name / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    metadata = folder / f"{name}-{more.get('version', '0.1')}.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {more.get('version', '0.1')}\n")
    (metadata / "top_level.txt").write_text(f"{name}\n")
    if "record" in more:
        (metadata / "RECORD").write_text(more["record"])
    if point:
        (metadata / "entry_points.txt").write_text(f"[stpipe.steps]\n{name} = {point}\n")
    return folder


def use(monkeypatch, *folders: Path) -> None:
    """Put folders on the search path of this process and of those that it starts, and forget what was found before."""
    for folder in folders:
        monkeypatch.syspath_prepend(str(folder))
    given = os.environ.get("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([*map(str, folders), *([given] if given else [])]))
    forget()


def forget() -> None:
    """Forget which packages there are."""
    from survey.config import code_versions, probes, step_names

    code_versions._distributions.cache_clear()
    step_names.entry_points.cache_clear()
    probes._listed.cache_clear()
    probes._found.clear()
