import json
import shutil
from statistics import fmean

import pytest

from pipeline.report.comparison import doubts, load_comparison
from pipeline.report.figures.comparison import best_metrics, best_so_far, winner_curves
from pipeline.report.pages import config_value, render_comparison
from pipeline.study.folder import what_decides
from pipeline.study.provenance import note_launch
from shaping.errors import ConfigError
from tests.support.reports.page import HOSTILE, Page
from tests.support.reports.synthetic_study import SyntheticStudy


@pytest.fixture
def make(tmp_path):
    """Make a named study that ran to its end, in a folder of its name."""

    def made(name, root=tmp_path, whole=True, **changes):
        study = SyntheticStudy(root / name, name=name, **changes)
        study.random.seed(name)
        if whole:
            study.search()
            study.confirm(seeds=study.config.confirm.seeds)
        return study

    return made


def compared(*studies):
    return load_comparison([study.folder.root for study in studies])


def text_of(*studies):
    return Page(render_comparison(compared(*studies))).text


def test_studies_alike_in_everything_are_paired_by_seed(make):
    one, other = make("one"), make("other", evaluation={"kept_texts": 1}, space={"gae_lambda": [0.7, 1.0]})
    for seed, gain in zip(one.config.confirm.seeds, (0.1, 0.2, 0.3, 0.4), strict=True):
        path = one.folder.confirm_folder("winner", seed) / "result.json"
        kept = json.loads(path.read_text())
        kept["runs"][0]["evaluation"]["objective"] += gain
        other.write(other.folder.confirm_folder("winner", seed) / "result.json", kept)
    found = compared(one, other)
    assert found.cautions == () and found.same_scale
    assert found.over_first[0] is None
    assert found.over_first[1].mean == pytest.approx(0.25) and found.over_first[1].seeds == 4
    assert set(found.differing) == {"evaluation.kept_texts", "space.gae_lambda"}
    text = text_of(one, other)
    assert "May they be compared? Yes." in text and "+0.250 [" in text


@pytest.mark.parametrize(
    ("changes", "words", "same_scale", "paired"),
    [
        ({"task": {"recipe": {"layers": 2}}}, "different tasks (task.recipe.layers): their J is not", False, False),
        (
            {"ppo": {"steps": 30, "kl_coef": 0.2}},
            "price KL or sample responses differently (ppo.kl_coef)",
            False,
            False,
        ),
        ({"sampling": {"response_tokens": 9}}, "sample responses differently (sampling.response_tokens)", False, False),
        ({"ppo": {"steps": 40}}, "They train differently (ppo.steps)", True, False),
        ({"evaluation": {"prompts": 99}}, "different numbers of held-out prompts", True, False),
        ({"confirm": {"seeds": [103, 104]}}, "different fresh seeds (confirm.seeds)", True, True),
        ({"search": {"seeds": [7]}}, "searches ran on different seeds (search.seeds)", True, True),
        ({"search": {"objective": "curve"}}, "maximised different things (search.objective)", True, True),
    ],
)
def test_what_stands_against_a_comparison_is_said_before_any_number(make, changes, words, same_scale, paired):
    one, other = make("one"), make("other", **changes)
    found = compared(one, other)
    assert [caution for caution in found.cautions if words in caution] == list(found.cautions)
    assert found.same_scale is same_scale
    assert (found.over_first[1] is not None) is paired
    text = text_of(one, other)
    headline = "With care." if same_scale else "No: their J values are not on one scale."
    assert text.index(headline) < text.index(words) < text.index("J on fresh seeds")


def test_a_field_is_said_once_and_of_the_gravest_doubt(make):
    fields = ["confirm.seeds", "ppo.kl_coef", "ppo.steps", "shape.max_span", "space.name", "task.name"]
    assert [touched for _, touched in doubts(fields)] == [
        ["task.name"],
        ["ppo.kl_coef"],
        ["ppo.steps"],
        ["confirm.seeds"],
    ]
    # Every field that a doubt is about is one that configs have.
    # Some sections are written only where they say something.
    said = {"objective.kl_price", "space.trainer.ppo.critic"}
    known = said | set(what_decides(make("one", whole=False).config))
    assert all(any(field.startswith(each) for field in known) for doubt, _ in doubts(known) for each in doubt.fields)
    assert len(doubts(known)) == 7


def test_the_page_is_named_by_what_it_compares(make):
    assert Page(render_comparison(compared(make("one"), make("other")))).text.count("Comparison of 2 studies") == 2
    assert "StudyComparison" not in render_comparison(compared(make("one"), make("other")))


def test_the_table_says_what_each_study_found(make):
    one = make("one")
    study = compared(one, make("other")).studies[0]
    verdict = study.data.verdict
    rival = next(each for each in verdict.differences if each.rival == verdict.tuned_rival)
    assert study.over_rival == rival
    steps = verdict.steps_to_level
    assert study.step_ratio == pytest.approx(steps["winner"] / steps[verdict.tuned_rival])
    runs = {
        arm: [json.loads(p.read_text())["runs"][0] for p in one.folder.confirm.glob(f"{arm}-10*/result.json")]
        for arm in ("winner", "sparse")
    }
    seconds = {arm: fmean(run["training_cpu_seconds"] for run in of) for arm, of in runs.items()}
    assert study.cost.mean == pytest.approx(seconds["winner"] / seconds["sparse"], rel=0.02)
    text = text_of(one, make("third"))
    assert f"{rival.mean:+.3f} [{rival.low:+.3f}, {rival.high:+.3f}] {rival.rival}" in text
    assert "10 of 12" in text and study.data.winner.shape.describe() in text


def test_studies_of_one_name_are_told_apart_by_the_end_of_their_folders(make, tmp_path):
    one, other = make("same", tmp_path / "a" / "x"), make("same", tmp_path / "b" / "x")
    third = make("third")
    assert [study.label for study in compared(one, third, other).studies] == [
        "same (a/x/same)",
        "third",
        "same (b/x/same)",
    ]
    moved = tmp_path / "elsewhere"
    shutil.copytree(one.folder.root, moved)
    found = load_comparison([one.folder.root, moved])
    assert [study.label for study in found.studies] == ["same (same)", "same (elsewhere)"]
    assert found.cautions == (
        "same (same) and same (elsewhere) hold the same results: one is a copy of the other, or a repetition of it.",
    )
    assert str(tmp_path) not in render_comparison(found)


def test_a_study_given_twice_and_an_unknown_one_are_refused(make, tmp_path):
    one = make("one", whole=False)
    (tmp_path / "link").symlink_to(one.folder.root)
    for again in (one.folder.root, tmp_path / "link", one.folder.root / ".." / "one"):
        with pytest.raises(ConfigError, match="is given twice"):
            load_comparison([one.folder.root, again])
    with pytest.raises(ConfigError, match=r"no study in .*nowhere"):
        load_comparison([one.folder.root, tmp_path / "nowhere"])


def test_studies_that_found_nothing_have_a_row_that_says_so(make):
    empty, failed, first = (make(name, whole=False) for name in ("empty", "failed", "first"))
    failed.failed_trial(0)
    first.unfinished_trial(0)
    text = text_of(empty, failed, first)
    for words in ("no trial has started", "every trial failed", "no trial has completed"):
        assert text.count(words) == 1
    assert "No study has a winner" in text and "No study has a completed trial" in text
    assert "plotly.js v" not in render_comparison(compared(empty, failed))


def test_a_winner_without_fresh_seeds_is_shown_with_its_search_and_said_to_be(make):
    one, searched = make("one"), make("searched", whole=False)
    searched.search()
    found = compared(one, searched)
    assert "searched has nothing on fresh seeds" in found.cautions[0]
    assert found.over_first[1] is None and "not confirmed" in text_of(one, searched)
    traces = json.loads(winner_curves(found))["data"]
    hovers = {trace["name"]: trace["hovertemplate"] for trace in traces if "hovertemplate" in trace}
    assert "in the search" in hovers["searched"] and "in the search" not in hovers["one"]


def test_best_so_far_never_falls_and_counts_every_trial(make):
    one = make("one")
    one.stopped_trial(12, 20, 99.0)
    found = compared(one, make("other"))
    assert list(best_metrics(found)) == ["posterior", "observed"]
    traces = [trace for trace in json.loads(best_so_far(found))["data"] if trace["name"] == "one"]
    assert all(trace["x"] == list(range(1, 14)) for trace in traces)
    believed, observed = (trace["y"] for trace in traces)
    assert believed == pytest.approx([1.1 + 0.045 * min(n - 1, 9) for n in range(1, 14)])
    means = [trial.result.metrics["objective"].mean if trial.result else -9 for trial in found.studies[0].data.trials]
    assert observed == pytest.approx([max(means[:n]) for n in range(1, 14)])
    assert [trace["visible"] for trace in traces] == [True, False]


def test_what_is_expected_to_break_a_constraint_is_never_the_best(make):
    one = make("one")
    rows = json.loads(one.folder.ranking_file.read_text())
    one.write(one.folder.ranking_file, [{**row, "feasible": row["index"] < 5} for row in rows])
    for trace in json.loads(best_so_far(compared(one, make("other"))))["data"]:
        assert trace["name"] != "one" or len(set(trace["y"][4:])) == 1


def test_studies_trained_by_other_code_or_on_other_machines_are_said_to_be(make):
    one, other = make("one"), make("other")
    path = other.folder.trial_folder(0) / "result.json"
    kept = json.loads(path.read_text())
    kept["runs"][0]["machine"]["torch"] = "9.9"
    other.write(path, kept)
    line = {"at": "x", "python": "3", "platform": "p", "processor": "c", "processors": 1, "memory_gib": 1, "gpus": []}
    for study, commit in ((one, "aaa"), (other, "bbb")):
        study.write(study.folder.provenance_file, {**line, "commit": commit, "versions": {}})
    assert compared(one, other).cautions == (
        "They were trained by different versions of the code, which may train differently.",
        "They were trained on different machines or versions of torch: their times cannot be compared.",
    )


@pytest.mark.parametrize(("held", "differing"), [("a", set()), ("b", {"task.prompts"}), (None, {"task.prompts"})])
def test_files_are_compared_by_what_was_in_them_where_all_studies_looked(held, differing, make):
    studies = []
    for name, digest in (("one", "a"), ("other", held)):
        task = {"name": "prompts", "policy": {"model": "org/policy"}, "reward_model": {"model": "org/reward"}}
        study = make(name, task={**task, "prompts": f"/{name}/prompts.jsonl"})
        note_launch(study.folder, {} if digest is None else {"task.prompts": digest * 64})
        studies.append(study)
    found = compared(*studies)
    assert set(found.differing) == differing and found.same_scale == (not differing)
    if held == "b":
        assert found.differing["task.prompts"] == ("prompts.jsonl (aaaaaaaaaaaa)", "prompts.jsonl (bbbbbbbbbbbb)")


def test_config_values_are_words_without_folders():
    from pipeline.report.comparison import MISSING

    values = [config_value(value) for value in (None, MISSING, [1, 2], [], "/home/jane/model", 0.5, True)]
    assert values == ["none", "–", "1, 2", "none", "…/model", "0.5", "True"]


def test_names_from_files_are_text(make):
    one, other = make("one"), make("other")
    one.write(one.folder.winner_file, {**one.winner().to_dict(), "name": HOSTILE})
    verdict = json.loads(one.folder.verdict_file.read_text())
    rows = [{**row, "rival": HOSTILE} for row in verdict["differences"]]
    one.write(one.folder.verdict_file, {**verdict, "differences": rows, "tuned_rival": HOSTILE})
    page = render_comparison(compared(one, other))
    assert HOSTILE not in page and Page(page).text.count(HOSTILE) == 2
    assert "default-src 'none'" in page
