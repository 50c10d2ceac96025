"""What is read is what lies in the file; what is expected is asked for, in whole pages, while a disk is being read."""

import mmap
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tessera.data import mapped
from tessera.data.mapped import MmapArray

MANY = 10_000


@pytest.fixture
def file(tmp_path):
    np.arange(MANY, dtype="<u2").tofile(tmp_path / "numbers.bin")
    return MmapArray(tmp_path / "numbers.bin", np.dtype("<u2"))


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, MANY - 1), st.integers(1, MANY)), max_size=20))
def test_anything_may_be_expected(file, pieces):
    begins = np.array([begin for begin, _ in pieces], np.int64)
    ends = np.array([min(begin + size, MANY) for begin, size in pieces], np.int64)
    file._fetched = -1
    file.expect(begins, ends)
    assert file.values.tolist() == list(range(MANY))
    assert not file.values.flags.writeable


def test_pages_are_asked_for_only_while_a_disk_is_being_read(file, monkeypatch):
    asked, disk = [], SimpleNamespace(ru_inblock=0, ru_majflt=0)
    monkeypatch.setattr(mapped.resource, "getrusage", lambda who: disk)
    file._map = SimpleNamespace(madvise=lambda *given: asked.append(given))
    first = (mmap.MADV_WILLNEED, 0, 200)
    later = (mmap.MADV_WILLNEED, 2 * mmap.PAGESIZE, 6)  # from the start of the page that holds the first
    begins, ends = np.array([50, mmap.PAGESIZE]), np.array([100, mmap.PAGESIZE + 3])
    file.expect(begins, ends)
    assert asked == [first, later], "nothing is known yet"
    file.expect(begins, ends)
    assert asked == [first, later], "nothing was read since"
    disk.ru_majflt = 1
    file.expect(begins, ends)
    assert asked == [first, later] * 2
