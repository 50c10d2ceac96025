import pytest

from tessera.evaluation import catalogue
from tessera.evaluation.catalogue import TaskError
from tessera.plan.task import Splits

MINE = """
reviews:
  kind: classify
  data: {path: "reviews/{language}/{split}.jsonl"}
  columns: {text: text, label: stars}
  metric: accuracy
"""


@pytest.mark.parametrize("name", [task.name for task in catalogue.known()])
def test_every_shipped_task_is_found_and_every_protocol_knows_what_to_do_with_it(name):
    task = catalogue.find(name)
    assert task.name == name
    if task.trained:
        place = task.source("train").splits.place("train")
        assert place, "there is something to train on"
        assert task.source("validation").splits.place("validation"), "there is something to choose on"
    assert task.data.splits.place("test"), "there is something to test on"
    assert task.data.hub or task.data.path
    for protocol in catalogue.protocols():
        for family in (None, "eurobert", "mmbert", "xlm-roberta", "unheard-of"):
            assert catalogue.protocol(protocol, task, family).variants()


def test_the_papers_are_covered():
    groups = {name: [task.name for task in tasks] for name, tasks in catalogue.groups().items()}
    assert sorted(groups["glue"]) == sorted(["cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte", "wnli"])
    assert len(groups["eurobert"]) == 18
    assert len(groups["coir"]) == 10
    table = ["xnli", "paws-x", "xcopa", "xquad", "mlqa", "tydiqa", "wikiann", "udpos"]  # the columns of mmBERT's
    assert set(table) <= set(groups["xtreme"])
    sizes = {
        name: len(catalogue.find(name).languages) for name in ("xnli", "paws-x", "xcopa", "xquad", "tydiqa", "mlqa")
    }
    assert sizes == {"xnli": 15, "paws-x": 7, "xcopa": 11, "xquad": 11, "tydiqa": 9, "mlqa": 7}


@pytest.mark.slow
def test_coir_is_where_mteb_has_it():
    mteb = pytest.importorskip("mteb")
    theirs = {task.metadata.dataset["path"] for task in mteb.get_benchmark("CoIR").tasks}
    ours = {task.data.hub for task in catalogue.groups()["coir"]}
    moved = {"mteb/StackOverflowQA": "CoIR-Retrieval/stackoverflow-qa"}  # a copy, with other columns
    assert ours == {moved.get(path, path) for path in theirs}


def test_names_are_written_right_or_the_nearest_is_said():
    with pytest.raises(TaskError, match="no task is called 'xnil'; did you mean 'xnli'"):
        catalogue.find("xnil")
    with pytest.raises(TaskError, match="no protocol is called 'eurbert'; did you mean 'eurobert'"):
        catalogue.protocol("eurbert")


def test_your_own_task_is_a_few_lines_of_yaml(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(MINE)
    assert catalogue.find(str(path)).name == "reviews"
    assert catalogue.find(f"{path}:reviews").metric == "accuracy"
    names = [task.name for task in catalogue.choose(["rte", str(path), "lowresource", "rte"])]
    assert names == ["rte", "reviews", "tiquad", "foqa"]
    path.write_text(MINE + MINE.replace("reviews:", "rte:"))
    with pytest.raises(TaskError, match=r"has the tasks reviews, rte; say which, as in .*mine.yaml:reviews"):
        catalogue.find(str(path))
    with pytest.raises(TaskError, match=r"mine.yaml: rte is the name of a task that comes with tessera.*as my-rte"):
        catalogue.choose([f"{path}:rte"])
    (tmp_path / "other.yaml").write_text(MINE.replace("accuracy", "macro_f1"))
    with pytest.raises(TaskError, match="two tasks are called 'reviews'"):
        catalogue.choose([f"{path}:reviews", f"{tmp_path}/other.yaml"])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (MINE.replace("metric: accuracy", "metric: acuracy"), "mine.yaml: reviews: metric: Input should be"),
        (MINE.replace("  kind: classify\n", ""), "mine.yaml: reviews: kind: is missing"),
        (MINE.replace("  metric", "  metrik"), "unknown key 'metrik'; did you mean 'metric'?"),
        (
            MINE.replace("text: text", "txt: text"),
            "reviews: columns: 'txt' is no role of kind classify; did you mean 'text'",
        ),
        (MINE + MINE, "'reviews' stands here twice"),
        ("reviews: 3", "reviews: keys and values are needed here"),
        ("- a", "names and what they stand for are needed here"),
        ("{", "not a YAML file"),
        ("{}", "holds no tasks"),
    ],
)
def test_a_mistake_in_a_file_is_said_with_its_place(tmp_path, text, says):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(TaskError) as error:
        catalogue.find(f"{path}:reviews")
    assert says in str(error.value)
    with pytest.raises(TaskError, match="no such file"):
        catalogue.find(str(tmp_path / "other.yaml"))


def test_a_protocol_changes_with_the_kind_then_the_task_then_the_family():
    every = catalogue.protocol("eurobert")
    assert (every.steps, every.batch_size, every.warmup_ratio, len(every.rates())) == (10_000, 32, 0.1, 10)
    assert every.betas == (0.9, 0.95)
    assert catalogue.protocol("eurobert", catalogue.find("eurobert-miracl")).steps == 1000
    assert catalogue.protocol("eurobert", catalogue.find("eurobert-seahorse")).steps == 5000
    assert catalogue.protocol("eurobert", None, "xlm-roberta").betas == (0.9, 0.98)
    squad = catalogue.protocol("nlu-evals", catalogue.find("xquad"))
    assert (squad.epochs, squad.rates(), squad.max_length, squad.stride) == (3, (3e-5,), 384, 128)
    assert catalogue.protocol("nlu-evals", catalogue.find("rte")).from_task == "mnli"
    assert {v.epochs for v in catalogue.protocol("modernbert", catalogue.find("rte")).variants()} == {1, 2, 3}
    assert {v.epochs for v in catalogue.protocol("modernbert", catalogue.find("qnli")).variants()} == {2, 5, 10}


def test_your_own_protocol_is_a_file_too(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("long: {epochs: 3, batch_size: 8, learning_rates: [1e-5], kinds: {tag: {steps: 7}}}")
    assert catalogue.protocol(f"{path}:long").epochs == 3
    assert catalogue.protocol(f"{path}:long", catalogue.find("udpos")).steps == 7
    path.write_text("long: {epochs: 3, batch_size: 8, learning_rates: [1e-5], kinds: {tga: {steps: 7}}}")
    catalogue._protocols.cache_clear()
    with pytest.raises(TaskError, match="kinds: no kind 'tga'; did you mean 'tag'"):
        catalogue.protocol(f"{path}:long")


def test_the_list_says_what_there_is_and_what_is_here(tmp_path):
    (tmp_path / "foqa/fao_Latn").mkdir(parents=True)
    (tmp_path / "foqa/fao_Latn/test.jsonl").write_text("{}")
    columns, rows = catalogue.table(catalogue.choose(["lowresource", "xnli"]), tmp_path)
    assert [" ".join(row) for row in [columns, *rows]] == [
        "task kind languages metric trained on from here",
        "tiquad span tir_Ethi squad_f1 own fgaim/tiquad no",
        "foqa span fao_Latn squad_f1 own alexandrainst/foqa yes",
        "xnli pair 15: en ar bg ... accuracy en facebook/xnli no",
    ]


def test_a_protocol_of_a_file_needs_no_name_where_there_is_but_one(tmp_path):
    path, both = tmp_path / "one.yaml", tmp_path / "both.yaml"
    path.write_text("long: {epochs: 3, batch_size: 8, learning_rates: [1e-5]}")
    assert catalogue.protocol(str(path)).name == "long"
    both.write_text(path.read_text() + "\nshort: {steps: 3, batch_size: 8, learning_rates: [1e-5]}")
    with pytest.raises(TaskError, match=r"has the protocols long, short; say which, as in .*both.yaml:long"):
        catalogue.protocol(str(both))


def test_a_protocol_of_yours_has_a_name_of_its_own(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("quick: {epochs: 3, batch_size: 8, learning_rates: [1e-5]}")
    with pytest.raises(TaskError, match=r"quick is the name of a protocol that comes with tessera.*as my-quick"):
        catalogue.protocol(f"{path}:quick")


def test_another_task_by_the_name_of_a_shipped_one_gets_none_of_its_settings():
    """As a recipe may write it out; a file of yours may not."""
    rte = catalogue.find("rte")
    assert catalogue.comes_along(rte.model_copy(update={"group": "", "languages": ("eng_Latn",)}))
    mine = rte.model_copy(update={"data": rte.data.model_copy(update={"path": "mine/{split}.jsonl"})})
    assert not catalogue.comes_along(mine)
    assert catalogue.protocol("nlu-evals", rte).from_task == "mnli"
    assert catalogue.protocol("nlu-evals", mine).from_task is None
    assert catalogue.choose([mine]) == [mine]


def test_quick_tries_several_rates_and_one_where_there_is_nothing_to_choose_by():
    one = catalogue.find("sib200")
    assert catalogue.protocol("quick", one).rates() == (5e-5, 2e-4, 1e-3)
    bare = one.model_copy(update={"data": one.data.model_copy(update={"splits": Splits(train="train", test="test")})})
    assert catalogue.protocol("quick", bare).rates() == (5e-5,)


def test_what_a_protocol_changes_without_validation_is_keys_and_values(tmp_path):
    path = tmp_path / "p.yaml"
    path.write_text("mine: {epochs: 3, batch_size: 8, learning_rates: [1e-5], without_validation: 1}")
    with pytest.raises(TaskError, match=r"mine: keys and values are needed here"):
        catalogue.protocol(f"{path}:mine")
