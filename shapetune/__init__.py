"""Shapetune from Python: studies to launch and to look at, and token rewards for a training loop of one's own.

    import shapetune

    study = shapetune.launch("quickstart")         # or Study.open("studies/quickstart"), while it runs or afterwards
    study.trials()                                 # a pandas DataFrame, one row a trial
    study.best_shape                               # where the reward should fall
    study.ax_client().predict([...])               # what the search's model believes, without touching the study

Nothing heavy is imported before it is used.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.config.schema import StudyConfig
    from pipeline.trainers.base import TrainingJob
    from shapetune.api import Study, launch, load_config
    from shaping.errors import ConfigError, ShapetuneError
    from shaping.rollouts import Rollouts
    from shaping.shape import Shape
    from shaping.shaper import Shaper
else:
    _HOMES = {
        "ConfigError": "shaping.errors",
        "Rollouts": "shaping.rollouts",
        "Shape": "shaping.shape",
        "Shaper": "shaping.shaper",
        "ShapetuneError": "shaping.errors",
        "Study": "shapetune.api",
        "TrainingJob": "pipeline.trainers.base",
        "StudyConfig": "pipeline.config.schema",
        "launch": "shapetune.api",
        "load_config": "shapetune.api",
    }

    def __getattr__(name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        found = globals()[name] = getattr(import_module(_HOMES[name]), name)
        return found

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})


__version__ = version("shapetune")
__all__ = [
    "ConfigError",
    "Rollouts",
    "Shape",
    "Shaper",
    "ShapetuneError",
    "Study",
    "StudyConfig",
    "TrainingJob",
    "__version__",
    "launch",
    "load_config",
]
