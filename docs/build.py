"""Builds the documentation's site, strictly and without the network: ``python docs/build.py [FOLDER]``.

Pages link to files of the repository as they do on a code host, such as ``../configs/quickstart.yaml``. The site has
no such files, so every linked one is put beside the pages, and the links are turned to it.
"""

from __future__ import annotations

import os
import posixpath
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CONFIG = "zensical.toml"
# Where linked files that are no pages of the documentation go.
ELSEWHERE = "files"
LINK = re.compile(r"(!?\[[^\]]*\]\()([^)\s]+)(\))")
FENCED = re.compile(r"(^```.*?^```$)", flags=re.DOTALL | re.MULTILINE)


def staged_place(path: str) -> str:
    """Return where a file of the repository stands among the site's sources."""
    return path.removeprefix("docs/") if path.startswith("docs/") else f"{ELSEWHERE}/{path}"


def stage(target: Path) -> list[str]:
    """Put all pages and every file that they link to under a folder, and return the files that are not there.

    Links of pages that stand elsewhere in the repository are followed, too.
    """
    waiting = [str(path.relative_to(ROOT)) for path in sorted((ROOT / "docs").rglob("*")) if _is_source(path)]
    seen, missing = set(waiting), []
    while waiting:
        path = waiting.pop()
        if not (ROOT / path).is_file():
            missing.append(path)
            continue
        place = target / staged_place(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        if not path.endswith(".md"):
            shutil.copyfile(ROOT / path, place)
            continue
        text, linked = turned(path, (ROOT / path).read_text(encoding="utf-8"))
        place.write_text(text, encoding="utf-8")
        waiting += sorted(linked - seen)
        seen |= linked
    return sorted(missing)


def turned(path: str, text: str) -> tuple[str, set[str]]:
    """Return a page's text with its links turned to the staged files, and the files that they lead to."""
    linked: set[str] = set()

    def turn(found: re.Match[str]) -> str:
        before, link, after = found.groups()
        address, mark, anchor = link.partition("#")
        if not address or ":" in address:
            return found.group(0)
        wanted = posixpath.normpath(posixpath.join(posixpath.dirname(path), address))
        linked.add(wanted)
        there = posixpath.relpath(staged_place(wanted), posixpath.dirname(staged_place(path)) or ".")
        return f"{before}{there}{mark}{anchor}{after}"

    # Code is shown as it is; the pieces between its fences alternate with it.
    pieces = FENCED.split(text)
    pieces[::2] = [LINK.sub(turn, piece) for piece in pieces[::2]]
    return "".join(pieces), linked


def build(folder: Path) -> Path:
    """Build the site in a folder, which is emptied first, and return where it stands.

    Raises:
        SystemExit: A link leads nowhere, or the generator warns of something.
    """
    shutil.rmtree(folder, ignore_errors=True)
    missing = stage(folder / "docs")
    if missing:
        sys.exit(f"error: pages link to files that are not there: {', '.join(missing)}")
    shutil.copyfile(ROOT / CONFIG, folder / CONFIG)
    command = [sys.executable, "-m", "zensical", "build", "--strict", "--clean", "--config-file", str(folder / CONFIG)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "NO_COLOR": "1"}, check=False)
    if done.returncode != 0:
        sys.exit(f"{done.stdout}{done.stderr}error: the documentation was not built")
    return folder / "site"


def _is_source(path: Path) -> bool:
    return path.is_file() and path.suffix != ".py" and "__pycache__" not in path.parts


if __name__ == "__main__":
    print(build(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "build" / "docs"))
