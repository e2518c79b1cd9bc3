"""Level-3 associations: which calibrated exposures make which mosaic, and the pipeline's own file for it.

Grouping is pure and needs no jwst; the file is made by `jwst.associations`; reading one trusts nothing in it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from survey.errors import ConfigError
from survey.models import Association, Exposure
from survey.names import MosaicName, optical_elements

WHOLE_SURVEY = "a3001"  # the archive's candidates are o, c and r; 'a' is free, and asn_from_list's own default


def group(
    exposures: Iterable[Exposure], per: str | Sequence[str] = ("filter",), programs: Sequence[int] = ()
) -> tuple[Association, ...]:
    """The mosaics that exposures make: one per program and filter, or one per program, filter and observation.

    Parameters
    ----------
    exposures : any order
    per : 'filter', or ('filter', 'observation')
    programs : of a survey of several programs: their exposures make one mosaic per filter, which has the number of the
        first of these programs that has members in it; with observations, the group in mosaics.zarr names the program

    Returns
    -------
    Sorted by product name. Members are sorted by name: their order moves the mosaic's grid, so it must not depend on
    the order in which an archive answers.

    Raises
    ------
    ConfigError
        An exposure is listed twice or its filter is unknown, or ``per`` is neither of the two.
    """
    wanted = (per,) if isinstance(per, str) else tuple(per)
    if sorted(wanted) not in (["filter"], ["filter", "observation"]):
        raise ConfigError(f"mosaic.per: found {list(wanted)}, expected 'filter' or ['filter', 'observation'].")
    ordered = sorted(exposures, key=lambda exposure: exposure.name)
    _check_exposures(ordered)
    joint = tuple(programs) if len(programs) > 1 else ()
    groups: dict[tuple[int, str, int], list[Exposure]] = defaultdict(list)
    for exposure in ordered:
        observation = exposure.observation if "observation" in wanted else 0
        elements = optical_elements(exposure.filter, exposure.pupil)
        is_joined = exposure.program in joint and not observation
        groups[0 if is_joined else exposure.program, elements, observation].append(exposure)
    associations = [_associate(joint, *key, members) for key, members in groups.items()]
    return tuple(sorted(associations, key=lambda association: association.product))


# --- grouping ---------------------------------------------------------------------------------------------------


def _check_exposures(exposures: Sequence[Exposure]) -> None:
    counts = Counter(exposure.name for exposure in exposures)
    faults = [f"{name}: is listed {count} times." for name, count in counts.items() if count > 1]
    faults += [
        f"{exposure.name}: its filter is unknown; fetch it, so that its header can be read."
        for exposure in exposures
        if not exposure.filter
    ]
    if faults:
        raise ConfigError(faults)


def _associate(
    joint: Sequence[int], program: int, elements: str, observation: int, members: Sequence[Exposure]
) -> Association:
    program = program or min((member.program for member in members), key=joint.index)
    subarrays = {member.subarray.upper() for member in members}
    subarray = next(iter(subarrays)).lower() if len(subarrays) == 1 and subarrays != {"FULL"} else None
    acid = f"o{observation:03d}" if observation else WHOLE_SURVEY
    name = members[0].filter.upper()
    return Association(
        product=str(MosaicName(program, acid, 1, "nircam", elements, subarray)),
        filter=name,
        group=f"{name}-jw{program:05d}-{acid}" if observation and joint else "",
        field=acid if observation else "all",
        members=tuple(member.name for member in members),
        program=program,
    )
