"""The page of a report: one file that fetches nothing, says the figures of report.json, stays small with many episodes, and renders."""

from __future__ import annotations

import json
import re
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from service_tools import program
from test_simulation_report import outturn

from daemon.simulation.account import Liquidated
from daemon.simulation.charts import Chart, Line, Marks, figure, time_ticks
from daemon.simulation.curve import Curve, Track
from daemon.simulation.episode import Episode, EpisodeAction
from daemon.simulation.outturn import Difference
from daemon.simulation.page import EPISODES_SHOWN_MAX, Picture, page
from daemon.simulation.report import Report, signed
from daemon.simulation.retrace import Contribution, Contributions
from daemon.units import DAY_NS, HOUR_NS, MINUTE_NS, NS

T0 = 1_770_134_400 * NS  # 2026-02-03T16:00:00Z
MARKET = "dydx:HYPE-USD"
VOID = {"meta", "br", "col", "path", "link", "input", "img"}


class Outline(HTMLParser):
    """What a page is made of: its tags with their attributes, its text, and whether every tag is closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.faults: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.faults += self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if not self._open or self._open.pop() != tag:
            self.faults.append(f"</{tag}>")

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def track(shift: float, days: int) -> Track:
    at = T0 + np.arange(days * 1440, dtype=np.int64) * MINUTE_NS
    wave = np.sin(np.arange(len(at)) / 700.0)
    found = Track(T0, T0 + days * DAY_NS, [MARKET, "dydx:BTC-USD"])
    found.add(at, 50_000.0 + 900 * wave + shift, 0.3 + 0.2 * wave, -shift, [33.0 + wave, 90_000.0 + 500 * wave])
    return found


def split(funding_usd: float) -> Difference:
    return Difference(direction_usd=1.0, funding_usd=funding_usd, fees_and_slippage_usd=-2.0, liquidation_avoided_usd=0.0)


def sample(episodes: int, days: int = 30) -> tuple[Report, Picture]:
    """A replay with so many episodes, each of three runs and twelve actions, with what a long trigger says of itself."""
    found = []
    for number in range(episodes):
        fired_at = T0 + number * (days * DAY_NS // max(episodes, 1))
        name = f"funding-spike/{MARKET}/{fired_at}"
        actions = tuple(
            EpisodeAction(
                action="shrink_position", outcome="done" if step else "failed", size=12.5, notional_usd=412.5,
                at=fired_at + step * MINUTE_NS,
                price=33.0 + step / 100, reason="" if step else "no_fill",
                run_id=f"{name}/{step // 4 + 1}", market=MARKET,
            )
            for step in range(12)
        )  # fmt: skip
        readings = tuple(
            {"text": f'mean(funding_rate, {line}h) <&> "quoted"', "value": line / 1e6, "unit": "rate/h", "role": "reading", "signal": "x",
             "age": 3.0, "kids": ()}
            for line in range(20)
        )  # fmt: skip
        trace = {"text": "all of it", "value": 2.0, "unit": "truth", "role": "logic", "signal": "", "age": None, "kids": readings}
        found.append(
            Episode(
                runbook="funding-spike", entity=MARKET, subject=MARKET, pending_at=fired_at, fired_at=fired_at, trace=trace, id=name,
                cleared_at=fired_at + HOUR_NS, ending="cleared", run_statuses=("done", "done", "blocked"),
                run_reasons=("", "", "over per_episode: wants 8,285 USD, left 0 base units"), actions=actions,
            )
        )  # fmt: skip
    runs = tuple(
        Contribution(
            run_id=f"funding-spike/{MARKET}/{T0 + n}/1", runbook="funding-spike", at=T0 + n * HOUR_NS, cost_usd=2.0, split=split(n - 1.0),
            liquidations_avoided=0,
        )
        for n in range(3)
    )  # fmt: skip
    report = Report(
        rows=1_234_567, first_at=T0, last_at=T0 + days * DAY_NS, seconds={"load": 0.1, "replay": 2.0}, episodes=tuple(found),
        having=outturn(pnl_usd=987.65, fees_usd=12.25, funding_usd=-321.5),
        lacking=outturn(pnl_usd=-4_321.0, funding_usd=-1_241.25, liquidations=1),
        sample="out", costs="taker fee 0.05%", recording="hype-2026", runbooks=("funding-spike",),
        contributions=Contributions(acted=3, runs=runs), notes=("house limits were not applied <& none>",),
    )  # fmt: skip
    gone = (Liquidated(at=T0 + DAY_NS, market=MARKET, size=10.0, price=33.3, cost_usd=5.0),)
    return report, Picture(having=track(0.0, days), lacking=track(40.0, days), liquidated_without=gone)


def test_the_page_is_well_formed_with_landmarks_and_a_title_and_description_on_every_drawing() -> None:
    outline = Outline(page(*sample(5)))
    assert outline.faults == []
    names = [tag for tag, _ in outline.tags]
    assert {"header", "main", "footer", "nav", "h1", "title"} <= set(names)
    assert names.count("svg") == names.count("desc") == 5
    ids = [attrs["id"] for _, attrs in outline.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    for tag, attrs in outline.tags:
        if tag == "svg":
            assert attrs["role"] == "img"
        if "aria-labelledby" in attrs:
            assert set(str(attrs["aria-labelledby"]).split()) <= set(ids)
        if tag == "a":
            assert str(attrs["href"]).removeprefix("#") in ids
        if tag == "th":
            assert attrs["scope"] in ("row", "col")


def test_the_page_fetches_nothing() -> None:
    text = page(*sample(3))
    for tag, attrs in Outline(text).tags:
        assert tag not in ("link", "img", "iframe", "object", "embed"), tag
        assert "src" not in attrs
        assert str(attrs.get("href", "#")).startswith("#")
    assert not re.search(r"https?://|@import|url\(|@font-face|fetch\(|XMLHttpRequest", text)


def test_the_page_says_the_figures_of_the_json() -> None:
    report, picture = sample(4)
    told = " ".join(Outline(page(report, picture, ["met     spike: runs <= 12 (4 and 12)"])).text)
    document = json.loads(json.dumps(report.as_json()))
    never = document["restore"]["never"]
    figures = [never[name] for name in never if name.endswith("_usd")] + [document["with"]["pnl_usd"], document["without"]["funding_usd"]]
    figures += [run["without_direction_usd"] for run in document["leave_one_out"]["runs"]]
    for value in figures:
        assert signed(value) in told
    assert document["verdict"] in told
    for line in document["notes"]:
        assert line.partition(": ")[2] in told
    assert "3 runs left out one by one: 3 false alarms, which cost 6.00 USD without direction" in told
    assert "out of sample" in told
    assert "runs <= 12" in told


def test_what_a_runbook_says_cannot_become_markup() -> None:
    text = page(*sample(1))
    assert "mean(funding_rate, 3h) &lt;&amp;&gt;" in text
    assert "not applied &lt;&amp; none&gt;" in text


@pytest.mark.parametrize("episodes", [500, 3_000])
def test_the_page_stays_small_and_paged_with_hundreds_of_episodes(episodes: int) -> None:
    report, picture = sample(episodes, days=365)
    text = page(report, picture)
    assert len(text.encode()) < 3_000_000
    outline = Outline(text)
    assert outline.faults == []
    shown = min(episodes, EPISODES_SHOWN_MAX)
    pages = [attrs for tag, attrs in outline.tags if tag == "details" and attrs.get("class") == "page"]
    assert len(pages) == shown // 50
    assert [index for index, attrs in enumerate(pages) if "open" in attrs] == [0]
    assert text.count("<strong>funding-spike</strong>") == shown
    assert ("all are in report.json" in text) == (episodes > EPISODES_SHOWN_MAX)
    # Bands that touch are one shape, and one look is one path: a chart has no more elements with hundreds of episodes.
    assert sum(1 for tag, _ in outline.tags if tag == "path") < 60


def test_a_page_without_an_episode_a_price_or_a_margin_still_reads() -> None:
    report, _ = sample(0)
    unknown = outturn(margin_ratio_max=None)  # type: ignore[arg-type]
    bare = Report(rows=1, first_at=T0, last_at=T0, seconds={}, episodes=(), having=unknown, lacking=unknown)
    empty = Picture(having=Track(T0, T0), lacking=Track(T0, T0))
    for text in (page(bare, empty), page(report, empty)):
        outline = Outline(text)
        assert outline.faults == []
        assert "nothing fired: no evidence either way" in " ".join(outline.text)


@pytest.mark.parametrize(
    ("span", "texts"),
    [
        (10 * NS, ["16:00:00", "16:00:05", "16:00:10"]),
        (4 * HOUR_NS, ["02-03 16:00", "02-03 17:00", "02-03 18:00", "02-03 19:00", "02-03 20:00"]),
        (3 * DAY_NS, ["2026-02-04", "2026-02-05", "2026-02-06"]),
    ],
)
def test_times_under_a_chart_are_round_and_carry_the_day(span: int, texts: list[str]) -> None:
    found = [text for _, text in time_ticks(T0, T0 + span)]
    assert found == texts or set(texts) <= set(found)


def chart(bands: list[tuple[int, int]], marks: list[tuple[int, float]]) -> dict[str, str]:
    """The path data of a chart from T0 on over 1,000 s, by class."""
    curve = Curve(T0, T0 + 1000 * NS)
    curve.add(np.array([T0, T0 + 1000 * NS], np.int64), np.array([0.0, 1.0]))
    drawn = Chart(
        id="c", title="Price", unit="USD", about="", first_at=T0, last_at=T0 + 1000 * NS, bands=tuple(bands),
        lines=(Line(name="price", style="price", points=curve.points()),), marks=(Marks(name="shrunk", style="shrink", at=tuple(marks)),),
    )  # fmt: skip
    return {str(attrs["class"]): str(attrs["d"]) for tag, attrs in Outline(figure(drawn)).tags if tag == "path"}


def test_a_chart_draws_bands_that_touch_as_one_and_leaves_out_what_ended_before_it_begins() -> None:
    seconds = [(-9, -1), (100, 150), (150, 200), (500, 500)]
    found = chart([(T0 + start * NS, T0 + end * NS) for start, end in seconds], [])
    assert found["bands"] == "M200 0H400V500H200zM1000 0H1004V500H1000z"


def test_marks_that_would_lie_on_each_other_are_drawn_once_over_the_whole_chart() -> None:
    spots = chart([], [(T0 - NS, 0.5)] + [(T0 + n * NS // 20, 0.5) for n in range(20_000)])["mark shrink"]
    assert 150 < spots.count("h0") <= 400
    assert spots.startswith("M0 ")
    assert float(spots.rpartition("M")[2].split()[0]) > 1_980


@pytest.mark.slow
def test_a_browser_draws_the_page_without_an_error(tmp_path: Path) -> None:
    browser = program("chromium")
    path = tmp_path / "report.html"
    probe = "<script>window.onerror=function(m){document.title='FAULT '+m}</script>"
    measure = (
        "<script>document.querySelectorAll('.area').forEach(function(a){var b=a.getBoundingClientRect();a.dispatchEvent(new PointerEvent("
        "'pointermove',{clientX:b.left+b.width/2,clientY:b.top+9}))});document.body.dataset.wide=document.documentElement.scrollWidth>innerWidth</script>"
    )
    text = page(*sample(60)).replace("<title>", probe + "<title>", 1).replace("</body>", measure + "</body>")
    path.write_text(text, encoding="utf-8")
    command = [
        browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
        "--disable-component-update", "--disable-sync", f"--user-data-dir={tmp_path / 'profile'}", "--window-size=520,900", "--dump-dom",
        path.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=True)
    assert "<title>FAULT" not in done.stdout
    assert 'data-wide="false"' in done.stdout  # nothing makes a narrow page scroll sideways
    assert re.search(r'<output class="reading"[^>]*>2026-02-18 \d\d:\d\d:\d\d UTC\s+with: [\d,.]+', done.stdout)
