"""Studies in a browser: the list and a page for each, up to date, read-only, and nothing for strangers."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import socket
import threading
import time
from pathlib import Path
from urllib.parse import quote

import pytest
from starlette.testclient import TestClient

from pipeline.report.load import load_report_data
from pipeline.report.page import Live, render
from pipeline.serve.app import KEPT_PAGES
from pipeline.serve.folders import FolderSource
from pipeline.serve.server import LOOPBACK, allowed_hosts, find_source
from pipeline.serve.source import Entry, Version, key_of
from shaping.errors import ConfigError
from tests.support.hostile import ALL, PAYLOADS, RUN, hostile_study
from tests.support.reports.synthetic_study import SyntheticStudy
from tests.support.servers.serving import client_of, finish, write_studies
from tests.support.waiting import LIMIT_SECONDS

# Whole reports, made again and again.
pytestmark = pytest.mark.slow


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in folder.rglob("*")}


@pytest.fixture
def studies(tmp_path: Path) -> Path:
    return write_studies(tmp_path)


def version(client: TestClient, key: str) -> str:
    found: str = client.get(f"/studies/{key}/version").json()["version"]
    return found


def test_the_list_links_every_study_and_nothing_else(studies: Path) -> None:
    client = client_of(FolderSource(studies))
    page = client.get("/")
    assert page.status_code == 200
    assert re.findall(r'href="(studies/[^"]*)"', page.text) == ["studies/begun/", "studies/whole/"]
    for key in ("begun", "whole"):
        assert client.get(f"/studies/{key}/").status_code == 200
    assert "11 of " in page.text and "0 of " in page.text


def test_a_study_is_served_as_its_report_and_asks_nobody_but_this_server(studies: Path) -> None:
    client = client_of(FolderSource(studies))
    page = client.get("/studies/whole/").text
    data = load_report_data(FolderSource(studies)._folder("whole"))
    written, live = render(data), render(data, Live("x", "", ""))
    for text in re.findall(r"<h[123][^>]*>[^<]*", written):
        assert text in page
    assert "connect-src 'self'" in page and "connect-src" not in written
    assert "fetch(" not in written.replace(_plotly(written), "") and "data-version" not in written
    assert len(live) - len(written) < 5_000
    assert 'href="../../"' in page


def _plotly(page: str) -> str:
    found = re.search(r'<script id="plotly">.*?</script>', page, flags=re.DOTALL)
    return found[0] if found else ""


def test_a_report_is_sent_packed_to_those_who_can_unpack_it(studies: Path) -> None:
    client = client_of(FolderSource(studies))
    packed = client.get("/studies/whole/")
    plain = client.get("/studies/whole/", headers={"accept-encoding": "identity"})
    assert packed.headers["content-encoding"] == "gzip" and "content-encoding" not in plain.headers
    assert packed.text == plain.text
    assert int(packed.headers["content-length"]) < int(plain.headers["content-length"]) / 2


def test_one_study_alone_has_no_list(studies: Path) -> None:
    client = client_of(FolderSource(studies / "whole"))
    page = client.get("/")
    assert page.url.path == "/studies/whole/" and page.status_code == 200 and "All studies" not in page.text
    assert client.get("/studies/begun/").status_code == 404


def test_a_study_that_grows_gets_a_new_version_and_its_page_shows_the_new_trial(studies: Path) -> None:
    client = client_of(FolderSource(studies))
    study = SyntheticStudy(studies / "growing")
    assert "No trial has started" in client.get("/studies/growing/").text
    before, listed = version(client, "growing"), client.get("/version").json()["version"]
    assert version(client, "growing") == before
    study.unfinished_trial(0)
    first = version(client, "growing")
    assert first != before
    page = client.get("/studies/growing/").text
    assert "1 unfinished" in page and f'data-version="{first}"' in page
    study.failed_trial(0, detail="it failed like no other")
    assert version(client, "growing") != first and client.get("/version").json()["version"] != listed
    assert "it failed like no other" in client.get("/studies/growing/").text
    kept = study.folder.trial_folder(0) / "failure.json"
    first, text = version(client, "growing"), kept.read_text().replace("no other", "nothing!")
    assert len(text) == len(kept.read_text())
    kept.write_text(text)
    assert version(client, "growing") != first
    # What a launch says of its steps makes no new page: it is told beside it.
    before = version(client, "growing")
    study.folder.progress_file.write_text("{}")
    assert version(client, "growing") == before


def test_what_happens_now_stands_beside_the_version(studies: Path) -> None:
    client = client_of(FolderSource(studies))
    now = client.get("/studies/begun/version").json()["now"]
    assert now.startswith("not running: 0 of ")
    with FolderSource(studies)._folder("begun").locked():
        assert client.get("/studies/begun/version").json()["now"].startswith("searching shapes: 0 of ")
        assert "searching shapes" in client.get("/").text


def test_many_viewers_make_a_page_once(studies: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    class Slow(FolderSource):
        def page(self, key: str, live: Live) -> str:
            made.append(key)
            time.sleep(0.3)
            return super().page(key, live)

    with client_of(Slow(studies)) as client:
        answers: list[int] = []
        viewers = [
            threading.Thread(target=lambda: answers.append(client.get("/studies/whole/").status_code)) for _ in range(8)
        ]
        for viewer in viewers:
            viewer.start()
        for viewer in viewers:
            viewer.join()
        assert answers == [200] * 8 and made == ["whole"]
        client.get("/studies/begun/")
        client.get("/studies/whole/")
        assert made == ["whole", "begun"]


def test_a_page_that_is_made_holds_up_nobody_else(studies: Path) -> None:
    making, done = threading.Event(), threading.Event()

    class Stuck(FolderSource):
        def page(self, key: str, live: Live) -> str:
            making.set()
            assert done.wait(LIMIT_SECONDS)
            return super().page(key, live)

    with client_of(Stuck(studies)) as client:
        viewer = threading.Thread(target=client.get, args=("/studies/whole/",))
        viewer.start()
        assert making.wait(LIMIT_SECONDS)
        assert client.get("/studies/begun/version").status_code == 200
        done.set()
        viewer.join()


class Numbered:
    """A source of studies whose pages are their keys."""

    place, only = "a test", None

    def __init__(self) -> None:
        self.made: list[str] = []

    def entries(self) -> list[Entry]:
        return []

    def version(self, key: str) -> Version:
        return Version("same", "")

    def page(self, key: str, live: Live) -> str:
        self.made.append(key)
        return key


def test_only_the_last_pages_are_kept() -> None:
    source = Numbered()
    with client_of(source) as client:
        for key in range(KEPT_PAGES + 1):
            client.get(f"/studies/{key}/")
        client.get(f"/studies/{KEPT_PAGES}/")
        client.get("/studies/0/")
    assert source.made == [*map(str, range(KEPT_PAGES + 1)), "0"]


@pytest.mark.parametrize(
    "path",
    [
        "/studies/nothing/",
        "/studies/empty/",
        "/studies/../secret/study/",
        "/studies/..%2fsecret%2fstudy/",
        "/studies/%2e%2e/",
        "/studies/..%5c..%5csecret/",
        "/studies/whole%2f..%2fbegun/",
        "/studies/whole%00/",
        "/studies/%ff/",
        "/studies/whole/study.yaml",
        "/studies/whole/study.db",
        "/studies/whole/report.html",
        "/whole/",
        "/studies/<script>/",
    ],
)
def test_what_is_not_in_the_list_is_not_found(path: str, studies: Path) -> None:
    answer = client_of(FolderSource(studies)).get(path)
    assert answer.status_code == 404
    assert "secret" not in answer.text and "<script>/" not in answer.text and "Traceback" not in answer.text
    assert "synthetic" not in answer.text


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
@pytest.mark.parametrize("path", ["/", "/version", "/studies/whole/", "/studies/whole/version"])
def test_only_reading_is_served(method: str, path: str, studies: Path) -> None:
    assert client_of(FolderSource(studies)).request(method, path).status_code == 405


def test_nothing_is_written_into_the_studies(studies: Path) -> None:
    before = snapshot(studies)
    client = client_of(FolderSource(studies))
    for path in ("/", "/version", "/studies/whole/", "/studies/begun/", "/studies/whole/version"):
        assert client.get(path).status_code == client.head(path).status_code == 200
    assert snapshot(studies) == before


@pytest.mark.parametrize("path", ["/", "/studies/whole/", "/studies/whole/version", "/nothing", "/studies/nothing/"])
def test_every_answer_tells_the_browser_what_it_may_not_do(path: str, studies: Path) -> None:
    for host in ("localhost", "evil.example"):
        headers = client_of(FolderSource(studies)).get(path, headers={"Host": host}).headers
        policy = headers["content-security-policy"].split("; ")
        assert policy[0] == "default-src 'none'" and "frame-ancestors 'none'" in policy
        assert "connect-src 'self'" in policy and not any("http" in part or "*" in part for part in policy)
        assert headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "no-referrer"
        assert headers["cache-control"] == "no-store" and "access-control-allow-origin" not in headers


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("localhost:8410", 200),
        ("127.0.0.1:9", 200),
        ("[::1]:8410", 200),
        ("LOCALHOST", 200),
        ("evil.example", 400),
        ("evil.example:8410", 400),
        ("localhost.evil.example", 400),
        ("127.0.0.1.evil.example", 400),
        ("127.0.0.2", 400),
        ("", 400),
        ("localhost@evil.example", 400),
        ("a b", 400),
    ],
)
def test_names_that_were_not_asked_for_are_refused(host: str, status: int, studies: Path) -> None:
    client = client_of(FolderSource(studies))
    assert {client.get(path, headers={"Host": host}).status_code for path in ("/", "/studies/whole/version")} == {
        status
    }


def test_the_host_that_was_asked_for_is_allowed_and_every_own_address_where_all_were() -> None:
    assert allowed_hosts("box.example", "10.1.2.3") == [*LOOPBACK, "box.example", "10.1.2.3"]
    assert allowed_hosts("127.0.0.1", "127.0.0.1") == list(LOOPBACK)
    everything = allowed_hosts("0.0.0.0", "0.0.0.0")
    assert socket.gethostname() in everything and "*" not in everything
    assert allowed_hosts("::1", "::1") == list(LOOPBACK)


def test_hostile_texts_stay_texts_and_hostile_names_lead_nowhere(tmp_path: Path) -> None:
    root = tmp_path / "studies"
    names = ["<script>alert(1)</script>".replace("/", "_"), "a b & c", '"><img src=x>', "..x", "%2e%2e", "ü\u202e", "-"]
    finish(hostile_study(root / "hostile"))
    for name in names:
        SyntheticStudy(root / name)
    SyntheticStudy(root / os.fsdecode(b"bytes-\xff\xfe"))
    client = client_of(FolderSource(root))
    listed = client.get("/").text
    links = re.findall(r'href="(studies/[^"]*)"', listed)
    assert len(links) == len(names) + 2
    assert all(re.fullmatch(r"studies/[A-Za-z0-9._-]+/", link) and quote(link) == link for link in links)
    assert all(client.get(f"/{link}").status_code == 200 for link in links)
    assert "<img src=x>" not in listed and "<script>alert" not in listed and "\u202e" not in listed
    assert html.escape(names[0]) in listed
    page = client.get("/studies/hostile/").text
    assert RUN in html.unescape(page)
    assert not any(payload in page for payload in PAYLOADS if "<" in payload)
    broken = root / "hostile" / "trials" / "4" / "result.json"
    broken.write_text(f'"{"<script>"}')
    (root / "hostile" / "verdict.json").write_text(json.dumps({"text": [ALL]}))
    for path in ("/", "/studies/hostile/", "/studies/hostile/version"):
        assert not any(payload in client.get(path).text for payload in PAYLOADS if payload.startswith("<"))


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("empty", ["No trial has started"]),
        ("first", ["1 unfinished"]),
        ("failed", ["2 failed", "No trial has completed"]),
    ],
)
def test_a_study_without_results_has_a_page_that_says_so(kind: str, words: list[str], tmp_path: Path) -> None:
    study = SyntheticStudy(tmp_path / "studies" / "study")
    if kind == "first":
        study.unfinished_trial(0)
    if kind == "failed":
        study.failed_trial(0)
        study.failed_trial(1)
    client = client_of(FolderSource(tmp_path / "studies"))
    page = client.get("/studies/study/")
    assert page.status_code == 200 and all(word in page.text for word in words)
    assert client.get("/").status_code == 200


@pytest.mark.parametrize("file", ["study.yaml", "trials/0/result.json", "trials/0/trial.json", "verdict.json"])
def test_a_damaged_study_is_told_by_name_and_harms_no_other(file: str, studies: Path) -> None:
    whole = (studies / "whole" / file).read_bytes()
    client = client_of(FolderSource(studies))
    assert client.get("/studies/whole/").status_code == 200
    (studies / "whole" / file).write_bytes(b'{"a": \xff')
    listed, page = client.get("/"), client.get("/studies/whole/")
    assert listed.status_code == 200 and "cannot be read" in listed.text and "studies/begun/" in listed.text
    assert page.status_code == 503 and file.rpartition("/")[2] in page.text and "Traceback" not in page.text
    # It looks again by itself, and is whole as soon as the file is.
    mark = re.search(r'data-version="(\w+)"', page.text)
    assert mark is not None and version(client, "whole") == mark[1]
    (studies / "whole" / file).write_bytes(whole)
    assert version(client, "whole") != mark[1] and client.get("/studies/whole/").status_code == 200


def test_an_error_that_nobody_foresaw_shows_no_trace(studies: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Faulty(FolderSource):
        def page(self, key: str, live: Live) -> str:
            raise ZeroDivisionError("secret words \x1b[2J")

    page = client_of(Faulty(studies)).get("/studies/whole/")
    assert page.status_code == 500 and "ZeroDivisionError" in page.text
    assert "secret words" not in page.text and "Traceback" not in page.text
    assert "ZeroDivisionError: secret words \\x1b[2J" in capsys.readouterr().err


def test_a_study_that_is_removed_is_gone(studies: Path) -> None:
    client = client_of(FolderSource(studies))
    assert client.get("/studies/begun/").status_code == 200
    shutil.move(studies / "begun", studies.parent / "put aside")
    gone = client.get("/studies/begun/version")
    assert gone.status_code == client.get("/studies/begun/").status_code == 404
    assert "studies/begun/" not in client.get("/").text


def test_a_folder_without_studies_says_so(tmp_path: Path) -> None:
    page = client_of(FolderSource(tmp_path)).get("/")
    assert page.status_code == 200 and "No study is kept there yet" in page.text
    with pytest.raises(ConfigError, match="no study and no folder of studies in"):
        find_source(str(tmp_path / "nowhere"))


def test_keys_are_names_where_these_are_plain() -> None:
    assert key_of("quickstart") == "quickstart"
    assert re.fullmatch(r"[0-9a-f]{24}", key_of("../x")) and key_of("../x") != key_of("..\\x")
    assert len({key_of(name) for name in ("a b", "a-b", "a/b", "a_b")}) == 4
