"""Runs of the localize stage for the tests of localizers with rounds."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture
def runs() -> ModuleType:
    """The module rounds_runs.py, which lies beside this file."""
    name = "wsseg_tests_rounds_runs"
    if name not in sys.modules:
        path = Path(__file__).with_name("rounds_runs.py")
        spec = importlib.util.spec_from_file_location(name, path)
        if spec is None or spec.loader is None:
            raise ImportError(f"{path} cannot be imported.")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]
