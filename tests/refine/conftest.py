"""Scenes that several tests of this folder share."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def scenes() -> ModuleType:
    """The module irn_scenes.py, which lies beside this file."""
    name = "wsseg_tests_irn_scenes"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            name, Path(__file__).with_name("irn_scenes.py")
        )
        module = importlib.util.module_from_spec(spec)
        # Its dataclasses look their annotations up there.
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]
