"""CRDS rules for the simulated reference files: two contexts that differ in one flat.

A context (pmap) names the instruments' rules (imap), those name a rule per reference type (rmap), and that maps header
values and dates to files. Source: CRDS user's manual, "Rules", and crds.core.rmap.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from pprint import pformat

from survey.digest import file_sha1
from survey.simulate.references import USE_AFTER, Entry, write_references
from survey.simulate.scene import Scene

CONTEXTS = ("jwst_0001.pmap", "jwst_0002.pmap")
_DETECTOR = "META.INSTRUMENT.DETECTOR"
_SUBARRAY = "META.SUBARRAY.NAME"
PARKEYS = {
    "mask": (_DETECTOR, _SUBARRAY),
    "saturation": (_DETECTOR, _SUBARRAY),
    "superbias": (_DETECTOR, _SUBARRAY),
    "linearity": (_DETECTOR, _SUBARRAY),
    "dark": (_DETECTOR, _SUBARRAY),
    "gain": (_DETECTOR, _SUBARRAY),
    "readnoise": (_DETECTOR, _SUBARRAY),
    "flat": (_DETECTOR, "META.INSTRUMENT.FILTER", _SUBARRAY),
    "photom": (_DETECTOR,),
    "area": (_DETECTOR,),
    "distortion": (_DETECTOR,),
    "filteroffset": ("META.INSTRUMENT.CHANNEL", "META.INSTRUMENT.MODULE"),
    "apcorr": ("META.EXPOSURE.TYPE",),
    "abvegaoffset": ("META.EXPOSURE.TYPE",),
}
# Types that the pipeline's imaging steps ask for and that this observatory has not
_ABSENT = """
    barshadow bkg camera chromcorr collimator cubepar dflat disperser drizpars emicorr extract1d fflat fore fpa fringe
    fringefreq ifufore ifupost ifuslicer ipc mrsptcorr mrsxartcorr msa msaoper nrm ote pastasoss pathloss persat
    pictureframe psf psfmask refpix regions reset rscd sflat sirskernel speckernel specprofile specwcs throughput
    trapdensity trappars tsophot wavecorr wavelengthrange wavemap wfssbkg
""".split()
# Parameter references: one type for each pipeline and step, named after its class
_CONFIGURABLE = """
    detector1pipeline image2pipeline image3pipeline darkpipeline guiderpipeline
    groupscalestep dqinitstep emicorrstep saturationstep ipcstep superbiasstep refpixstep rscdstep firstframestep
    lastframestep linearitystep darkcurrentstep resetstep persistencestep chargemigrationstep jumpstep pictureframestep
    cleanflickernoisestep rampfitstep gainscalestep
    backgroundstep assignwcsstep flatfieldstep photomstep resamplestep badpixselfcalstep
    assignmtwcsstep tweakregstep skymatchstep outlierdetectionstep sourcecatalogstep
""".split()


def write_crds(directory: Path | str, scene: Scene) -> None:
    """Make ``directory``/crds: reference files, the rules of both contexts, and the catalogue of all of them.

    Raises
    ------
    ConfigError
        The scene names a detector, filter or pattern that NIRCam has not.
    """
    root = Path(directory) / "crds"
    entries = write_references(
        root / "references" / "jwst" / "nircam", scene.detectors, scene.filters, [scene.subarray], scene
    )
    write_rules(root, entries)


def write_rules(root: Path | str, entries: list[Entry]) -> None:
    """Write the mappings of both contexts below ``root``/mappings/jwst, and ``root``/catalog.json.

    A rule that is the same in both contexts is one file; the second context has its own where it differs.
    """
    folder = Path(root) / "mappings" / "jwst"
    folder.mkdir(parents=True, exist_ok=True)
    previous: dict[str, tuple[str, list[Entry]]] = {}
    for number, context in enumerate(CONTEXTS, start=1):
        names = dict.fromkeys([*_ABSENT, *(f"pars-{name}" for name in _CONFIGURABLE)], "N/A")
        for reftype in PARKEYS:
            chosen = [entry for entry in entries if entry.reftype == reftype and number in entry.contexts]
            if previous.get(reftype, ("", None))[1] != chosen:
                name = f"jwst_nircam_{reftype}_{number:04d}.rmap"
                (folder / name).write_text(_rmap(name, reftype, chosen))
                previous[reftype] = name, chosen
            names[reftype] = previous[reftype][0]
        instrument = f"jwst_nircam_{number:04d}.imap"
        header = {"instrument": "NIRCAM", "mapping": "INSTRUMENT", "name": instrument, "parkey": ("REFTYPE",)}
        (folder / instrument).write_text(_mapping(header, _dictionary(names)))
        header = {"mapping": "PIPELINE", "name": context, "parkey": ("META.INSTRUMENT.NAME",)}
        (folder / context).write_text(_mapping(header, _dictionary({"nircam": instrument})))
    _write_catalog(Path(root))


def _rmap(name: str, reftype: str, entries: list[Entry]) -> str:
    """The rule of one reference type: header values -> since when -> file."""
    header = {
        "classes": ("Match", "UseAfter"),
        "filekind": reftype.upper(),
        "filetype": reftype.upper(),
        "instrument": "NIRCAM",
        "mapping": "REFERENCE",
        "name": name,
        "parkey": (PARKEYS[reftype], ("META.OBSERVATION.DATE", "META.OBSERVATION.TIME")),
        "suffix": reftype,
        "text_descr": f"Simulated {reftype}",
    }
    lines = ["Match({"]
    for entry in sorted(entries, key=lambda entry: entry.match):
        lines += [
            f"    {entry.match!r} : UseAfter({{",
            f"        {USE_AFTER.replace('T', ' ')!r} : {entry.name!r},",
            "    }),",
        ]
    return _mapping(header, "\n".join([*lines, "})"]))


def _mapping(items: Mapping[str, object], selector: str) -> str:
    """Text of a mapping, with the sha1 of its other lines in its header."""
    header = {"derived_from": "survey simulate", "observatory": "JWST", "sha1sum": "", **items}

    def text() -> str:
        lines = "".join(f"    {key!r} : {pformat(header[key], width=1000)},\n" for key in sorted(header))
        return f"header = {{\n{lines}}}\n\nselector = {selector}\n"

    counted = "".join(line for line in text().splitlines(keepends=True) if "sha1sum" not in line)
    header["sha1sum"] = hashlib.sha1(counted.encode()).hexdigest()
    return text()


def _dictionary(names: dict[str, str]) -> str:
    return "{\n" + "".join(f"    {key!r} : {names[key]!r},\n" for key in sorted(names)) + "}"


def _write_catalog(root: Path) -> None:
    """List every mapping and reference with its sha1 and size, for servers and checks."""
    files = sorted([*(root / "mappings" / "jwst").iterdir(), *(root / "references" / "jwst" / "nircam").iterdir()])
    catalog = {
        "contexts": list(CONTEXTS),
        "operational": CONTEXTS[-1],
        "files": {path.name: {"sha1sum": file_sha1(path), "size": path.stat().st_size} for path in files},
    }
    (root / "catalog.json").write_text(json.dumps(catalog, indent=1, sort_keys=True) + "\n")
