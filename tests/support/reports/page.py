"""A report's page as a browser would read it."""

from html.parser import HTMLParser

from pipeline.report.load import load_report_data
from pipeline.report.page import render

HOSTILE = "<script>alert(1)</script>"


class Page(HTMLParser):
    """What a browser would find in the page: its elements, and its text outside of scripts and styles."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.words, self.scripts, self._inside = [], [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self._inside = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag):
        self._inside = ""

    def handle_data(self, data):
        if self._inside == "script":
            self.scripts[-1] += data
        elif self._inside != "style":
            self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())

    def all(self, tag, name=""):
        return [a for t, a in self.elements if t == tag and name in (a.get("class") or "")]


def page_of(study):
    return Page(render(load_report_data(study.folder)))
