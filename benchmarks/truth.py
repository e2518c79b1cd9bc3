"""Mosaics and jump flags against a simulated observatory's truth.

    python benchmarks/truth.py [WORKSPACE OBSERVATORY] [--json]

Positions and fluxes of isolated stars on every i2d, and what became of the planted cosmic rays in every rate file.
"""

from __future__ import annotations

import argparse
import json
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS, FITSFixedWarning
from measure import DEMO, OBSERVATORY, make_demo
from quality import (
    UJY_PER_MJY_SR,
    MeasurementError,
    annulus_medians,
    aperture_sums,
    centroids,
    coverage_fraction,
    depth,
    flux_ratio,
    position_residuals,
)
from scipy.ndimage import binary_dilation

from survey.simulate.psf import PHASES, Psf, load_psf

DO_NOT_USE, SATURATED, JUMP_DET = 1, 2, 4  # bits of the pipeline's DQ arrays
SIGMA = 10.0  # the aim is for hits above this
APERTURE_PX, ANNULUS_PX = 6.0, (12.0, 18.0)  # native pixels of the channel
WINDOW_PX = 1.2  # of the centroid
MIN_SIGNAL_TO_NOISE = 20.0  # a centroid is then good to about 0.05 pixel
MAX_CONTAMINATION = 0.01  # light of all neighbours in the aperture, over the star's own
SEARCH_PX = 12.0  # a whole mosaic may be off by the pointing error of its first exposures


def measure(workspace: Path, observatory: Path) -> dict[str, Any]:
    sources = Table.read(observatory / "truth" / "sources.ecsv")
    mosaics = {path.name: measure_mosaic(path, sources) for path in sorted(workspace.glob("mosaics/*_i2d.fits"))}
    hits = Table.read(observatory / "truth" / "cosmic_rays.ecsv")
    return {"mosaics": mosaics, "cosmic_rays": measure_jumps(workspace, hits)}


def measure_mosaic(path: Path, sources: Table) -> dict[str, Any]:
    """Positions and fluxes of the isolated stars of one mosaic.

    The offset of the whole mosaic is the part of the pointing error that the alignment of exposures to each other
    cannot see; the scatter about it is what the alignment and the noise leave.
    """
    warnings.simplefilter("ignore", FITSFixedWarning)
    with fits.open(path) as hdus:
        name = hdus[0].header["FILTER"] if hdus[0].header["PUPIL"] == "CLEAR" else hdus[0].header["PUPIL"]
        header = hdus["SCI"].header
        sci, err, weight = (np.array(hdus[kind].data, float) for kind in ("SCI", "ERR", "WHT"))
    sci[~(weight > 0)] = np.nan
    wcs = WCS(header)
    scale = float(np.sqrt(wcs.proj_plane_pixel_area().to_value("arcsec2")))
    pixel_sr = float(header["PIXAR_SR"])
    psf = load_psf(name)
    native = psf.pixel_arcsec / scale
    stars = isolated(sources, name, psf)
    true_x, true_y = wcs.world_to_pixel_values(stars["ra"], stars["dec"])
    window = WINDOW_PX * native
    start = brightest_near(sci, true_x, true_y, global_shift(sci, true_x, true_y, stars[f"flux_{name}"]), window)
    sky = annulus_medians(sci, *start, *(r * native for r in ANNULUS_PX))
    x, y = np.array([one_centroid(sci, a, b, level, window) for a, b, level in zip(*start, sky, strict=True)]).T
    flux, noise = photometry(sci, err, x, y, sky, native, pixel_sr)
    flux, noise = flux / aperture_share(psf), noise / aperture_share(psf)
    good = np.isfinite(flux) & (flux > MIN_SIGNAL_TO_NOISE * noise)
    result: dict[str, Any] = {
        "filter": name,
        "pixel_arcsec": scale,
        "coverage": coverage_fraction(sci, weight),
        "stars": int(np.isfinite(start[0]).sum()),
        "measured": int(good.sum()),
    }
    residuals = position_residuals(np.stack([x, y], 1)[good], np.stack([true_x, true_y], 1)[good])
    result["pixel"] = asdict(residuals) | {"offset": residuals.offset, "scatter": residuals.scatter}
    result["arcsec"] = {key: value if key == "number" else value * scale for key, value in result["pixel"].items()}
    median, scatter, number = flux_ratio(flux[good], stars[f"flux_{name}"][good])
    result["flux_ratio"] = {"median": median, "scatter": scatter, "number": number}
    result["depth"] = measure_depth(sci, wcs, sources, name, pixel_sr, native)
    return result


def isolated(sources: Table, name: str, psf: Psf) -> Table:
    """Stars in whose aperture the light of all others is below `MAX_CONTAMINATION` of their own."""
    ra, dec, flux = (np.array(sources[key], float) for key in ("ra", "dec", f"flux_{name}"))
    east = (ra - ra.mean()) * 3600 * np.cos(np.radians(dec.mean()))
    distance = np.hypot(east[:, None] - east, (dec[:, None] - dec) * 3600)
    # A galaxy is taken as a point at two half-light radii from its centre, towards the star.
    distance = np.maximum(distance - 2 * np.array(sources["half_light"], float), 0.0)
    radius, profile = radial_profile(psf)
    area = np.pi * (APERTURE_PX * psf.pixel_arcsec) ** 2
    # The nearest edge of the aperture, not its centre: the profile falls steeply.
    share = np.interp(np.maximum(distance - APERTURE_PX * psf.pixel_arcsec / 2, 0.0), radius, profile, right=0.0) * area
    np.fill_diagonal(share, 0.0)
    stars = (np.array(sources["kind"]) == "star") & (share @ flux < MAX_CONTAMINATION * flux)
    return sources[stars]


def radial_profile(psf: Psf) -> tuple[np.ndarray, np.ndarray]:
    """Distance [arcsec] and share of a star's light per square arcsec there."""
    offset = (np.arange(psf.fine.shape[0]) - psf.fine.shape[0] // 2) * psf.pixel_arcsec / PHASES
    distance = np.hypot(offset, offset[:, None])
    edges = np.arange(0, offset[-1], psf.pixel_arcsec)
    light, _ = np.histogram(distance, edges, weights=psf.fine)
    return (edges[:-1] + edges[1:]) / 2, light / (np.pi * (edges[1:] ** 2 - edges[:-1] ** 2))


def aperture_share(psf: Psf) -> float:
    """Share of a star's light that `photometry` finds: aperture minus ring, on the PSF as drizzled.

    Drizzling (square kernel, pixfrac 1) spreads each of the detector's pixels over its whole area, so the PSF is
    integrated over a pixel twice.
    """
    from scipy.ndimage import uniform_filter

    image = uniform_filter(uniform_filter(psf.fine, PHASES, mode="constant"), PHASES, mode="constant")
    middle = [image.shape[0] // 2]
    inside = aperture_sums(image, middle, middle, APERTURE_PX * PHASES)[0]
    level = annulus_medians(image, middle, middle, *(radius * PHASES for radius in ANNULUS_PX))[0]
    return float(inside - level * np.pi * (APERTURE_PX * PHASES) ** 2)


def global_shift(sci: np.ndarray, x: np.ndarray, y: np.ndarray, flux: np.ndarray) -> tuple[float, float]:
    """Shift of the whole mosaic [pixel]: where the light lies about the true places of the brightest stars, stacked."""
    reach = int(np.ceil(SEARCH_PX))
    stack = np.zeros((2 * reach + 1, 2 * reach + 1))
    for number in np.argsort(flux)[::-1][:60]:
        i, j = round(float(x[number])), round(float(y[number]))
        if reach <= i < sci.shape[1] - reach and reach <= j < sci.shape[0] - reach:
            stamp = np.nan_to_num(sci[j - reach : j + reach + 1, i - reach : i + reach + 1])
            stack += np.clip(stamp - np.median(stamp), 0, None) / max(stamp.max(), 1e-30)
    row, column = np.unravel_index(np.argmax(stack), stack.shape)
    return float(column - reach), float(row - reach)


def brightest_near(
    sci: np.ndarray, x: np.ndarray, y: np.ndarray, shift: tuple[float, float], window: float
) -> tuple[np.ndarray, np.ndarray]:
    """The brightest pixel within two windows of where each star should be; NaN beyond the edge."""
    reach = int(np.ceil(2 * window))
    places = np.full((len(x), 2), np.nan)
    for number, (a, b) in enumerate(zip(x + shift[0], y + shift[1], strict=True)):
        i, j = round(float(a)), round(float(b))
        if reach <= i < sci.shape[1] - reach and reach <= j < sci.shape[0] - reach:
            stamp = sci[j - reach : j + reach + 1, i - reach : i + reach + 1]
            if np.isfinite(stamp).all():
                row, column = np.unravel_index(np.argmax(stamp), stamp.shape)
                places[number] = i + column - reach, j + row - reach
    return places[:, 0], places[:, 1]


def one_centroid(sci: np.ndarray, x: float, y: float, level: float, window: float) -> tuple[float, float]:
    a, b = centroids(sci - level, [x], [y], window)
    return float(a[0]), float(b[0])


def photometry(
    sci: np.ndarray, err: np.ndarray, x: np.ndarray, y: np.ndarray, sky: np.ndarray, native: float, pixel_sr: float
) -> tuple[np.ndarray, np.ndarray]:
    """Flux in the aperture above the local sky, and its error from the mosaic's own error array [uJy]."""
    radius = APERTURE_PX * native
    unit = pixel_sr * UJY_PER_MJY_SR
    flux = (aperture_sums(sci, x, y, radius) - sky * np.pi * radius**2) * unit
    return flux, np.sqrt(aperture_sums(err**2, x, y, radius)) * unit


def measure_depth(
    sci: np.ndarray, wcs: WCS, sources: Table, name: str, pixel_sr: float, native: float
) -> dict[str, float] | None:
    """5 sigma in an aperture of 3 native pixels, away from everything in the truth catalogue."""
    marked = np.zeros(sci.shape, bool)
    x, y = wcs.world_to_pixel_values(sources["ra"], sources["dec"])
    inside = (x > 0) & (y > 0) & (x < sci.shape[1] - 1) & (y < sci.shape[0] - 1)
    inside &= np.array(sources[f"flux_{name}"]) > 0.02
    marked[np.rint(y[inside]).astype(int), np.rint(x[inside]).astype(int)] = True
    empty = np.isfinite(sci) & ~binary_dilation(marked, iterations=int(np.ceil(10 * native)))
    try:
        flux, magnitude = depth(sci, empty, 3.0 * native, pixel_sr)
    except MeasurementError:
        return None
    return {"flux_ujy": flux, "mag_ab": magnitude}


def measure_jumps(workspace: Path, hits: Table) -> dict[str, Any]:
    """What the rate files' flags make of the planted cosmic rays, summed over all exposures.

    Counted are hits (a pixel and an integration) above `SIGMA` where a jump shows: not in the first group, not on
    pixels that are unusable or saturated by then. The others are listed apart.
    """
    total: dict[str, int] = {}
    for path in sorted(workspace.glob("stage1/*_rate.fits")):
        name = path.name.removesuffix("_rate.fits")
        for key, number in count_jumps(path, hits[hits["exposure"] == name]).items():
            total[key] = total.get(key, 0) + number
    if not total:
        return {}
    countable = total["planted_above_10_sigma"]
    total["fraction_flagged"] = total["flagged"] / countable if countable else float("nan")
    total["false_positive_fraction"] = total["flagged_away_from_hits"] / max(1, total["good_pixels"])
    return total


def count_jumps(path: Path, hits: Table) -> dict[str, int]:
    dq = jump_flags(path)
    integration, y, x = (np.array(hits[key], int) for key in ("integration", "y", "x"))
    integration = np.minimum(integration, len(dq) - 1)
    here = dq[integration, y, x]
    strong, late = np.array(hits["sigma"]) > SIGMA, np.array(hits["group"]) > 0
    detectable = np.array(hits["detectable"], bool)
    unusable = (here & DO_NOT_USE) != 0
    counted = strong & detectable & ~unusable
    flagged = (here & JUMP_DET) != 0
    planted = np.zeros(dq.shape, bool)
    planted[integration, y, x] = True
    # The jump step flags the four neighbours of every jump that it finds; and charge leaks there.
    near = np.array([binary_dilation(plane) for plane in planted]) & ~planted
    jumps = (dq & JUMP_DET) != 0
    return {
        "exposures": 1,
        "planted_above_10_sigma": int(counted.sum()),
        "flagged": int((counted & flagged).sum()),
        "apart_first_group": int((strong & ~late).sum()),
        "apart_unusable_or_saturated": int((strong & late & ~counted).sum()),
        "planted_below_10_sigma": int((~strong & detectable).sum()),
        "flagged_below_10_sigma": int((~strong & detectable & flagged).sum()),
        "flagged_pixels": int(jumps.sum()),
        "flagged_next_to_hits": int((jumps & near).sum()),
        "flagged_away_from_hits": int((jumps & ~planted & ~near).sum()),
        "good_pixels": int(((dq & DO_NOT_USE) == 0).sum()),
    }


def jump_flags(rate: Path) -> np.ndarray:
    """DQ of every integration, (nints, ny, nx): of the rateints file where there is one, else of the rate."""
    ints = rate.with_name(rate.name.replace("_rate.fits", "_rateints.fits"))
    with fits.open(ints if ints.is_file() else rate) as hdus:
        dq = np.array(hdus["DQ"].data)
    return dq if dq.ndim == 3 else dq[None]


def show(found: dict[str, Any]) -> None:
    for name, row in found["mosaics"].items():
        pixel, arcsec, ratio = row["pixel"], row["arcsec"], row["flux_ratio"]
        print(f"{name}: {row['pixel_arcsec']:.4f} arcsec a pixel, {row['coverage']:.1%} covered")
        print(f"  isolated stars on it           {row['stars']}, measured {row['measured']}")
        print(f"  offset of the whole mosaic     {pixel['offset']:.3f} pixel = {arcsec['offset']:.4f} arcsec")
        print(f"  scatter per axis               {pixel['scatter']:.3f} pixel = {arcsec['scatter']:.4f} arcsec")
        print(f"  rms per axis, outliers too     {pixel['rms']:.3f} pixel = {arcsec['rms']:.4f} arcsec")
        print(f"  flux ratio, measured to true   {ratio['median']:.4f}, scatter {ratio['scatter']:.4f}")
        if row["depth"]:
            print(f"  5 sigma depth, 3 pixel radius  {row['depth']['mag_ab']:.2f} AB")
    jumps = found["cosmic_rays"]
    if not jumps:
        print("no rate files")
        return
    print(f"cosmic rays in {jumps['exposures']} exposures")
    print(
        f"  above {SIGMA:g} sigma, flagged       {jumps['flagged']} of {jumps['planted_above_10_sigma']} "
        f"= {jumps['fraction_flagged']:.2%}"
    )
    print(f"  apart: in the first group      {jumps['apart_first_group']}")
    print(f"  apart: unusable or saturated   {jumps['apart_unusable_or_saturated']}")
    print(
        f"  below {SIGMA:g} sigma, flagged       {jumps['flagged_below_10_sigma']} of {jumps['planted_below_10_sigma']}"
    )
    print(
        f"  flagged without a hit          {jumps['flagged_away_from_hits']} pixels "
        f"= {jumps['false_positive_fraction']:.4%} of the good ones; {jumps['flagged_next_to_hits']} more next to hits"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workspace", type=Path, nargs="?", default=DEMO)
    parser.add_argument("observatory", type=Path, nargs="?", default=OBSERVATORY)
    parser.add_argument("--json", action="store_true", help="one JSON document")
    given = parser.parse_args()
    make_demo(given.workspace, given.observatory)
    found = measure(given.workspace, given.observatory)
    if given.json:
        print(json.dumps(found, indent=1))
    else:
        show(found)


if __name__ == "__main__":
    main()
