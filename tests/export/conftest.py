"""What the tests of export share."""

import pytest

from tessera.export import tracing


@pytest.fixture(scope="module")
def traced_once(tmp_path_factory):
    """Each family is traced once in a file of tests, and its graph taken from there: for one model of each family."""
    kept, really = tmp_path_factory.mktemp("graphs"), tracing.trace

    def trace(padded, path):
        place = kept / f"{getattr(padded.config, 'model_type', 'ours')}.onnx"
        if not place.exists():
            really(padded, place)
        path.write_bytes(place.read_bytes())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tracing, "trace", trace)
        yield
