"""JSON of others: whatever a file holds, it is read or refused by its name."""

import pytest

from tessera.json_files import read_any


@pytest.mark.parametrize("written", [r'{"a": "\ud800"}', r'["\uDFFF and more"]', r'{"\ud83d": 1}', r'"\ud83d\ud83d"'])
def test_half_a_character_is_refused_by_the_name_of_the_file(tmp_path, written):
    path = tmp_path / "modules.json"
    path.write_text(written, encoding="utf-8")
    with pytest.raises(ValueError, match=r"modules\.json is not JSON: \\ud[0-9a-f]{3} is half a character"):
        read_any(path)


def test_both_halves_are_a_character(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(r'{"\ud83d\udc4d": "\ud83D\uDC4D", "not": "\\ud800"}', encoding="utf-8")
    assert read_any(path) == {"👍": "👍", "not": r"\ud800"}
