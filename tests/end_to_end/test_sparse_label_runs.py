"""Runs with losses and networks that look at more than masks."""

from __future__ import annotations

import pytest

from wsseg.errors import DataError
from wsseg.pipeline import run


def test_a_network_that_looks_at_boxes_is_refused_where_there_are_none(
    template, recipe_path, tmp_path
):
    overrides = ("segment={name: bb_unet, training: {epochs: 1}}",)
    with pytest.raises(DataError, match="bb_unet, which looks at boxes"):
        run(template, recipe=recipe_path, overrides=overrides, out=tmp_path / "run")
    assert not (tmp_path / "run" / "localize" / "training").exists()
