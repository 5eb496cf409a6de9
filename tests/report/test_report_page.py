import json
import re
from dataclasses import replace

import pytest

from pipeline.report.load import load_report_data
from pipeline.report.page import render, token_depths, write_report
from pipeline.report.words import estimate, number, signed
from shaping.errors import ShapetuneError
from tests.support.reports.page import HOSTILE, Page, page_of

SECTIONS = {"verdict", "curves", "trials", "tokens", "preservation", "provenance"}


def test_every_section_stands_and_says_what_was_found(whole_study):
    page = page_of(whole_study)
    assert {attributes["id"] for attributes in page.all("section")} == SECTIONS
    data = load_report_data(whole_study.folder)
    for line in data.verdict.text:
        assert line in page.text
    assert data.winner.shape.describe() in page.text
    assert "12 trials: 10 completed, 1 failed, 1 unfinished" in page.text
    for trial in data.trials_in("completed"):
        assert estimate(trial.result.metrics["objective"]) in page.text
    assert "failed: nan" in page.text
    assert "the policy's loss is nan at step 7" in page.text
    assert "sums kept, not causal" in page.text
    assert "learning_rate: 0.0007" in page.text
    assert "shapetune launch synthetic.yaml" in page.text


def test_every_row_of_tokens_shows_its_number_and_a_sum_equal_to_the_score(whole_study):
    page = page_of(whole_study)
    samples = load_report_data(whole_study.folder).samples
    for sample in samples:
        shown = f"sum {signed(sample.score, 4)} = score"
        assert page.text.count(shown) == len(sample.rows) == 9
    assert "≠" not in page.text
    tokens = [a for a in page.all("span", "token") if "title" in a]
    rewards = [reward for sample in samples for row in sample.rows for reward in row.rewards]
    assert [a["title"] for a in tokens] == [signed(reward, 4) for reward in rewards]
    assert ["neg" in a["class"] for a in tokens] == [reward < 0 for reward in rewards]


def test_a_row_that_misses_the_score_is_shown_as_broken(whole_study):
    data = load_report_data(whole_study.folder)
    broken = replace(data.samples[0], score=data.samples[0].score + 0.5)
    assert "≠ score" in Page(render(replace(data, samples=(broken,)))).text


def test_depth_grows_with_the_size_of_a_reward_and_shares_one_scale(whole_study):
    sample = load_report_data(whole_study.folder).samples[0]
    depths = [depth for row in token_depths(sample) for depth in row]
    sizes = [abs(reward) for row in sample.rows for reward in row.rewards]
    assert max(depths) == 1.0
    assert sorted(range(len(sizes)), key=sizes.__getitem__) == sorted(range(len(sizes)), key=depths.__getitem__)


def test_nothing_that_a_model_or_an_error_wrote_becomes_markup(whole_study):
    whole_study.sensitivity()
    whole_study.early_stopping()
    clean = page_of(whole_study)
    made = {"index": 9, "arm": HOSTILE, "origin": HOSTILE}
    whole_study.write(whole_study.folder.trial_folder(9) / "trial.json", made)
    made = json.loads((whole_study.folder.trial_folder(12) / "trial.json").read_text())
    whole_study.write(whole_study.folder.trial_folder(12) / "trial.json", {**made, "arm": HOSTILE, "origin": HOSTILE})
    indices = {"total": 0.5, "first": 0.25, "direction": 1.0}
    whole_study.write(whole_study.folder.sensitivity_file, {HOSTILE: indices, f"weight_{HOSTILE}": indices})
    whole_study.failed_trial(10, reason=HOSTILE, detail=f"{HOSTILE} at step 3")
    sample = whole_study.sample(HOSTILE, f"{HOSTILE} </span> '\"><b>", 1.0)
    samples = [sample, whole_study.sample("fine", "a b c", 1.0)]
    whole_study.write(whole_study.folder.tokens_file, samples)
    data = load_report_data(whole_study.folder)
    verdict = replace(
        data.verdict,
        text=(HOSTILE,),
        differences=(replace(data.verdict.differences[0], rival=f"</script>{HOSTILE}"),),
    )
    hostile = render(replace(data, verdict=verdict))
    page = Page(hostile)
    assert HOSTILE not in hostile
    assert len(page.scripts) == len(clean.scripts)
    # Beside responses, verdict and failure: arm and origin of two trials, and two parameters.
    assert page.text.count(HOSTILE) >= 4 + 4 + 2
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in hostile


def test_the_page_loads_nothing_and_holds_one_plotly(whole_study):
    text = render(load_report_data(whole_study.folder))
    page = Page(text)
    for tag, attributes in page.elements:
        assert "src" not in attributes and "srcset" not in attributes, tag
        assert attributes.get("href", "#").startswith(("#", "data:")), tag
        assert "url(" not in (attributes.get("style") or "")
    (style,) = re.findall(r"<style>(.*?)</style>", text, flags=re.DOTALL)
    assert "url(" not in style and "@import" not in style
    assert sum("plotly.js v" in script for script in page.scripts) == 1
    assert len(text.encode()) < 8 * 2**20
    policy = next(a["content"] for a in page.all("meta") if "http-equiv" in a)
    assert policy.startswith("default-src 'none'")


def test_tables_can_be_sorted_by_every_number(whole_study):
    page = page_of(whole_study)
    assert len(page.all("table", "sortable")) == 4
    assert page.text.count("9_0 winner") == 1


def test_a_study_that_has_run_nothing_says_so(study):
    page = page_of(study)
    assert {attributes["id"] for attributes in page.all("section")} == SECTIONS
    for sentence in (
        "No verdict.",
        "No trial of the search has finished",
        "No run has finished, so there are no curves.",
        "No trial has started.",
        "no coloured responses",
    ):
        assert sentence in page.text
    assert not any("plotly.js v" in script for script in page.scripts)


def test_a_study_whose_trials_all_failed_says_so(study):
    for index in range(3):
        study.failed_trial(index)
    page = page_of(study)
    assert "3 trials: 0 completed, 3 failed" in page.text
    assert "No trial has completed." in page.text
    assert "No winner has been chosen." in page.text


def test_a_search_without_ranking_or_tokens_says_so(study):
    study.search()
    study.folder.ranking_file.unlink()
    page = page_of(study)
    assert "Nothing has run on fresh seeds yet." in page.text
    assert "The search has left no ranking yet" in page.text
    assert "no coloured responses" in page.text


def test_a_ranking_that_no_model_made_says_so(study):
    study.search()
    row = {"index": 0, "arm": "sparse", "mean": 1.25, "deviation": 0.0, "from_model": False}
    study.write(study.folder.ranking_file, [row])
    assert "1.250 (observed)" in page_of(study).text


def test_a_study_that_asked_for_no_confirmation_says_so(make_study):
    study = make_study(confirm={"seeds": []})
    study.search()
    page = page_of(study)
    assert "its config names no fresh seeds" in page.text
    assert "confirmation none" in page.text


def test_confirmed_arms_without_a_verdict_are_shown_unjudged(whole_study):
    whole_study.folder.verdict_file.unlink()
    page = page_of(whole_study)
    assert "nothing has been judged" in page.text
    assert "Arms on fresh seeds" in page.text
    assert "steps to level" not in page.text


def test_the_policy_before_training_stands_below_the_arms_where_it_was_measured(make_study):
    rows = {}
    for judged in (True, False):
        study = make_study()
        study.judges_untrained = judged
        study.search()
        study.confirm()
        text = render(load_report_data(study.folder))
        rows[judged] = [row for row in text.split("<tr") if "before training<small>" in row]
        assert ("Before training J is 0.250; every baseline ends above it." in text) == judged
    (row,) = rows[True]
    assert rows[False] == []
    # It has moved nowhere, whatever rounding says, and has a cell in every column.
    assert "0.250 ± 0.000" in row and "0.0 ± 0.0" in row and "−0.0" not in row and "0.125 ± 0.000" in row
    assert len(re.findall("<td[ >]", row)) == 10


def test_one_fresh_seed_and_a_failed_one_are_shown_without_an_interval(study):
    study.search()
    study.confirm(seeds=(100,))
    failure = {"reason": "kl_limit", "detail": "KL ran away", "arm": study.winner().to_dict()}
    study.write(study.folder.confirm_folder("winner", 101) / "failure.json", failure)
    page = page_of(study)
    assert "one pair decides nothing" in page.text and "[-inf" not in page.text
    assert "kl_limit: KL ran away" in page.text


def test_a_search_on_the_curve_shows_what_it_maximised(make_study):
    study = make_study(search={"objective": "curve"})
    study.search()
    data = load_report_data(study.folder)
    page = page_of(study)
    assert "mean J of curve" in page.text
    assert estimate(data.trials[0].result.metrics["curve_objective"]) in page.text


def test_the_report_is_written_whole_or_not_at_all(whole_study, tmp_path):
    data = load_report_data(whole_study.folder)
    target = tmp_path / "new" / "report.html"
    assert write_report(data, target) == target
    assert target.read_text().rstrip().endswith("</html>")
    assert [path.name for path in target.parent.iterdir()] == ["report.html"]
    (tmp_path / "file").write_text("")
    with pytest.raises(ShapetuneError, match="cannot be written"):
        write_report(data, tmp_path / "file" / "report.html")


def test_numbers_carry_true_minus_signs():
    assert number(-0.5) == "−0.500"
    assert signed(0.25) == "+0.250"
    assert number(float("-inf")) == "−∞"


def test_a_stopped_trial_is_counted_and_told_as_what_it_is(whole_study):
    whole_study.early_stopping()
    text = page_of(whole_study).text
    assert "14 trials: 10 completed, 2 stopped early, 1 failed, 1 unfinished ·" in text
    # 30 steps on each of two seeds.
    assert "stopped after 20 of 60 steps, on its way to J +0.250 ± 0.125" in text
    assert "stopped after 45 of 60 steps, on its way to J +0.750 ± 0.125" in text
    assert "was stopped early: it has no values of its own" in text


def test_where_nothing_was_stopped_taken_over_or_infeasible_the_page_does_not_speak_of_it(whole_study):
    page = page_of(whole_study)
    for words in ("stopped", "earlier study", "constraints”", "place 2", "What mattered"):
        assert words not in page.text


def test_what_mattered_is_a_bar_for_each_parameter_and_called_a_belief(whole_study):
    whole_study.sensitivity()
    page = page_of(whole_study)
    assert {attributes["id"] for attributes in page.all("section")} == SECTIONS | {"mattered"}
    assert "#mattered" in [attributes["href"] for attributes in page.all("a")]
    assert "This is what a model believes that was fitted to 10 trials, not a measurement." in page.text
    assert "share of prefix 0.62 0.38 more is better lambda 0.31 0.25 more is worse" in page.text
    bars = [a["style"] for a in page.all("span") if "--share" in (a.get("style") or "")]
    assert bars[:2] == ["--share: 0.6250", "--share: 0.3750"]
    assert len(bars) == 2 * 4


def test_trials_of_an_earlier_study_are_counted_and_named(study):
    study.search()
    study.trial(12, "other 7", "earlier study", study.mix(0.4, 0.1), 1.2)
    text = page_of(study).text
    assert "13 trials: 11 completed, 1 failed, 1 unfinished; 1 from an earlier study" in text
    assert "12 other 7 earlier study" in text
    assert "“Earlier study” marks trials" in text


def test_an_arm_that_is_expected_to_break_constraints_is_marked(whole_study):
    rows = json.loads(whole_study.folder.ranking_file.read_text())
    whole_study.write(whole_study.folder.ranking_file, [{**row, "feasible": row["index"] != 8} for row in rows])
    text = page_of(whole_study).text
    assert text.count("completed breaks constraints") == 1
    assert "“Breaks constraints” marks arms" in text


def test_without_a_gold_model_the_page_has_no_gold_column(make_study):
    study = make_study()
    study.has_gold = False
    study.search()
    study.confirm()
    text = render(load_report_data(study.folder))
    assert "gold" not in Page(text.partition("To run it again")[0]).text.lower()
    rows = text.split("<tr")
    cells = {
        word: {len(re.findall("<td[ >]", row)) for row in rows if word in row} for word in ("sums kept", "model</td>")
    }
    assert cells == {"sums kept": {9}, "model</td>": {6, 9}}


def test_runners_up_stand_beside_the_winner(study):
    study.search()
    study.confirm(top=3)
    page = page_of(study)
    assert "8 arms on fresh seeds" in page.text
    assert "place 2, 9_0" in page.text and "place 3, 8_0" in page.text
    assert "claims are made of the winner alone" in page.text


def test_a_search_for_gains_says_what_its_posterior_is_of(make_study):
    study = make_study(search={"objective": "gain"})
    study.search()
    assert "belief of the gain in J over the sparse arm on the same seeds" in page_of(study).text
