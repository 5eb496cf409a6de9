"""What the search's model believes of the whole space: for the report, from a study's folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, TypeAlias

from pipeline.analysis.axes import Axis, Position, axes, mixed
from search_spaces import Candidate, StudySpace
from shaping.method_names import SPARSE

if TYPE_CHECKING:
    from pipeline.search.posterior import Posterior
    from pipeline.study.replay import Replay

# Steps along each side of a triangle, and along each side of a plane and a slice.
DIVISIONS, SIDE, ALONG = 24, 25, 41
# Ten triangles: more than one looks at.
MOST_METHODS = 5
PROPOSALS = 3
Corners: TypeAlias = tuple[str, str, str]


@dataclass(frozen=True)
class Believed:
    """J at some points: posterior means and standard deviations, one for each."""

    means: tuple[float, ...]
    deviations: tuple[float, ...]


@dataclass(frozen=True)
class Face:
    """The mixes of three methods, everything else as in the reference.

    Attributes:
        methods: The corners.
        shares: Weights of the three at each point, row by row; ``DIVISIONS`` steps along each side.
        believed: J there.
    """

    methods: Corners
    shares: tuple[tuple[float, float, float], ...]
    believed: Believed


@dataclass(frozen=True)
class Plane:
    """Two axes at once, everything else as in the reference.

    Attributes:
        x: The first axis's name.
        y: The second one's.
        columns: Positions along x.
        rows: Positions along y.
        believed: J row by row, each along x.
    """

    x: str
    y: str
    columns: tuple[float, ...]
    rows: tuple[float, ...]
    believed: Believed


@dataclass(frozen=True)
class Slice:
    """One axis through the reference.

    Attributes:
        name: The axis's.
        positions: Along it.
        believed: J there.
        reference: Where the reference stands.
        trials: Where each trial stands, by its index in the study.
    """

    name: str
    positions: tuple[Position, ...]
    believed: Believed
    reference: Position
    trials: dict[int, Position]


@dataclass(frozen=True)
class Proposed:
    """A trial that would be tried next, and what the model expects of its J."""

    candidate: Candidate
    mean: float
    deviation: float


@dataclass(frozen=True)
class Landscape:
    """The model's belief of J over the space.

    Attributes:
        reference: The arm that it puts first, through which everything is cut.
        reference_trial: Its trial's index in the study.
        faces: The triangle of the methods that the reference uses most comes first.
        planes: Of the method that the reference uses most, against each parameter that is no share.
        slices: One for each axis.
        left_out: Trial to mean and deviation of what the model of all the other trials says that it measures.
        measured: Trial to J and its standard error, as the model was given them; projected where it was stopped.
        proposals: What would be tried next.
        tried: Trial to what it tried.
    """

    reference: Candidate
    reference_trial: int
    faces: tuple[Face, ...]
    planes: tuple[Plane, ...]
    slices: tuple[Slice, ...]
    left_out: dict[int, tuple[float, float]]
    measured: dict[int, tuple[float, float | None]]
    proposals: tuple[Proposed, ...]
    tried: dict[int, Candidate]


def landscape(replay: Replay) -> Landscape | None:
    """Return what the model believes; ``None`` while too few trials have ended for a model.

    Raises:
        ConfigError: A shape is not of the space.
    """
    ranking = replay.outer.ranking()
    if not ranking or not ranking[0].from_model:
        return None
    trials = {own: index for index, own in replay.indices.items()}
    first = trials[ranking[0].index]
    space, reference, posterior = replay.space, replay.tried[first], replay.outer.posterior()
    drawn = _Drawn(space, reference, _methods(replay, reference))
    believed = posterior.predict([space.encode(each) for each in drawn.candidates])
    if believed is None:
        return None
    return Landscape(
        reference=reference,
        reference_trial=first,
        faces=drawn.faces(believed),
        planes=drawn.planes(believed),
        slices=drawn.slices(believed, replay.tried),
        left_out={trials[own]: found for own, found in posterior.left_out().items()},
        measured={trials[own]: found for own, found in replay.outer.observed().items()},
        proposals=_proposed(posterior, space),
        tried=replay.tried,
    )


def _methods(replay: Replay, reference: Candidate) -> tuple[str, ...]:
    """Return the methods that were ever tried: those the reference uses most first, sparse last of the unused."""
    tried = {name for each in replay.tried.values() for name, weight in each.shape.weights.items() if weight > 0}
    weights = reference.shape.weights
    return tuple(sorted(tried, key=lambda name: (-weights.get(name, 0.0), name == SPARSE, name)))[:MOST_METHODS]


def _proposed(posterior: Posterior, space: StudySpace) -> tuple[Proposed, ...]:
    points = posterior.proposals(PROPOSALS)
    believed = posterior.predict(points) if points else None
    return tuple(
        Proposed(space.decode(point), *pair) for point, pair in zip(points, believed or [], strict=bool(believed))
    )


class _Drawn:
    """Collects all points that are drawn, so that one model is asked once."""

    def __init__(self, space: StudySpace, reference: Candidate, methods: Sequence[str]) -> None:
        self.candidates: list[Candidate] = []
        self._space, self._reference = space, reference
        moving = axes(space, methods, reference)
        self._faces = [found for a, b, c in combinations(methods, 3) if (found := self._face((a, b, c)))]
        self._slices = [self._slice(axis) for axis in moving]
        shares = [axis for axis in moving if axis.name.startswith("share of ")]
        others = [axis for axis in moving if axis not in shares and _is_continuous(axis)]
        pairs = [(shares[0], other) for other in others] if shares else list(combinations(others, 2))
        self._planes = [drawn for pair in pairs if (drawn := self._plane(*pair))]

    def _place(self, candidates: Sequence[Candidate]) -> slice:
        start = len(self.candidates)
        self.candidates.extend(candidates)
        return slice(start, len(self.candidates))

    def _face(self, methods: Corners) -> tuple[Corners, list[tuple[float, float, float]], slice] | None:
        """Return a whole triangle; ``None`` where the space holds but a part of it."""
        shares = [
            (i / DIVISIONS, j / DIVISIONS, (DIVISIONS - i - j) / DIVISIONS)
            for i in range(DIVISIONS + 1)
            for j in range(DIVISIONS + 1 - i)
        ]
        found = [mixed(self._space, self._reference, dict(zip(methods, each, strict=True))) for each in shares]
        whole = [each for each in found if each is not None]
        return (methods, shares, self._place(whole)) if len(whole) == len(shares) else None

    def _slice(self, axis: Axis) -> tuple[Axis, list[Position], slice]:
        moved = [(place, axis.moved(self._reference, place)) for place in axis.positions(ALONG)]
        inside = [(place, each) for place, each in moved if each is not None]
        return axis, [place for place, _ in inside], self._place([each for _, each in inside])

    def _plane(self, x: Axis, y: Axis) -> tuple[Axis, Axis, list[float], list[float], slice] | None:
        """Return a whole rectangle; ``None`` where the space holds but a part of it."""
        columns, rows = ([float(place) for place in axis.positions(SIDE)] for axis in (x, y))
        columns = [place for place in columns if x.moved(self._reference, place)]
        lifted = [y.moved(self._reference, place) for place in rows]
        found = [x.moved(each, place) for each in lifted if each for place in columns]
        whole = [each for each in found if each is not None]
        return (x, y, columns, rows, self._place(whole)) if len(whole) == len(rows) * len(columns) > 0 else None

    def faces(self, believed: Sequence[tuple[float, float]]) -> tuple[Face, ...]:
        """Return the triangles with what is believed of them."""
        return tuple(Face(methods, tuple(shares), _believed(believed[place])) for methods, shares, place in self._faces)

    def planes(self, believed: Sequence[tuple[float, float]]) -> tuple[Plane, ...]:
        """Return the planes with what is believed of them."""
        return tuple(
            Plane(x.name, y.name, tuple(columns), tuple(rows), _believed(believed[place]))
            for x, y, columns, rows, place in self._planes
        )

    def slices(self, believed: Sequence[tuple[float, float]], tried: dict[int, Candidate]) -> tuple[Slice, ...]:
        """Return the slices with what is believed of them, and where the trials stand."""
        return tuple(
            Slice(
                axis.name,
                tuple(positions),
                _believed(believed[place]),
                axis.of(self._reference),
                {index: axis.of(each) for index, each in tried.items()},
            )
            for axis, positions, place in self._slices
            if positions
        )


def _is_continuous(axis: Axis) -> bool:
    return not any(isinstance(place, str) for place in axis.positions(2))


def _believed(pairs: Sequence[tuple[float, float]]) -> Believed:
    return Believed(tuple(mean for mean, _ in pairs), tuple(deviation for _, deviation in pairs))
