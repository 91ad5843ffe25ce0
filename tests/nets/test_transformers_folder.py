"""Folders of networks are refused with what is missing in them."""

from __future__ import annotations

import pytest

from wsseg.errors import MissingWeightsError
from wsseg.nets.transformers_folder import cannot_load, check_network_folder


def test_a_folder_without_files_is_told_what_it_lacks(tmp_path):
    with pytest.raises(MissingWeightsError, match=r"no config\.json and no processor_config"):
        check_network_folder(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(MissingWeightsError, match=r"it has no processor_config\.json or "):
        check_network_folder(str(tmp_path))
    (tmp_path / "preprocessor_config.json").write_text("{}")
    check_network_folder(str(tmp_path))


def test_a_path_that_does_not_exist_is_no_name_of_the_hub(tmp_path):
    with pytest.raises(MissingWeightsError, match="is no folder"):
        check_network_folder(str(tmp_path / "missing"))
    (tmp_path / "weights.bin").write_bytes(b"")
    with pytest.raises(MissingWeightsError, match="is no folder"):
        check_network_folder(str(tmp_path / "weights.bin"))
    check_network_folder("someone/network")


def test_the_first_line_of_the_reason_and_the_remedy_are_said():
    said = str(cannot_load("net", OSError("gone\nlong story"), "Copy it."))
    assert said == "The network net cannot be loaded (gone). Copy it."
    assert "(KeyError)" in str(cannot_load("net", KeyError(), "Copy it."))
