"""A page as a reader finds it: tags that pair, text, and attributes."""

import json
import re
from html.parser import HTMLParser

VOID = {"meta", "link", "br", "hr", "img", "input"}


class Element:
    """A tag with its attributes, elements and text; ``text`` is all text below it."""

    def __init__(self, tag, attributes, parent=None):
        self.tag, self.attributes, self.parent, self.children = tag, dict(attributes), parent, []

    @property
    def text(self):
        return "".join(child if isinstance(child, str) else child.text for child in self.children)

    def __iter__(self):
        yield self
        for child in self.children:
            if isinstance(child, Element):
                yield from child

    def all(self, tag=None, **attributes):
        """Return the elements below with this tag, this class (``cls``), and these attributes."""
        wanted = {name.replace("_", "-"): value for name, value in attributes.items() if name != "cls"}
        return [
            one
            for one in self
            if tag in (None, one.tag)
            and wanted.items() <= one.attributes.items()
            and attributes.get("cls", "") in ("", *(one.attributes.get("class") or "").split())
        ]


class Reader(HTMLParser):
    """Builds the tree, and stops where tags do not pair."""

    def __init__(self):
        super().__init__()
        self.root = self.at = Element("page", {})

    def handle_starttag(self, tag, attrs):
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.at = self.at.children[-1]

    def handle_startendtag(self, tag, attrs):
        self.at.children.append(Element(tag, attrs, self.at))

    def handle_endtag(self, tag):
        assert self.at.tag == tag, (self.at.tag, tag)
        self.at = self.at.parent

    def handle_data(self, data):
        self.at.children.append(data)


def read(text):
    """Return the page's root."""
    reader = Reader()
    reader.feed(text)
    reader.close()
    assert reader.at is reader.root
    return reader.root


def data_of(page):
    """Return the page's JSON."""
    (script,) = page.all("script", id="data")
    return json.loads(script.text)


def require_alone(text):
    """Check that a page refers to nothing outside it, and runs nothing but what its policy names."""
    page = read(text)
    links = [value for one in page for name in ("href", "src", "xlink:href") if (value := one.attributes.get(name))]
    assert all(link.startswith(("#", "data:image/jpeg;base64,")) for link in links)
    assert not re.findall(r"https?:|@import|url\((?!#)", text)
    assert not [name for one in page for name in one.attributes if name.startswith("on")]
    assert not page.all("iframe") + page.all("object") + page.all("link")
    ids = [one.attributes["id"] for one in page if "id" in one.attributes]
    assert len(ids) == len(set(ids))
    for one in page.all("svg"):
        named = one.attributes.get("aria-labelledby", "").split()
        told = one.attributes.get("aria-label") or (named and all(name in ids for name in named))
        assert told or one.attributes.get("aria-hidden") == "true", one.attributes
    assert all(one.attributes.get("alt") for one in page.all("img"))
    return page
