"""What was written is what is read: checksums of folders, files, JSON and YAML, and what a wrong bit does to each."""

import ast
import contextlib
import json
from pathlib import Path

import pytest

import tessera
from tessera import checksums
from tessera.checksums import Damaged
from tessera.files import atomic_file, keep_damaged, read_json, write_json


def flip(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def test_any_flipped_bit_of_a_sealed_folder_is_found_and_its_file_named(tmp_path):
    (tmp_path / "deep").mkdir()
    for name in ("a.bin", "deep/b.bin"):
        (tmp_path / name).write_bytes(b"0123456789")
    checksums.seal(tmp_path)
    assert checksums.check_folder(tmp_path)
    for name in ("a.bin", "deep/b.bin"):
        for at in range(10):
            flip(tmp_path / name, at)
            with pytest.raises(Damaged, match=f"{name}: its bytes have changed since it was written"):
                checksums.check_folder(tmp_path)
            flip(tmp_path / name, at)
    (tmp_path / "a.bin").write_bytes(b"01234")
    with pytest.raises(Damaged, match=r"a\.bin: has 5 bytes, 10 were written"):
        checksums.check(tmp_path / "a.bin")


def test_a_step_within_a_folder_is_named_by_its_manifest_and_one_file_can_be_sealed_again(tmp_path):
    model = tmp_path / "model"
    (model / "1_Pooling").mkdir(parents=True)
    for name in ("README.md", "a.bin", "1_Pooling/config.json"):
        (model / name).write_text(f"of {name}")
    checksums.seal(model)
    assert checksums.check(model / "1_Pooling" / "config.json")
    assert not checksums.check(tmp_path / "beside.json")
    flip(model / "1_Pooling" / "config.json", 2)
    with pytest.raises(Damaged, match=r"1_Pooling/config\.json: its bytes have changed"):
        checksums.check(model / "1_Pooling" / "config.json")
    (model / "README.md").write_text("a section more")
    checksums.seal_again(model / "README.md")
    assert checksums.check(model / "README.md")
    with pytest.raises(Damaged, match="1_Pooling"):  # what was damaged before is not made good by it
        checksums.check_folder(model)


def test_what_is_called_a_manifest_in_the_folder_around_may_be_anything(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    for page in (
        '{"name": "a page of the web", "icons": []}',
        "{",
        '{"model/other.json": {"bytes": 1, "sha256": "a"}}',
    ):
        (tmp_path / "manifest.json").write_text(page)
        assert not checksums.check(tmp_path / "model" / "config.json")


UNSEALED = {  # folders that another file seals, that have checksums of their own, or that nobody reads again
    "huggingface/hub.py",  # within the folder of whoever calls it
    "inference/sentence_folder.py",  # the same; and Encoder.save, whose files are for people to edit
    "corpus/tokenize.py",  # token shards: their index has the checksums
    "corpus/prepare.py",
    "corpus/dedup.py",  # intermediate, removed at the end
    "demo_text.py",
}


def test_every_folder_that_a_verb_makes_has_checksums():
    package = Path(tessera.__file__).parent
    plain = set()
    for path in package.rglob("*.py"):
        calls = (node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call))
        for call in calls:
            named = ast.unparse(call.func).rpartition(".")[2] == "atomic_folder"
            if named and not any(one.arg == "sealed" for one in call.keywords):
                plain.add(path.relative_to(package).as_posix())
    assert plain == UNSEALED


@pytest.mark.parametrize(
    "manifest",
    ["{", "[]", "[" * 100_000, '{"a.bin": 1}', '{"../a.bin": {"bytes": 1, "sha256": ""}}', '{"a": {"bytes": 1}}', "\0"],
)
def test_a_manifest_that_is_none_is_named(tmp_path, manifest):
    (tmp_path / "a.bin").write_bytes(b"0")
    (tmp_path / "manifest.json").write_text(manifest)
    with pytest.raises(Damaged, match=r"manifest\.json: is "):
        checksums.check(tmp_path / "a.bin")


def test_a_manifest_in_which_a_name_is_damaged_does_not_let_the_file_pass(tmp_path):
    (tmp_path / "a.bin").write_bytes(b"0")
    checksums.seal(tmp_path)
    (tmp_path / "manifest.json").write_text((tmp_path / "manifest.json").read_text().replace("a.bin", "c.bin"))
    with pytest.raises(Damaged, match=r"c\.bin: is missing"):
        checksums.check(tmp_path / "a.bin")


def test_what_has_no_checksum_is_taken_as_it_is(tmp_path):
    (tmp_path / "a.bin").write_bytes(b"0")
    assert not checksums.check(tmp_path / "a.bin")
    assert not checksums.check_folder(tmp_path)
    write_json(tmp_path / "a.json", {"a": 1})
    assert read_json(tmp_path / "a.json") == {"a": 1}


def test_a_file_with_its_checksum_beside_it(tmp_path):
    path = tmp_path / "00000.parquet"
    for text in (b"one", b"other"):
        with atomic_file(path, sealed=True) as draft:
            draft.write_bytes(text)
        assert checksums.check(path)
    flip(path, 2)
    with pytest.raises(Damaged, match=r"00000\.parquet: its bytes have changed"):
        checksums.check(path)


@pytest.mark.parametrize("again", [False, True])
def test_a_kill_while_a_checksum_is_written_leaves_a_whole_one_or_none(tmp_path, monkeypatch, again):
    folder, path = tmp_path / "folder", tmp_path / "folder" / "a.bin"
    folder.mkdir()
    path.write_bytes(b"one")
    if again:
        checksums.seal(folder)
    before = sorted(tmp_path.rglob("*"))

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("os.replace", killed)
        patch.setattr(Path, "write_text", killed)  # in place: what was there is lost with the first byte
        for write, target in ((checksums.seal_file, path), (checksums.seal, folder), (checksums.seal_again, path)):
            with contextlib.suppress(KeyboardInterrupt):
                write(target)
    assert sorted(tmp_path.rglob("*")) == before
    assert checksums.check(path) is again


def test_every_flipped_bit_of_sealed_json_is_found_or_changes_nothing(tmp_path):
    path, data = tmp_path / "a.json", {"model": "é", "results": {"de": {"f1": 0.25}}, "n": [1, 2, 30]}
    write_json(path, data, sealed=True)
    whole = path.read_bytes()
    for at in range(len(whole)):
        for bit in range(8):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :])
            with contextlib.suppress(Damaged):
                found = read_json(path)
                assert {key: found.get(key) for key in data} == data
    path.write_bytes(b"[" * 100_000)
    with pytest.raises(Damaged, match="too deep"):
        read_json(path)


def test_how_long_something_took_is_no_part_of_its_checksum(tmp_path):
    sealed = [checksums.sealed_json({"a": 1, "seconds": s, "b": [{"seconds": s}]})["sha256"] for s in (1.0, 2.0)]
    assert sealed[0] == sealed[1]


def test_a_damaged_file_is_kept_aside_and_a_whole_one_stays(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"a": 1}, sealed=True)
    assert keep_damaged(path) is None
    path.write_text(json.dumps({**json.loads(path.read_text()), "a": 2}))
    assert keep_damaged(path) == tmp_path / "a.json.damaged"
    assert keep_damaged(path) is None


def test_yaml_ends_with_its_checksum(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(checksums.sealed_text("name: a\nseed: 1\n"))
    assert checksums.check_text(path)
    path.write_text(path.read_text().replace("seed: 1", "seed: 3"))
    with pytest.raises(Damaged, match=r"recipe\.yaml: is not what was written"):
        checksums.check_text(path)
    path.write_text("name: a\n")
    assert not checksums.check_text(path)
