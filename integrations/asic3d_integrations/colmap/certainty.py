"""How sure a model's cameras are, from the covariance of its bundle adjustment.

Rotations are nearly always sure. Where cameras stand is not, where each photo's focal length had to be found too and
the photos were taken from about one side: nearer with a shorter lens looks nearly the same.
"""

from itertools import combinations
from typing import Any

import numpy as np

from asic3d_integrations.colmap.database import quiet_pycolmap

_UNSURE = 0.5
"""Degrees by which a pixel of error moves the direction from one camera to another, the median over pairs. Measured:
1.6 for a rendered toy in eight photos of different cameras, whose directions were off by 3.9; 0.06 to 0.15 for a ring,
a facade and a door, each of one camera, whose directions were off by 0.02 to 0.7."""


def caution(model: Any, known: bool) -> str:
    """What to be careful about in a model that is right otherwise, in words; '' where there is nothing.

    Args:
        model: a ``pycolmap.Reconstruction``.
        known: whether the focal lengths were measured or given.
    """
    moved = direction_error(model, known)
    if not moved >= _UNSURE:
        return ""
    sentence = (
        "Where the cameras stand is less sure than how they are turned: a pixel of error in the matches moves the "
        f"direction from one to another by {moved:.1f} degrees, against less than 0.2 where it is sure."
    )
    if known:
        return sentence
    return f"{sentence} A known focal length (--focal) makes it surer, or --shared-camera where one camera took all."


def direction_error(model: Any, known: bool) -> float:
    """Degrees by which matches that are a pixel off move the direction from one camera to another.

    Returns:
        The standard deviation, the median over all pairs of photos; NaN where it can't be found.
    """
    pycolmap = quiet_pycolmap()
    options = pycolmap.BundleAdjustmentOptions()
    options.print_summary = False
    options.refine_focal_length = options.refine_extra_params = not known
    config = pycolmap.BundleAdjustmentConfig()
    for number in model.reg_image_ids():
        config.add_image(number)
    config.fix_gauge(pycolmap.BundleAdjustmentGauge.TWO_CAMS_FROM_WORLD)
    wanted = pycolmap.BACovarianceOptions(params=pycolmap.BACovarianceOptionsParams.POSES)
    adjuster = pycolmap.create_default_ceres_bundle_adjuster(options, config, model)
    covariance = pycolmap.estimate_ba_covariance(wanted, model, adjuster)
    if covariance is None:
        return float("nan")
    found = []
    for one, other in combinations(sorted(model.reg_image_ids()), 2):
        first, second = (model.image(number).cam_from_world() for number in (one, other))
        spread = covariance.get_cam2_cov_from_cam1(one, first, other, second)
        step = np.asarray((second * first.inverse()).translation)
        length = float(np.linalg.norm(step))
        if spread is None or length == 0:  # of the two cameras that hold the frame
            continue
        across = np.eye(3) - np.outer(step, step) / length**2
        found.append(np.degrees(np.sqrt(max(float(np.trace(across @ spread[3:, 3:] @ across)), 0)) / length))
    return float(np.median(found)) if found else float("nan")
