"""What a launch notes of itself: commit, versions, machine; and nothing that names a person, a host or a folder."""

import json
import shutil
import subprocess

import pytest

from pipeline.runtime import environment
from pipeline.runtime.environment import code_commit
from pipeline.study.folder import StudyFolder
from pipeline.study.provenance import note_launch

GIT = shutil.which("git")


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A repository that holds this code's file, committed."""
    if GIT is None:
        pytest.skip("needs git")
    file = tmp_path / "mine" / "environment.py"
    file.parent.mkdir()
    file.write_text("code = 1\n")
    monkeypatch.setattr(environment, "HERE", file)

    def git(*arguments):
        mine = ["-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "commit.gpgsign=false"]
        done = subprocess.run([GIT, "-C", str(tmp_path), *mine, *arguments], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    git("init", "--quiet")
    return file, git


def test_a_commit_is_that_of_the_code_and_says_when_files_were_changed(checkout):
    file, git = checkout
    git("add", ".")
    git("commit", "--quiet", "-m", "one")
    git("tag", "-a", "v1", "-m", "one")
    commit = git("rev-parse", "HEAD")[:12]
    assert code_commit() == commit
    file.write_text("code = 2\n")
    assert code_commit() == f"{commit}-dirty"


def test_a_copy_inside_another_projects_repository_has_no_commit(checkout):
    file, git = checkout
    (file.parent / "other.py").write_text("theirs = 1\n")
    git("add", "mine/other.py")
    git("commit", "--quiet", "-m", "theirs")
    assert code_commit() is None


def test_a_hooks_repository_does_not_stand_in_for_the_codes(checkout, tmp_path, monkeypatch):
    _, git = checkout
    git("add", ".")
    git("commit", "--quiet", "-m", "one")
    commit = git("rev-parse", "HEAD")[:12]
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    assert code_commit() == commit


def test_without_git_there_is_no_commit(monkeypatch):
    monkeypatch.setattr(environment.shutil, "which", lambda name: None)
    assert code_commit() is None


def test_lines_are_added_and_hold_no_names(tmp_path):
    folder = StudyFolder(tmp_path)
    note_launch(folder, {"task.prompts": "0" * 64})
    note_launch(folder, {"task.prompts": "0" * 64})
    lines = [json.loads(line) for line in folder.provenance_file.read_text().splitlines()]
    assert len(lines) == 2
    machine = {"platform", "processor", "processors", "memory_gib", "gpus"}
    assert set(lines[0]) == {"at", "python", "versions", "commit", "files"} | machine
    assert str(tmp_path) not in folder.provenance_file.read_text()
