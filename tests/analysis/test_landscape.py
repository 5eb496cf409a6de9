"""What the model believes of the space, read from a study's folder alone: against the search's own model."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.analysis.axes import ParameterAxis, ShareAxis, axes, mixed
from pipeline.analysis.landscape import DIVISIONS, Landscape, landscape
from pipeline.config.schema import StudyConfig
from pipeline.runtime.files import write_json
from pipeline.search.ax_analyses import ax_analyses
from pipeline.search.outer_loop import OuterLoop
from pipeline.study.folder import StudyFolder
from pipeline.study.replay import Replay, replayed
from pipeline.study.search_stage import SearchStage
from pipeline.trials.arm import Arm
from pipeline.trials.types import Job
from search_spaces import Candidate, StudySpace, make_space
from shaping.shape import Shape
from tests.support.search_stages import STEPS, level, tell
from tests.support.studies import tiny_config

# Gaussian processes are fitted again and again.
pytestmark = pytest.mark.slow

# Over few lambdas, so that what the shares are worth shows beside what lambda is.
THREE = {"name": "credit_mix", "methods": ["prefix", "attention", "shapley"], "gae_lambda": [0.6, 1.0]}


def goodness(shape: Shape) -> float:
    """Best at half prefix, half attention, with a low lambda."""
    shares = shape.active_methods()
    prefix, attention = shares.get("prefix", 0.0), shares.get("attention", 0.0)
    return 2 - (prefix - 0.5) ** 2 - (attention - 0.5) ** 2 - shape.gae_lambda


def run_study(root: Path, config: StudyConfig, special: Callable[[SearchStage, Job], bool] | None = None) -> None:
    """Leave the folder of a search, nothing of which was trained."""
    folder = StudyFolder(root)
    folder.create(config)
    stage = SearchStage(config, folder, None)
    while (job := stage.ask()) is not None:
        if special is None or not special(stage, job):
            seed = job.seeds[0]
            noise = 0.01 * math.sin(7.0 * job.index + 3 * seed)
            tell(stage, job, level(goodness(Arm.from_dict(job.arm).shape) + noise))
    write_json(folder.ranking_file, [vars(row) for row in stage.outer.ranking()])


def study_config(trials: int = 11, space: dict[str, Any] | None = None, **changes: Any) -> StudyConfig:
    shape = changes.pop("shape", {})
    values = {"trials": trials, "sobol_trials": 5, "seeds": [0, 1], **changes}
    return tiny_config(ppo={"steps": STEPS, "batch_size": 4}, search=values, space=space or THREE, shape=shape)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[StudyFolder, Replay, Landscape]:
    root = tmp_path_factory.mktemp("studies") / "three"
    run_study(root, study_config())
    folder = StudyFolder(root)
    replay = replayed(folder)
    seen = landscape(replay)
    assert seen is not None
    return folder, replay, seen


def test_a_replay_believes_what_the_search_believed(found: tuple[StudyFolder, Replay, Landscape]) -> None:
    folder, replay, _ = found
    kept = {row["index"]: row for row in json.loads(folder.ranking_file.read_text())}
    back = {own: index for index, own in replay.indices.items()}
    ranking = replay.outer.ranking()
    assert len(ranking) == len(kept) == 11
    for row in ranking:
        assert row.mean == pytest.approx(kept[back[row.index]]["mean"], abs=1e-6)
        assert row.deviation == pytest.approx(kept[back[row.index]]["deviation"], abs=1e-6)


def test_a_replay_changes_nothing_in_the_study(found: tuple[StudyFolder, Replay, Landscape]) -> None:
    folder, _, _ = found
    before = {path: path.read_bytes() for path in sorted(folder.root.rglob("*")) if path.is_file()}
    replayed(folder)
    assert before == {path: path.read_bytes() for path in sorted(folder.root.rglob("*")) if path.is_file()}


def test_stopped_failed_and_running_trials_are_replayed_as_what_they_are(tmp_path: Path) -> None:
    """A failure writes its file as executors do; the trial that is still out has begun and no more."""
    root = tmp_path / "mixed"

    def special(stage: SearchStage, job: Job) -> bool:
        if job.index == 5:
            stage.fail(job, "nan: it is")
            write_json(Path(job.folder) / "failure.json", {"reason": "nan", "detail": "it is", "arm": job.arm})
        elif job.index == 7:
            tell(stage, job, level(-9.0))
        return job.index in (5, 7)

    stopping = {"worst_percent": 50, "least_share": 0.5, "least_trials": 3}
    config = study_config(trials=12, early_stopping=stopping)
    run_study(root, config, special)
    begun = json.loads((root / "trials" / "0" / "trial.json").read_text())
    (root / "trials" / "12").mkdir()
    shape = {**begun["shape"], "weights": {"prefix": 0.25, "attention": 0.25, "shapley": 0.25, "sparse": 0.25}}
    write_json(root / "trials" / "12" / "trial.json", {**begun, "index": 12, "arm": "12_0", "shape": shape})
    (root / "trials" / "13").mkdir()  # killed before it could say what it runs
    kept = SearchStage(config, StudyFolder(root), None).outer.trials()
    replay = replayed(StudyFolder(root))
    back = {own: index for index, own in replay.indices.items()}
    states = {back[row["index"]]: row["status"] for row in replay.outer.trials()}
    assert states == {row["index"]: row["status"] for row in kept} | {12: "running"}
    assert states[5] == "abandoned" and states[7] == "early_stopped"
    stored = {row["index"]: row["mean"] for row in json.loads((root / "ranking.json").read_text())}
    ranking = {back[row.index]: row.mean for row in replay.outer.ranking()}
    assert ranking == pytest.approx(stored, abs=1e-6)


def test_every_number_drawn_is_the_models_at_that_very_shape(found: tuple[StudyFolder, Replay, Landscape]) -> None:
    """One point at a time, from each kind of figure, asked of the model by itself."""
    folder, replay, seen = found
    space, posterior = folder.config().make_space(), replay.outer.posterior()

    def asked(candidate: Candidate | None) -> tuple[float, float]:
        assert candidate is not None
        [pair] = posterior.predict([space.encode(candidate)]) or []
        return pair

    for face in seen.faces:
        for place in (0, 7, 150, len(face.shares) - 1):
            shares = dict(zip(face.methods, face.shares[place], strict=True))
            mixed = Candidate(seen.reference.shape.with_changes(weights=shares))
            drawn = (face.believed.means[place], face.believed.deviations[place])
            assert drawn == pytest.approx(asked(mixed), abs=1e-6)
    by_name = {axis.name: axis for axis in axes(space, ("prefix", "attention", "shapley", "sparse"), seen.reference)}
    for each in seen.slices:
        for place in (0, len(each.positions) // 2, len(each.positions) - 1):
            moved = by_name[each.name].moved(seen.reference, each.positions[place])
            drawn = (each.believed.means[place], each.believed.deviations[place])
            assert drawn == pytest.approx(asked(moved), abs=1e-6)
    for plane in seen.planes:
        for row, column in ((0, 0), (3, 20), (24, 24)):
            lifted = by_name[plane.y].moved(seen.reference, plane.rows[row])
            assert lifted is not None
            place = row * len(plane.columns) + column
            drawn = (plane.believed.means[place], plane.believed.deviations[place])
            assert drawn == pytest.approx(asked(by_name[plane.x].moved(lifted, plane.columns[column])), abs=1e-6)


def test_the_model_finds_the_peak_that_the_trials_climbed(found: tuple[StudyFolder, Replay, Landscape]) -> None:
    _, _, seen = found
    [face] = [each for each in seen.faces if set(each.methods) == {"prefix", "attention", "shapley"}]
    best = max(range(len(face.shares)), key=lambda place: face.believed.means[place])
    shares = dict(zip(face.methods, face.shares[best], strict=True))
    assert abs(shares["prefix"] - 0.5) < 0.2 and abs(shares["attention"] - 0.5) < 0.2 and shares["shapley"] < 0.2
    assert len(face.shares) == (DIVISIONS + 1) * (DIVISIONS + 2) // 2
    [along] = [each for each in seen.slices if each.name == "lambda"]
    assert along.believed.means[0] > along.believed.means[-1]


def test_every_three_methods_have_a_triangle_those_of_the_reference_first(
    found: tuple[StudyFolder, Replay, Landscape],
) -> None:
    _, _, seen = found
    assert len(seen.faces) == 4 and len({frozenset(face.methods) for face in seen.faces}) == 4
    shares = seen.reference.shape.active_methods()
    used = [sum(shares.get(method, 0.0) for method in face.methods) for face in seen.faces]
    assert used[0] == max(used)


def test_what_is_left_out_is_predicted_as_by_a_model_that_never_saw_it(
    found: tuple[StudyFolder, Replay, Landscape],
) -> None:
    """The means against a Gaussian process on the other trials, conditioned by hand with the same kernel."""
    _, replay, seen = found
    posterior = replay.outer.posterior()
    adapter = posterior._adapter("gp")
    model = adapter.generator.surrogate.model
    inputs, targets = model.train_inputs[0].double(), model.train_targets.double()
    noise, constant = model.likelihood.noise.detach(), float(model.mean_module.constant.detach())
    kernel = model.covar_module(inputs).to_dense().detach() + noise.expand(len(targets)).diag()
    by_hand = []
    for place in range(len(targets)):
        rest = [other for other in range(len(targets)) if other != place]
        weights = kernel[place, rest] @ kernel[rest][:, rest].inverse()
        by_hand.append(constant + float(weights @ (targets[rest] - constant)))
    left = [seen.left_out[index][0] for index in sorted(seen.left_out)]
    assert len(left) == len(by_hand) == 11
    # Ax's model sees outcomes moved and scaled; all distances keep their proportions.
    slope = (left[0] - left[1]) / (by_hand[0] - by_hand[1])
    assert slope > 0
    assert [slope * (value - by_hand[0]) + left[0] for value in by_hand] == pytest.approx(left, abs=1e-4)


def test_proposals_are_new_shapes_of_the_space_and_begin_no_trial(
    found: tuple[StudyFolder, Replay, Landscape],
) -> None:
    folder, replay, seen = found
    space, before = folder.config().make_space(), len(replay.outer.trials())
    again = landscape(replay)
    assert again is not None and again.proposals == seen.proposals
    assert len(replay.outer.trials()) == before
    assert len({each.candidate.shape for each in seen.proposals}) == 3
    for each in seen.proposals:
        assert each.candidate not in seen.tried.values()
        assert space.decode(space.encode(each.candidate)) == each.candidate


def test_too_few_trials_have_no_landscape(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path)
    folder.create(study_config())
    assert landscape(replayed(folder)) is None


@pytest.mark.parametrize(
    ("space", "expected"),
    [
        ({"name": "balance", "methods": ["prefix"]}, {"share of prefix", "share of sparse", "lambda"}),
        (
            {"name": "full", "methods": ["prefix", "shapley"], "units": ["token", "span"], "budget": [16, 64]},
            {"share of prefix", "share of shapley", "share of sparse", "lambda", "unit", "budget"},
        ),
        ({**THREE, "balance": [0.5, 0.5]}, {"share of prefix", "share of attention", "share of shapley", "lambda"}),
    ],
)
def test_every_space_is_cut_along_all_its_axes(tmp_path: Path, space: dict[str, Any], expected: set[str]) -> None:
    shape = {"max_units": 16} if space["name"] == "full" else {}
    config = study_config(trials=8, space=space, shape=shape)
    run_study(tmp_path, config)
    folder = StudyFolder(tmp_path)
    seen = landscape(replayed(folder))
    assert seen is not None
    assert {each.name for each in seen.slices} == expected
    for each in seen.slices:
        assert len(each.positions) == len(each.believed.means) > 1
        assert all(math.isfinite(value) for value in (*each.believed.means, *each.believed.deviations))


def test_a_share_takes_from_the_others_in_their_proportions() -> None:
    space = StudySpace(make_space("credit_mix", base=Shape(), methods=("prefix", "attention", "shapley")))
    shape = Shape(weights={"prefix": 0.6, "attention": 0.3, "sparse": 0.1}, gae_lambda=0.8)
    axis = ShareAxis(space, "sparse", ("prefix", "attention", "shapley", "sparse"))
    moved = axis.moved(Candidate(shape), 0.4)
    assert moved is not None and moved.shape.gae_lambda == 0.8
    assert moved.shape.active_methods() == pytest.approx({"prefix": 0.4, "attention": 0.2, "sparse": 0.4})
    # Who has everything leaves to all others alike.
    axis = ShareAxis(space, "prefix", ("prefix", "attention", "sparse"))
    alone = axis.moved(Candidate(Shape(weights={"prefix": 1.0})), 0.5)
    assert alone is not None
    assert alone.shape.active_methods() == pytest.approx({"prefix": 0.5, "attention": 0.25, "sparse": 0.25})


def test_a_place_outside_the_space_is_none_and_not_the_nearest_inside() -> None:
    space = StudySpace(make_space("credit_mix", base=Shape(), methods=("prefix", "attention"), balance=(0.0, 0.5)))
    tried = Candidate(Shape(weights={"prefix": 0.3, "sparse": 0.7}))
    assert mixed(space, tried, {"prefix": 0.9, "sparse": 0.1}) is None
    [weight] = [each for each in space.parameters() if each.name == "weight_attention"]
    assert ParameterAxis(space, weight).moved(tried, 0.4) is None
    inside = ParameterAxis(space, weight).moved(tried, 0.2)
    assert inside is not None and inside.shape.active_methods()["attention"] == pytest.approx(0.2)


def test_ax_makes_its_cards_and_says_which_it_could_not(found: tuple[StudyFolder, Replay, Landscape]) -> None:
    folder, replay, _ = found
    cards = ax_analyses(replay.outer)
    assert sum(card.figure is not None for card in cards) >= 6
    [summary] = [card for card in cards if card.title.startswith("Summary for")]
    assert len(summary.rows) == len(json.loads(folder.ranking_file.read_text()))
    assert {len(row) for row in summary.rows} == {len(summary.columns)}
    for card in cards:
        assert card.title and "<" not in card.title + card.explanation
        assert bool(card.failure) + bool(card.figure) + bool(card.rows) == 1


def test_names_that_a_figure_would_format_are_replaced(tmp_path: Path) -> None:
    root = tmp_path / "hostile"
    run_study(root, study_config(trials=5))
    for name in ("trial", "result"):
        path = root / "trials" / "4" / f"{name}.json"
        text = path.read_text().replace("sobol 1", "<a href='javascript:alert(1)'>sobol</a>")
        path.write_text(text)
    names = [row["arm"] for row in replayed(StudyFolder(root)).outer.trials()]
    assert "trial 4" in names and not any("<" in name for name in names)


def test_two_trials_of_one_shape_are_both_replayed(tmp_path: Path) -> None:
    run_study(tmp_path, study_config(trials=5))
    first, twin = (tmp_path / "trials" / name for name in ("4", "5"))
    shutil.copytree(first, twin)
    made = json.loads((twin / "result.json").read_text())
    write_json(twin / "result.json", {**made, "arm": {**made["arm"], "name": "its twin"}})
    replay = replayed(StudyFolder(tmp_path))
    assert len(replay.outer.observed()) == 6
    values = replay.outer.observed()
    assert values[replay.indices[4]] == values[replay.indices[5]]


def test_a_replay_needs_no_database(found: tuple[StudyFolder, Replay, Landscape]) -> None:
    folder, _, _ = found
    assert (folder.root / "study.db").exists()
    outer = replayed(folder).outer
    assert isinstance(outer, OuterLoop) and outer._store is None
