import re
import time
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

pytest.importorskip("jinja2", reason="the page needs the extra 'report'")

from report_examples import bare, full

from qdq.records.run import RunReport
from qdq.records.validation import LatencyReport, LatencyRow
from qdq.report.page import render
from qdq.report.table import show

HOSTILE = "\"'></title></style><script>alert('x')</script><img onload=x {{ 7*6 }}"
VOID = {"meta", "br"}
SECTIONS = ["summary", "sensitivity", "ranges", "training", "decisions", "files", "manifest"]


class Outline(HTMLParser):
    """Tags with the names of their attributes, ids and fragments; every tag must be closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, ...]] = []
        self.ids: list[str] = []
        self.named: list[str] = []
        self.open: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, *(name for name, _ in attrs)))
        for name, value in attrs:
            if name == "id":
                self.ids.append(str(value))
            if name in ("aria-labelledby", "href"):
                self.named.append(str(value).removeprefix("#"))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def sections(page: str) -> list[str]:
    return re.findall(r'<section id="(\w+)"', page)


def test_the_page_shows_the_figures_of_every_section() -> None:
    page = render(full(), {"versions": {"torch": "2"}})
    assert sections(page) == SECTIONS
    for shown in ("90.00%", "80.00%", "31.25", "0.300", "2 of 2", "77", "torch"):
        assert shown in page, shown
    for shown in ("12.34", "62.50%", "1 of 1 folded", "2.5", "0.125", "7 net", "5 tensors"):
        assert shown in page, shown


def test_sections_without_a_record_are_left_out() -> None:
    report = replace(bare(), insert={})
    page = render(report, {})
    assert sections(page) == ["summary", "ranges", "manifest"]
    assert "<svg" not in page
    empty = replace(full(), rows=(), pictures=(), sensitivity=replace(full().sensitivity, rows=()))
    assert "sensitivity" not in sections(render(empty, {}))


@pytest.mark.parametrize("report", [bare(), full()], ids=["bare", "full"])
def test_the_page_needs_nothing_from_outside(report: RunReport) -> None:
    page = render(report, {"versions": {"torch": "2"}})
    assert not re.search(r"src\s*=|https?:|@import|url\(|<script|<link|<iframe|javascript:", page)
    assert set(re.findall(r'href="(.)', page)) == {"#"}


@pytest.mark.parametrize("build", [bare, full])
def test_text_from_outside_stays_text_everywhere(build: object) -> None:
    plain, hostile = (
        render(build(name), {name: name})  # type: ignore[operator]
        for name in ("net", HOSTILE)
    )
    assert Outline(hostile).tags == Outline(plain).tags
    assert "<script" not in hostile
    assert "&lt;script&gt;alert(" in hostile
    assert "{{ 7*6 }}" in hostile


def test_every_reference_in_the_page_has_its_element_once() -> None:
    outline = Outline(render(full(sites=20), {}))
    assert len(set(outline.ids)) == len(outline.ids)
    assert set(outline.named) <= set(outline.ids)
    assert ("th",) not in outline.tags  # each has a scope
    drawings = [tag for tag in outline.tags if tag[0] == "svg"]
    assert all("aria-labelledby" in tag or "aria-hidden" in tag for tag in drawings)


def test_equal_records_give_equal_bytes_and_latency_is_not_among_them() -> None:
    page = render(full(), {"b": 1, "a": 1})
    assert page == render(full(), {"a": 1, "b": 1})
    assert not re.search(r"\d ms\b", page)


def test_the_page_is_the_same_from_records_that_were_read_back() -> None:
    report = full()
    assert render(RunReport.from_dict(report.to_dict()), {}) == render(report, {})


def test_a_hundred_sites_stay_small_and_quick() -> None:
    report = full("backbone.layer1.0.convolution", sites=100)
    start = time.perf_counter()
    page = render(report, {})
    assert time.perf_counter() - start < 2
    assert len(page.encode()) < 1_000_000
    assert page.count('class="counts"') == 100
    assert "88 more sites" in page
    assert "All 100 layers" in page


def test_sixty_sites_stay_under_600_kilobytes() -> None:
    assert len(render(full("layer1.0.conv", sites=60), {}).encode()) < 600_000


def test_the_terminal_table_fits_80_columns_and_says_what_is_slower(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    rows = (
        LatencyRow("float", 1.0, 0.9, 1.1, 1.0),
        LatencyRow("onnxruntime", 2.0, 1.9, 2.1, 2.0),
    )
    show(bare("onnxruntime"), LatencyReport(1, 1, 10, rows), Path("runs/[x]"))
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 80
    for shown in ("onnxruntime", "80.00%", "2000", "2.00", "2/2", "runs/[x]"):
        assert shown in printed
    assert "slower than float on this machine: onnxruntime" in printed
