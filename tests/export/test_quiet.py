"""Exporters and what they do to the log of a process."""

import logging

import pytest

from tessera.export.tracing import quiet


def test_a_conversion_that_fails_leaves_our_warnings_audible(tmp_path):
    openvino = pytest.importorskip("openvino")
    (tmp_path / "no.onnx").write_bytes(b"no graph")
    root = logging.root
    before = root.level, root.filters[:], root.handlers[:], root.manager.disable
    with pytest.raises(openvino.tools.ovc.error.Error), quiet():
        openvino.convert_model(tmp_path / "no.onnx")
    assert (root.level, root.filters, root.handlers, root.manager.disable) == before
