"""The members of an association from outside: raw files of the workspace, or calibrated files from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from survey.archive import local as archive_local
from survey.archive.headers import DamagedFileError
from survey.archive.structure import read_hdus
from survey.config.model import SurveyConfig
from survey.digest import file_sha256
from survey.errors import ConfigError, ProductNameError
from survey.models import Association, Exposure, ListedMember
from survey.mosaics.association_files import relative_file
from survey.names import is_free_name, optical_elements, parse_exposure, parse_mosaic
from survey.planning.recipe import recipe_of
from survey.reduction.inputs import held_exposures

CAL = "_cal.fits"
MAX_NAMES = 3  # of members in a message


@dataclass(frozen=True)
class Members:
    """The files of an association's members, each as an exposure."""

    association: Association  # with its filter, and the catalogues of its members
    raw: tuple[Exposure, ...]  # whose verified raw files are in the workspace
    given: tuple[Exposure, ...]  # other members; their ``uri`` is the path of a calibrated file
    notes: tuple[str, ...] = ()  # about files and attributes that are not used


def members_of(config: SurveyConfig, association: Association, folder: Path) -> Members:
    """Find the files of an association's members.

    A member with a raw file in the workspace is reduced from it. For any other, the listed file is used, or
    ``<exposure>_cal.fits``, in ``mosaic.calibrated`` or else the association's folder.

    Parameters
    ----------
    config : with the workspace
    association : as read from its file
    folder : of that file

    Raises
    ------
    ConfigError
        Members that have neither file or whose file leads out of the folder, and members that contradict each other or
        the product's name; all are named.
    """
    programs = {parse_exposure(name).program for name in association.members}
    held: dict[str, Exposure] = {}
    for program in programs:
        everything = config.model_copy(
            update={"filters": None, "observations": None, "exclude": (), "program": program}
        )
        held |= {exposure.name: exposure for exposure in held_exposures(everything)}
    listed = {member.name: member for member in association.listed}
    places = _Places(folder.absolute(), config.mosaic.calibrated)
    raw, given, faults = [], [], []
    for name in association.members:
        if name in held:
            raw.append(held[name])
            continue
        try:
            given.append(_given(listed.get(name) or ListedMember(name, f"{name}{CAL}"), places))
        except (OSError, DamagedFileError, ProductNameError) as error:
            faults.append(
                f"{association.product}: member {name} has no raw file in {config.workspace}/raw and no usable "
                f"calibrated file in {places.described} ({error}). Run 'survey fetch' with a config that includes it, "
                f"put its cal file there, or set mosaic.calibrated to the folder of calibrated files."
            )
    faults += contradictions(association, (*raw, *given))
    if faults:
        raise ConfigError(faults)
    found, notes = _with_catalogs(config, association, folder.absolute())
    found = replace(found, filter=(*raw, *given)[0].filter)
    return Members(found, tuple(raw), tuple(given), (*notes, *_other_files(raw, given, listed)))


def contradictions(association: Association, members: Sequence[Exposure]) -> list[str]:
    """How members contradict the product's name, or, if that is a free name, each other: in program or filter."""
    product = association.product
    elements = {member.name: optical_elements(member.filter, member.pupil) for member in members}
    if is_free_name(product):
        kinds = sorted(set(elements.values()))
        if len(kinds) < 2:
            return []
        named = "; ".join(f"{kind}: {_some([name for name, own in elements.items() if own == kind])}" for kind in kinds)
        return [f"{product}: its members have {len(kinds)} filters ({named}); a mosaic has one filter. Split it."]
    name = parse_mosaic(product)
    expected = optical_elements(*name.elements.split("-"))
    faults = [
        f"{product}: member {member.name} has filter {_filters(member)}, the product {name.elements}; a mosaic has one "
        "filter."
        for member in members
        if elements[member.name] != expected
    ]
    others = [member.name for member in members if member.program != name.program]
    if others and len(others) == len(members):  # a mosaic of several programs has the name of one of them
        faults.append(
            f"{product}: all {len(members)} members are of another program than {name.program}, such as {others[0]}. "
            "Correct the name, or give the product one of your own, such as my_mosaic."
        )
    return faults


def _filters(member: Exposure) -> str:
    return member.filter if member.pupil == "CLEAR" else f"{member.filter} with {member.pupil}"


@dataclass(frozen=True)
class _Places:
    """Folders in which calibrated files are looked for."""

    association: Path
    calibrated: Path | None  # as the config gives it

    @property
    def described(self) -> str:
        return f"mosaic.calibrated ({self.calibrated})" if self.calibrated else "the association's folder"

    def candidates(self, member: ListedMember) -> list[Path]:
        """Paths at which the file of a member may be: as listed, in the folder itself, and its cal file."""
        names = dict.fromkeys((member.file, PurePosixPath(member.file).name, f"{member.name}{CAL}"))
        folders = [self.association] if self.calibrated is None else [self.calibrated.absolute(), self.association]
        return [folder / name for folder in folders for name in names]

    def holds(self, path: Path) -> bool:
        root = (self.calibrated or self.association).resolve()
        return root in path.resolve().parents


def _given(member: ListedMember, places: _Places) -> Exposure:
    there = [path for path in places.candidates(member) if path.is_file()]
    inside = [path for path in there if places.holds(path)]
    if not inside and there:
        raise DamagedFileError(f"{there[0].name} is a link out of its folder, or outside of {places.described}")
    path = inside[0] if inside else places.candidates(member)[0]
    exposure = archive_local.exposure_from_headers(path, read_hdus(path), f"{member.name}_uncal.fits")
    if exposure is None:
        raise DamagedFileError(f"{path.name} is not a NIRCam image")
    return replace(exposure, uri=str(path), size=None, sha256=file_sha256(path))


def _other_files(
    raw: Sequence[Exposure], given: Sequence[Exposure], listed: Mapping[str, ListedMember]
) -> tuple[str, ...]:
    """Notes on members for which another file than the listed one is used."""
    notes = []
    made = [item.name for item in raw if item.name in listed and not listed[item.name].file.endswith(CAL)]
    if made:
        files = _some([listed[name].file for name in made])
        notes.append(
            f"{len(made)} members are made from their raw files in the workspace, not read from the listed files "
            f"({files}). To use those, take a workspace without these raw files."
        )
    other = [item for item in given if item.name in listed and not _is_listed(item, listed[item.name])]
    if other:
        files = _some([f"{Path(item.uri).name} for {listed[item.name].file}" for item in other])
        notes.append(f"{len(other)} listed files are not there; another file of the same exposure is used: {files}.")
    return tuple(notes)


def _is_listed(exposure: Exposure, member: ListedMember) -> bool:
    return Path(exposure.uri).name == PurePosixPath(member.file).name


def _with_catalogs(config: SurveyConfig, association: Association, folder: Path) -> tuple[Association, tuple[str, ...]]:
    """The association with the catalogues of sources that its file lists, if tweakreg is to read them, and notes.

    Raises
    ------
    ConfigError
        A catalogue does not exist, or is outside of the folder; all are named.
    """
    listed = {member.name: member.catalog for member in association.listed if member.catalog is not None}
    if not listed:
        return association, ()
    tweakreg: Mapping[str, Any] = recipe_of(config).image3.get("tweakreg", {})
    reason = ""
    if tweakreg.get("skip"):
        reason = "tweakreg is skipped"
    elif not tweakreg.get("use_custom_catalogs"):
        reason = "mosaic.image3.tweakreg.use_custom_catalogs is not true"
    elif str(tweakreg.get("catfile") or "").strip():
        reason = "mosaic.image3.tweakreg.catfile is given"
    if reason:
        return association, (f"tweakreg_catalog of {len(listed)} members is not used: {reason}.",)
    found, faults = {}, []
    for name, file in listed.items():
        inside = relative_file(file, folder) if file else None
        path = None if inside is None else folder / inside
        if path is not None and path.is_file() and folder.resolve() in path.resolve().parents:
            found[name] = (str(path), file_sha256(path))
        elif file:
            faults.append(
                f"{association.product}: member {name}: its tweakreg_catalog {file} is not a file in the "
                "association's folder. Put it there, or leave tweakreg_catalog out."
            )
    if faults:
        raise ConfigError(faults)
    return replace(association, catalogs=found), ()


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:MAX_NAMES]) + (f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else "")
