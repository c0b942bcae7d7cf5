"""The report page: made by the stage, read as HTML, its inputs edited."""

import html.parser
import json
import re

from medunifier.runtime.params import load_params
from medunifier.tracking import LocalRun
from stages.summarize import summarize

VOID = {"meta", "link", "img", "br"}


class Reader(html.parser.HTMLParser):
    """Checks that tags are balanced; collects text, attributes and tags."""

    def __init__(self, page):
        super().__init__()
        self.open, self.tags, self.addresses, self.ids, self.words = [], [], [], set(), []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.addresses += [
            value for key, value in attributes if key in ("src", "href", "action", "data", "poster")
        ]
        self.ids |= {value for key, value in attributes if key == "id"}
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] not in (["style"], ["title"]):
            self.words.append(data)

    @property
    def text(self):
        return re.sub(r"[ \n]+", " ", " ".join(self.words))


def make(folder, params=None):
    summarize(params or load_params(), LocalRun("summarize", folder / "local"))
    return (folder / "results/report/index.html").read_text(encoding="utf-8")


def edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
