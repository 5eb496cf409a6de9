"""The configs that come with the package, by name."""

from __future__ import annotations

from pathlib import Path

from shaping.errors import ConfigError

# Found by name like the others, but of no use before its paths are filled in.
TEMPLATE = "own_models"


def builtin_folder() -> Path:
    """Return where the built-in configs are: inside an installed package, or at the top of a checkout."""
    here = Path(__file__).parents[1]
    return here / "configs" if (here / "configs").is_dir() else here.parent / "configs"


def find_config(name: str) -> Path:
    """Return the path of a config: a file, or the name of a built-in one with or without ``.yaml``.

    Raises:
        ConfigError: There is neither such a file nor such a built-in config.
    """
    path = Path(name)
    if path.is_file():
        return path
    # The installed package carries configs/, so that configs/quickstart.yaml works wherever one stands.
    if path.parent in (Path(), Path("configs")):
        builtin = builtin_folder() / f"{path.name.removesuffix('.yaml')}.yaml"
        if builtin.is_file():
            return builtin
    known = ", ".join(sorted(file.stem for file in builtin_folder().glob("*.yaml") if file.stem != TEMPLATE))
    raise ConfigError(
        f"config {name} does not exist",
        f"give a YAML file (a copy of {builtin_folder() / f'{TEMPLATE}.yaml'}), or a built-in config: {known}",
    )
