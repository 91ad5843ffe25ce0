"""Settings of a dense CRF, and the sets of numbers that published code uses."""

from __future__ import annotations

from pydantic import Field

from wsseg.config import Config


class CrfConfig(Config):
    """Kernels and iterations of a dense CRF; the defaults are those of PSA, SEAM and most code."""

    iterations: int = Field(10, ge=0, le=1000, description="Mean-field iterations.")
    gauss_sxy_px: float = Field(
        3.0, gt=0, description="Standard deviation of the smoothness kernel, pixels."
    )
    gauss_compat: float = Field(
        3.0, ge=0, description="Weight of the smoothness kernel; 0 turns it off."
    )
    bilateral_sxy_px: float = Field(
        80.0, gt=0, description="Position standard deviation of the appearance kernel, pixels."
    )
    bilateral_srgb: float = Field(
        13.0, gt=0, description="Colour standard deviation of the appearance kernel, grey levels."
    )
    bilateral_compat: float = Field(
        10.0, ge=0, description="Weight of the appearance kernel; 0 turns it off."
    )

    @property
    def sigmas(self) -> tuple[float, float, float]:
        """``(gauss_sxy_px, bilateral_sxy_px, bilateral_srgb)``, all that lattices depend on."""
        return self.gauss_sxy_px, self.bilateral_sxy_px, self.bilateral_srgb


# Parameter sets of published code; IRN's expects unaries from labels with gt_prob 0.7.
PSA = CrfConfig()
IRN = CrfConfig(bilateral_sxy_px=50, bilateral_srgb=5)
DEEPLAB = CrfConfig(gauss_sxy_px=1, bilateral_sxy_px=67, bilateral_srgb=3, bilateral_compat=4)
PRESETS = {"psa": PSA, "irn": IRN, "deeplab": DEEPLAB}
