"""An INT8 set of the tiny network, quantised once for all tests of the exporter."""

import pytest
from int8_samples import ranges_of

from dynvid.exporter.int8.quantized_variants import QuantizedVariants
from dynvid.grid.bundle import write_bundle


@pytest.fixture(scope="session")
def twins(tiny_bundle):
    return QuantizedVariants(tiny_bundle, ranges_of(tiny_bundle))


@pytest.fixture(scope="session")
def int8_bundle(twins, tmp_path_factory):
    made = twins.bundle({})
    return write_bundle(tmp_path_factory.mktemp("int8") / "bundle", made.manifest, made.held)
