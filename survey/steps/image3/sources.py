"""Find the sources of an exposure with tweakreg, and describe it without pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from survey.errors import TaskError
from survey.steps.base import Job, Outcome, Step
from survey.steps.image3 import files
from survey.steps.image3.members import describe, write_description
from survey.steps.image3.parts import parameters, part


def run(job: Job, step: Step) -> Outcome:
    """Find the sources of a cal file.

    Products: ``<exposure>_cat.ecsv`` (x, y, flux; 0-based pixels), without rows if tweakreg is skipped, and
    ``<exposure>_member.asdf``.

    Raises
    ------
    TaskError
        The exposure has no WCS, or a catalogue that the config names is missing.
    """
    import numpy as np
    from astropy.table import Table
    from jwst.datamodels import ModelLibrary
    from stdatamodels.jwst import datamodels

    output = job.path / "products"
    output.mkdir()
    tweakreg = part(job, "tweakreg")
    resolved = parameters(tweakreg)
    catalogue = output / files.CATALOG.name(job.subject)
    with datamodels.open(job.inputs[0]) as model:
        write_description(output / files.DESCRIPTION.name(job.subject), describe(model))
        if tweakreg.skip:
            Table({axis: np.zeros(0) for axis in ("x", "y", "flux")}).write(catalogue, format="ascii.ecsv")
            count = 0
        else:
            count = _find(tweakreg, ModelLibrary([model]), model, catalogue)
    made = sorted(output.iterdir())
    products = tuple((f"products/{path.name}", f"{step.folder}/{path.name}") for path in made)
    return Outcome(products, {"tweakreg": resolved}, {"sources": count})


def _find(tweakreg: Any, library: Any, model: Any, catalogue: Path) -> int:
    """Let tweakreg make or read the catalogue of an image, and write it; returns the number of sources."""
    from astropy.table import Table

    if reads_listed_catalogues(tweakreg):
        # 'align' takes the catalogue that the association lists, if any, in place of this one. A catfile that lists no
        # exposure lets tweakreg read the catalogue that the header names, or else find sources.
        nothing = catalogue.parent.with_name("catfile.txt")
        nothing.write_text("none none\n")
        tweakreg.catfile = str(nothing)
    tweakreg.save_catalogs = True  # without it, tweakreg does nothing for a single image
    tweakreg.catalog_format = "ecsv"
    tweakreg.abs_refcat = ""
    tweakreg.output_dir = str(catalogue.parent)
    tweakreg.run(library)
    found = Path(str(model.meta.tweakreg_catalog))
    written = found if found.is_absolute() else catalogue.parent / found
    if not written.is_file():
        written = found  # from the config, relative to the folder in which the run was started
    if not written.is_file():
        raise TaskError(f"{model.meta.filename}: its source catalogue {found} is missing.")
    if written.parent == catalogue.parent:
        written.rename(catalogue)
        return len(Table.read(catalogue))
    table = read_catalogue(written)
    table.write(catalogue, format="ascii.ecsv")
    return len(table)


def read_catalogue(path: Path) -> Any:
    """Read a catalogue of sources; columns with other names of positions that tweakreg accepts become 'x' and 'y'."""
    from astropy.table import Table

    table = Table.read(path)
    for axis in ("x", "y"):
        other = next((name for name in (f"{axis}centroid", f"{axis}_centroid") if name in table.colnames), None)
        if axis not in table.colnames and other is not None:
            table.rename_column(other, axis)
    return table


def reads_listed_catalogues(tweakreg: Any) -> bool:
    """Whether a tweakreg step reads catalogues that associations list as 'tweakreg_catalog'."""
    return bool(tweakreg.use_custom_catalogs) and not str(tweakreg.catfile or "").strip()
