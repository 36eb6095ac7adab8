import diffusers.utils.logging as diffusers_logging
import pytest
import transformers.utils.logging as transformers_logging
from huggingface_hub.utils import (
    are_progress_bars_disabled,
    disable_progress_bars,
    enable_progress_bars,
)

from controlnet.architecture.backbone import load_base
from controlnet.architecture.model_folder import without_bars
from schemas.errors import ConfigError
from tests.controlnet.tiny_bases import base_folder

LIBRARIES = (transformers_logging, diffusers_logging)


@pytest.fixture(autouse=True)
def _shown():
    for library in LIBRARIES:
        library.enable_progress_bar()
    yield
    for library in LIBRARIES:
        library.enable_progress_bar()


def shown():
    return [library.is_progress_bar_enabled() for library in LIBRARIES]


def test_only_downloads_show_bars_inside():
    with without_bars():
        assert shown() == [False, False]
        assert not are_progress_bars_disabled()


@pytest.mark.parametrize("off", [(), LIBRARIES, LIBRARIES[:1], LIBRARIES[1:]])
def test_bars_are_afterwards_what_they_were(off):
    for library in off:
        library.disable_progress_bar()
    before = shown()
    with pytest.raises(ConfigError), without_bars():
        raise ConfigError("as where a base is not there")
    assert shown() == before == [library not in off for library in LIBRARIES]


@pytest.mark.parametrize("switch", [disable_progress_bars, enable_progress_bars])
def test_downloads_show_bars_if_they_did(switch):
    switch()
    silent = are_progress_bars_disabled()
    with without_bars():
        assert are_progress_bars_disabled() is silent
    assert are_progress_bars_disabled() is silent


def test_a_loaded_base_leaves_the_bars_of_its_user():
    load_base(str(base_folder("sd15")), offline=True)
    assert shown() == [True, True]
