"""Hard negatives of a contrastive phase: by hand, as a law, and what is kept of them in a run folder."""

import shutil

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from whole_run import Dies

from tessera.data.shards import Shards
from tessera.files import read_json, write_json
from tessera.lessons.hard_negatives import Known, dealt, hardest
from tessera.plan.loading import load
from tessera.plan.phase import Contrast
from tessera.progress import Silent
from tessera.run import run


def at(*degrees):
    """Unit vectors in a plane."""
    angles = np.deg2rad(np.array(degrees, np.float32))
    return np.stack((np.cos(angles), np.sin(angles)), axis=1)


def keys(*texts):
    return np.array(texts, np.uint64)


def mined(first, second, asked, said, **how):
    return hardest(first, second, asked, said, Known.of(asked, said), Contrast(**how)).tolist()


def test_the_nearest_but_for_the_answer_by_hand():
    first, second = at(0, 90, 180, 270), at(20, 100, 150, 230)
    assert mined(first, second, keys(1, 2, 3, 4), keys(10, 20, 30, 40), negatives=3, below=1.0) == [
        [1, 3, 2],  # 100, 130, 150 degrees away
        [2, 0, 3],  # 60, 70, 140
        [3, 1, 0],  # 50, 80, 160
        [0, 2, 1],  # 110, 120, 170
    ]


def test_what_is_nearer_than_a_share_of_the_answer_is_left_out():
    first, second = at(0, 200, 210), at(60, 62, 100)  # cosines with the first 0.5, 0.469, -0.17
    asked, said = keys(1, 2, 3), keys(10, 20, 30)
    assert mined(first, second, asked, said, negatives=2, below=0.95)[0] == [1, 2]
    assert mined(first, second, asked, said, negatives=2, below=0.9)[0] == [2, -1]


def test_another_answer_of_the_same_text_and_the_text_itself_are_none():
    first, second = at(0, 0, 90, 180), at(0, 30, 40, 50)
    asked, said = keys(1, 1, 2, 3), keys(10, 20, 1, 30)  # 10 and 20 answer 1, and the third says the same
    assert mined(first, second, asked, said, negatives=3, below=1.0)[0] == [3, -1, -1]


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_it_is_the_most_similar_that_is_allowed(data):
    n, count = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 3))
    below = data.draw(st.sampled_from([0.5, 0.95, 1.0]))
    rng = np.random.default_rng(data.draw(st.integers(0, 10**6)))
    texts = rng.standard_normal((8, 3)).astype(np.float32)  # of the same text the same vector
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    asked, said = rng.integers(0, 8, n).astype(np.uint64), rng.integers(0, 8, n).astype(np.uint64)
    first, second = texts[asked.astype(int)], texts[said.astype(int)]
    known = {(int(a), int(b)) for a, b in zip(asked, said, strict=True)}
    for pair, found in enumerate(mined(first, second, asked, said, negatives=count, below=below)):
        negatives = [int(said[other]) for other in found if other >= 0]
        own = float(first[pair] @ second[pair])
        allowed = {
            int(text): float(first[pair] @ texts[int(text)])
            for text in said
            if (int(asked[pair]), int(text)) not in known and text != asked[pair]
        }
        limit = own - (1 - below) * abs(own)
        allowed = {text: cosine for text, cosine in allowed.items() if cosine <= limit}
        assert negatives == sorted(allowed, key=lambda text: -allowed[text])[:count]


@pytest.mark.parametrize(("n", "among"), [(1, 2), (10, 3), (100, 7), (100, 100), (100, 101)])
def test_groups_hold_every_pair_once_and_no_more_than_asked(n, among):
    numbers = np.arange(n) * 3
    groups = dealt(numbers, among, 5)
    assert sorted(np.concatenate(groups).tolist()) == numbers.tolist()
    assert max(map(len, groups)) <= among
    assert max(map(len, groups)) - min(map(len, groups)) <= 1


# ------------------------------------------------------------------------------------------------- kept in a run folder

EMBEDDING = {"tokens": "3k", "context": 32, "batch_tokens": "1k", "learning_rate": {"peak": 1e-2}}


@pytest.fixture(scope="module")
def hard_file(recipe_file):
    """A phase of pre-training, and one that contrasts with hard negatives."""
    data = yaml.safe_load(recipe_file.read_text(encoding="utf-8"))
    first = {**data["phases"][0], "tokens": "1k"}
    hard = {"name": "hard", "from": first["name"], **EMBEDDING, "contrast": {"negatives": 2, "among": 12, "below": 1.0}}
    data |= {"phases": [first, hard], "merges": [], "evaluation": {}}
    path = recipe_file.with_name("hard.yaml")
    path.write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def hard(hard_file, tmp_path_factory):
    return run(load(hard_file), tmp_path_factory.mktemp("hard") / "run", until="train")


def of(folder):
    return {path.name: path.read_bytes() for path in (folder / "hard" / "negatives").iterdir()}


class Heard(Silent):
    def __init__(self):
        self.lines = []

    def say(self, text):
        self.lines.append(text)


def again(hard, hard_file, tmp_path, change, *, keep_model=True):
    """A copy of the run whose last phase is to be trained once more, after `change(its folder)`: what it said."""
    shutil.copytree(hard, tmp_path / "run", symlinks=True)
    phase, heard = tmp_path / "run" / "hard", Heard()
    (phase / "final").unlink()
    change(phase)
    run(load(hard_file), tmp_path / "run", until="train", watcher=heard)
    return [line for line in heard.lines if "hard negatives of" in line]


def test_no_negative_is_an_answer_and_each_pair_that_is_read_has_its_own(hard):
    shards = Shards.open(hard / "shards" / "pairs")

    def text(document):
        ends = shards.offsets[document : document + 2]
        return tuple(shards.gather(ends[:1], np.diff(ends)).tolist())

    index = read_json(hard / "hard" / "negatives" / "mined.json")
    found = np.concatenate([np.load(hard / "hard" / "negatives" / part) for part in index["parts"]])
    answers = {}
    for pair in found[:, 0].tolist():
        answers.setdefault(text(2 * pair), set()).add(text(2 * pair + 1))
    assert len(found) == len(np.unique(found[:, 0])) > 12
    assert (found[:, 1:] >= 0).any()
    for pair, *negatives in found.tolist():
        for negative in (number for number in negatives if number >= 0):
            assert text(2 * negative + 1) not in answers[text(2 * pair)]
            assert text(2 * negative + 1) != text(2 * pair)


def test_what_is_whole_is_not_mined_again(hard, hard_file, tmp_path):
    assert again(hard, hard_file, tmp_path, lambda phase: None) == []
    assert of(tmp_path / "run") == of(hard)


@pytest.mark.parametrize("what", ["cut", "gone", "index", "index gone"])
def test_what_is_damaged_is_mined_again_and_is_the_same(hard, hard_file, tmp_path, what, logged):
    def damage(phase):
        folder = phase / "negatives"
        place = folder / "mined.json" if "index" in what else sorted(folder.glob("*.npy"))[0]
        if "gone" in what:
            place.unlink()
        else:
            place.write_bytes(place.read_bytes()[:-3])

    assert len(again(hard, hard_file, tmp_path, damage)) == 1
    assert of(tmp_path / "run") == of(hard)
    assert "gone" in what or any("again" in line for line in logged)


def by_another_model(phase):
    index = phase / "negatives" / "mined.json"
    found = {key: value for key, value in read_json(index).items() if key != "sha256"}
    write_json(index, {**found, "model": "another"}, sealed=True)


def test_another_model_mines_anew_as_long_as_the_phase_has_no_checkpoint(hard, hard_file, tmp_path):
    def begin_anew(phase):
        by_another_model(phase)
        for checkpoint in phase.glob("checkpoint-*"):
            shutil.rmtree(checkpoint)

    assert len(again(hard, hard_file, tmp_path, begin_anew)) == 1
    assert of(tmp_path / "run") == of(hard)


def test_a_phase_with_a_checkpoint_keeps_what_it_mined_whatever_became_of_the_model(hard, hard_file, tmp_path):
    assert again(hard, hard_file, tmp_path, by_another_model) == []


def test_killed_while_it_mines_it_goes_on_after_the_last_whole_group(hard, hard_file, tmp_path):
    kills = 0
    for _ in range(100):
        try:
            run(load(hard_file), tmp_path / "run", until="train", watcher=Dies(at=9))
            break
        except KeyboardInterrupt:
            kills += 1
    assert kills >= 3
    assert of(tmp_path / "run") == of(hard)
    file = "hard/final/model.safetensors"
    assert (tmp_path / "run" / file).read_bytes() == (hard / file).read_bytes()
