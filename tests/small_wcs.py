"""The WCS of a small exposure, without the pipeline."""

from __future__ import annotations

SIDE = 32


def tangent_wcs(x, y):
    """The gwcs of a square exposure of SIDE pixels, 0.03 arcsec each, whose pixel (x, y) is at (215, 52) degrees."""
    import gwcs
    from astropy.coordinates import ICRS
    from astropy.modeling.models import Pix2Sky_TAN, RotateNative2Celestial, Scale, Shift
    from astropy.units import pix
    from gwcs import coordinate_frames as frames

    scale = 0.03 / 3600
    to_sky = (
        (Shift(-x) & Shift(-y)) | (Scale(scale) & Scale(scale)) | Pix2Sky_TAN() | RotateNative2Celestial(215, 52, 180)
    )
    detector = frames.Frame2D(name="detector", unit=(pix, pix))
    wcs = gwcs.WCS([(detector, to_sky), (frames.CelestialFrame(name="world", reference_frame=ICRS()), None)])
    wcs.bounding_box = ((-0.5, SIDE - 0.5), (-0.5, SIDE - 0.5))
    return wcs
