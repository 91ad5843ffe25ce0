from __future__ import annotations

import subprocess
import sys

import pytest
from pydantic import ValidationError

from wsseg.training.config import TrainingConfig


def test_every_field_has_a_description():
    for name, field in TrainingConfig.model_fields.items():
        assert field.description, name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimiser": "psa_poly", "schedule": "cosine"}, "psa_poly needs schedule=poly"),
        ({"optimiser": "psa_poly", "warmup_frac": 0.1}, "psa_poly needs schedule=poly"),
        ({"optimiser": "sgd", "momentum": 0, "nesterov": True}, "nesterov needs momentum"),
        ({"num_workers": -1}, "allowed are auto and 0 to 256"),
        ({"epochs": 0}, "greater than or equal to 1"),
        ({"epoch": 3}, "Extra inputs"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(changes, message):
    with pytest.raises(ValidationError, match=message):
        TrainingConfig(**changes)


def test_fingerprint_follows_what_changes_the_weights():
    base = TrainingConfig().result_fingerprint("data")
    assert TrainingConfig(lr=0.5).result_fingerprint("data") != base
    assert TrainingConfig().result_fingerprint("other data") != base
    assert TrainingConfig(checkpoint_every_s=1).result_fingerprint("data") == base


def test_fingerprint_keeps_its_parts_apart():
    config = TrainingConfig()
    assert config.result_fingerprint("a", "b") != config.result_fingerprint("ab")


def test_reading_the_configuration_does_not_load_torch():
    code = "import sys, wsseg.training.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
