"""A picture, and the listing of a source down to its references."""

import io

import pytest
from PIL import Image

from pipeline.config import GenerateConfig
from pipeline.sources import Container, index_container, iter_reads, list_source, resolve_source


def _jpeg(shade=0):
    buffer = io.BytesIO()
    Image.new("L", (4, 4), shade).save(buffer, "JPEG")
    return buffer.getvalue()


def _listed(source, notes=None, **options):
    config = GenerateConfig(source=str(source), output="out", conditions=("canny",), **options)
    spec = resolve_source(config)
    refs = []
    for found in list_source(spec, notes):
        is_container = isinstance(found, Container)
        refs.extend(index_container(found, spec, notes) if is_container else [found])
    return spec, refs


@pytest.fixture(scope="session")
def jpeg():
    return _jpeg


@pytest.fixture(scope="session")
def listed():
    """Source and options -> (spec, references)."""
    return _listed


@pytest.fixture(scope="session")
def read_all():
    """Source and options -> source name -> RawImage, of references without a problem."""

    def read(source, **options):
        spec, refs = _listed(source, **options)
        good = [ref for ref in refs if ref.problem is None]
        return {ref.source: fetch() for ref, fetch in iter_reads(good, spec)}

    return read


@pytest.fixture(scope="session")
def problems():
    """References -> source name -> reason, of those with a problem."""
    return lambda refs: {ref.source: ref.problem.reason for ref in refs if ref.problem is not None}
