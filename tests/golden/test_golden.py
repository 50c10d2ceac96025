"""What tessera does today, pinned from outside: commands, and the files and words that come of them.

What was recorded lies in `recorded`; `python tests/golden/record.py` writes it anew. Losses are compared to the last
bit where they were recorded (processor and versions as `golden_runs.environment` has them), elsewhere as far as is
honest.
"""

import os
import shutil

import golden_runs as runs
import pytest
from golden_runs import ANEW, RECORDED, TASKS, TRAINED
from golden_text import COUNTS
from record import COMMANDS

LONG_AGO = 1_000_000_000  # seconds after 1970


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return runs.setting(tmp_path_factory.mktemp("golden"))


# Elsewhere than where they were recorded, floats are summed up in another order. Tried on one machine by
# ATEN_CPU_CAPABILITY=default and avx2, ONEDNN_MAX_CPU_ISA=SSE41, MKL_CBWR=COMPATIBLE, OPENBLAS_CORETYPE=Nehalem and two
# threads: losses moved by up to 3e-6 of themselves, the Pearson correlation by 7e-7, and no score that counts examples
# moved at all. So losses are what is looked at closely; of scores one example in each language may come out otherwise.
def near_loss(place, value):
    return 2e-4 * abs(value)


def near_score(place, value):
    metric = place.rpartition("/")[2]
    if metric in ("loss", "bits_per_byte", "pearson"):
        return near_loss(place, value)
    one = 1 / COUNTS["test"]
    return one if metric.startswith(("accuracy", "exact", "recall")) else 2 * one  # F1s, ranks: both sides of a share


def same_mean(place, value):
    return 1e-12 * max(1, abs(value))  # whose parts may be added in another order


def at_home(recorded):
    """Whether sums of floats have to come out as they were recorded."""
    return recorded["environment"] == runs.environment()


def test_a_prepared_corpus_is_the_same_bytes(place):
    changed = runs.changes(runs.read("shards.json"), runs.checksums(place, place / "prepared"))
    assert not changed, f"checksums of shards or tokenizer have changed:\n{changed}{ANEW}"


@pytest.fixture(scope="module")
def trained(place):
    """Losses by phase, of a run whose folder is `place/run`."""
    return runs.losses(place, place / "run")


def test_the_first_losses_of_both_phases_are_what_they_were(trained):
    recorded = runs.read("losses.json")
    changed = runs.changes(recorded["phases"], trained, None if at_home(recorded) else near_loss)
    assert not changed, f"losses or bits per byte have changed:\n{changed}{ANEW}"


def test_the_evaluation_of_a_recipe_finds_what_it_found(place, trained, tmp_path):
    recorded = runs.read("scores.json")
    found = runs.evaluate_recipe(place, place / "run", tmp_path)
    near = same_mean if at_home(recorded) else near_score
    changed = runs.changes(recorded["recipe"], {task: runs.scores(whole) for task, whole in found.items()}, near)
    assert not changed, f"scores of a recipe's evaluation have changed:\n{changed}{ANEW}"
    for name, task in (("mining", "same"), ("topics", "topic-probe")):  # the same rows by --recipe and by --task
        by_task = runs.scores(runs.evaluate(place, tmp_path / "by_task", task))
        changed = runs.changes(by_task["results"], runs.scores(found[name])["results"], near)
        assert not changed, f"{name} of a recipe has other scores than the task {task}:\n{changed}"


@pytest.mark.parametrize("task", TASKS)
def test_a_task_of_every_kind_is_judged_as_it_was(place, tmp_path, task):
    recorded, kept = runs.read("scores.json"), runs.trials_of(task)
    found = runs.scores(runs.evaluate(place, tmp_path, task))
    before, now = runs.trials(RECORDED, kept), runs.trials(tmp_path, runs.trial_files(tmp_path))
    near = same_mean
    if not at_home(recorded):  # then what was predicted may differ here and there
        before, now, near = runs.courses(before), runs.courses(now), near_score
    changed = runs.changes(recorded["tasks"][task], found, near) + runs.changes(before, now, near)
    assert not changed, f"scores or trials of {task} have changed:\n{changed}{ANEW}"


@pytest.mark.parametrize("task", TRAINED)
def test_trials_have_the_names_and_identities_that_they_had(place, tmp_path, task):
    runs.evaluate(place, tmp_path, task)
    identities = {name: runs.read("identities.json")[name] for name in runs.trials_of(task)}
    assert sorted(runs.trial_files(tmp_path)) == sorted(identities), f"trials have other names than before. {ANEW}"
    changed = runs.changes(identities, runs.identities(tmp_path))
    assert not changed, f"trials that people have finished would be run again:\n{changed}{ANEW}"


@pytest.mark.parametrize("task", TRAINED)
def test_a_finished_trial_of_today_is_not_run_again(place, tmp_path, task):
    for name in runs.trials_of(task):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(RECORDED / name, tmp_path / name)
        os.utime(tmp_path / name, (LONG_AGO, LONG_AGO))
    whole = runs.evaluate(place, tmp_path, task)
    assert set(runs.trial_files(tmp_path)) == set(runs.trials_of(task)), "other trials were run"
    for name in runs.trials_of(task):
        assert (tmp_path / name).read_bytes() == (RECORDED / name).read_bytes(), f"{name} was run again"
        assert (tmp_path / name).stat().st_mtime == LONG_AGO, f"{name} was written again"
    # What was predicted is in the files, so what follows from it is the same everywhere.
    recorded = runs.read("scores.json")
    changed = runs.changes(recorded["tasks"][task], runs.scores(whole), same_mean)
    changed += runs.changes(
        recorded["choices"][task], runs.choice(whole), lambda *_: 1e-5
    )  # an interval's t is a table
    assert not changed, f"metrics of {task}, or what is chosen, have changed:\n{changed}{ANEW}"


def test_an_oracle_chooses_among_the_same_trials_and_gives_what_it_gave(place, tmp_path):
    shutil.copytree(RECORDED / "trials" / "first.topic", tmp_path / "trials" / "first.topic")
    found = runs.scores(runs.evaluate(place, tmp_path, "topic", "first", "--oracle"))
    changed = runs.changes(runs.read("scores.json")["oracle"]["topic"], found, same_mean)
    assert not changed, f"scores of an oracle have changed:\n{changed}{ANEW}"


@pytest.mark.parametrize("name", COMMANDS)
def test_results_of_today_are_compared_in_these_words(name):
    now = runs.printed("compare", RECORDED / "results", *COMMANDS[name])
    assert now == (RECORDED / name).read_text(encoding="utf-8"), f"tessera compare prints something else. {ANEW}"
