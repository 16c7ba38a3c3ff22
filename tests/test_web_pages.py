"""The pages as HTML: what they show in each state, what they refuse, and that nothing in them can be anything but text."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace
from pathlib import Path
from typing import get_type_hints
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from daemon.service.views import Now, WhyNode
from daemon.web import presenters
from daemon.web.drawings import chart, line, scale
from daemon.web.reasons import verdict
from daemon.web.source_lines import source_lines
from daemon.web.stage import STATIC, asset, local
from tests import desk_scenes as scenes
from tests.desk_fake import SOURCE, FakeDesk
from tests.pages_world import House, Node, house, parse

AT_S = 1_795_659_000.0  # 2026-11-26T02:10:00Z: a clock that stands makes every relative time exact
PAGES = (
    "/",
    "/runs",
    "/runbooks",
    "/runbooks/funding-spike",
    "/runbooks/funding-spike?entity=dydx:BTC-USD",
    "/markets",
    "/markets/dydx:HYPE-USD",
    "/accounts",
    "/accounts/dydx",
    "/accounts/dydx%231",
    "/alerts",
    "/journal",
    "/journal?text=script",
    "/stress",
    "/login",
)


def client(made: House) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app=made.app, client=("127.0.0.1", 4321))
    return httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8470", headers={"accept": "text/html"})


async def page(made: House, path: str, role: str = "") -> tuple[Node, httpx.Response]:
    async with client(made) as browser:
        if role:
            await sign_in(browser, made, role)
        answer = await browser.get(path)
        return parse(answer.text), answer


async def sign_in(browser: httpx.AsyncClient, made: House, role: str) -> None:
    answer = await browser.post("/login", data={"token": made.secrets[role], "next": "/"})
    assert answer.status_code == 303


def form_of(tree: Node, action: str, words: str) -> dict[str, str]:
    """The fields of the form to an action whose button says these words."""
    forms = [f for f in tree.all("form", action=action) if any(words.lower() in b.text.lower() for b in f.all("button"))]
    assert len(forms) == 1, f"{len(forms)} forms to {action} that say {words}"
    fields = {i.get("name"): i.get("value") for i in forms[0].all("input")}
    for select in forms[0].all("select"):
        chosen = [o for o in select.all("option") if "selected" in o.attributes] or select.all("option")
        fields[select.get("name")] = chosen[0].attributes.get("value", chosen[0].text)
    return fields


async def told(browser: httpx.AsyncClient, answer: httpx.Response) -> str:
    assert answer.status_code == 303, answer.text
    return parse((await browser.get(answer.headers["location"])).text).one(id="told").text


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> House:
    """One eventful night for all who only look."""
    return house(tmp_path_factory.mktemp("night"), FakeDesk(clock=lambda: AT_S))


# --- every page ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PAGES)
@pytest.mark.parametrize("role", ["", "view", "admin"])
async def test_every_page_is_whole_accessible_and_free_of_script_and_style(night: House, path: str, role: str) -> None:
    tree, answer = await page(night, path, role)
    assert answer.status_code == 200
    assert len(tree.all("h1")) == 1, "one h1"
    for landmark in ("header", "main", "footer", "aside"):
        assert len(tree.all(landmark)) == 1, landmark
    assert [n for n in tree.all("nav") if n.get("aria-label") == "Pages"]
    skip = tree.one("a", class_="skip")
    assert tree.all(id=skip.get("href").removeprefix("#"))
    levels = [int(node.tag[1]) for node in tree.all() if re.fullmatch("h[1-6]", node.tag) and not _inside(node, "aside")]
    assert all(later - sooner <= 1 for sooner, later in itertools.pairwise(levels)), levels
    ids = [node.get("id") for node in tree.all() if node.get("id")]
    assert len(ids) == len(set(ids)), sorted(i for i in ids if ids.count(i) > 1)
    for node in tree.all():
        assert "style" not in node.attributes, node
        assert not [name for name in node.attributes if name.startswith("on")], node
        assert node.tag not in ("style", "iframe", "object", "embed")
    assert [s.get("src").partition("?")[0] for s in tree.all("script")] == ["/static/reefd.js"]
    assert all(not script.text for script in tree.all("script"))
    labelled = {label.get("for") for label in tree.all("label")}
    for field in (*tree.all("input"), *tree.all("select"), *tree.all("textarea")):
        if field.get("type") != "hidden" and field.get("aria-hidden") != "true":
            assert field.get("id") in labelled or field.get("aria-label"), field
    for button in tree.all("button"):
        assert button.text or button.get("aria-label")
    for part in tree.all("section"):
        assert tree.all(id=part.get("aria-labelledby")), part
    for drawing in tree.all("svg", role="img"):
        assert drawing.get("aria-label")
    for link in tree.all("a"):
        assert link.get("href").startswith(("/", "#")), link


def _inside(node: Node, tag: str) -> bool:
    while node.parent is not None:
        node = node.parent
        if node.tag == tag:
            return True
    return False


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> House:
    """A night in which every name and reason tries to be markup."""
    bad = '"><script>alert(1)</script><img src=x onerror=alert(1)>'
    desk = FakeDesk()
    now = desk.current
    desk.current = replace(
        now,
        house=bad,
        build=bad,
        why=bad,
        halted=bad,
        problems=(bad,),
        worst_feed=replace(now.feeds[0], source=bad, reason=bad),
        feeds=(replace(now.feeds[0], source=bad, reason=bad, state="failing"),),
        needs=tuple(replace(n, title=bad, text=bad, if_nothing=bad, people=(bad,), target=n.target + bad) for n in now.needs),
        nets_down=tuple(replace(n, why=bad, runbook=bad, entity=bad) for n in now.nets_down),
        hedges=tuple(replace(h, asset=bad, text=bad) for h in now.hedges),
        thresholds=tuple(replace(t, text=bad, price=bad, entity=bad) for t in now.thresholds),
        acts=tuple(replace(a, text=bad, reason=bad, run_id=bad) for a in now.acts),
        running=tuple(replace(r, waiting=bad, reason=bad, entity=bad) for r in now.running),
    )
    return house(tmp_path_factory.mktemp("hostile"), desk)


@pytest.mark.parametrize("path", PAGES)
async def test_what_the_world_calls_itself_is_only_ever_text(hostile: House, path: str) -> None:
    tree, answer = await page(hostile, path, "admin")
    assert answer.status_code == 200
    assert [s.get("src").partition("?")[0] for s in tree.all("script")] == ["/static/reefd.js"]
    assert not tree.all("img")
    assert not [node for node in tree.all() if "onerror" in node.attributes]


async def test_a_report_is_served_locked_up_and_pages_allow_only_our_own_files(night: House) -> None:
    made = night
    _, answer = await page(made, "/")
    assert answer.headers["content-security-policy"].startswith("default-src 'self'")
    async with client(made) as browser:
        report = await browser.get("/reports/replay-october.html")
        assert report.status_code == 200
        assert "sandbox" in report.headers["content-security-policy"]
        assert "allow-same-origin" not in report.headers["content-security-policy"]
        assert (await browser.get("/reports/../../etc/passwd")).status_code == 404


# --- Now ----------------------------------------------------------------------------------------------------------------


async def test_now_shows_everything_in_the_order_in_which_it_is_asked(night: House) -> None:
    tree, _ = await page(night, "/")
    order = [part.get("id") for part in tree.one("main").all("section")]
    assert order == ["line", "needs", "accounts", "done", "hedges", "thresholds", "cash", "nets", "upcoming", "feeds"]
    assert tree.one("h1").text == "NEEDS YOU"
    assert tree.one("title").text.startswith("NEEDS YOU ")
    head = tree.one(id="line").text
    assert "bridge.routes" in head
    assert "FAILING" in head
    assert "for 13s since 02:09:47 UTC" in head


async def test_an_approval_shows_countdown_consequence_before_and_after_and_carries_its_digest(night: House) -> None:
    made = night
    tree, _ = await page(made, "/", "approve")
    card = next(a for a in tree.all("article", class_="need") if a.text.startswith("Shrink"))
    assert "1m 47s left until 02:11:47 UTC" in card.text
    assert "If you do nothing: the step is skipped" in card.text
    rows = {row.one("th").text: row.all("td")[-1].text for row in card.one("table", class_="change").all("tr")}
    assert rows == {
        "Margin ratio": "41.0% → 37.8%",
        "Survivable move": "7.7% → 9.1%",
        "Net delta": "+341,150 → +316,796 USD",
        "Cost": "21.92 USD",
    }
    assert "SELL 4.1 dydx:ETH-USD, reduce-only, at 2,965.55 or better 12,177 USD" in card.text
    fields = form_of(card, "/do/approve", "Approve")
    assert fields["digest"] == scenes.DIGEST
    assert fields["target"] == made.desk.current.needs[0].target
    assert len(fields["csrf"]) >= 32


async def test_the_worst_account_stands_first_with_its_three_margin_ratios(night: House) -> None:
    tree, _ = await page(night, "/")
    first, second = tree.one(id="accounts").all("article")
    told = {d.one("dt").text: d.one("dd").text for d in first.one("dl").all("div")}
    assert told["Survivable move"].startswith("7.7%")
    assert told["Margin ratio"].startswith("41.0%")
    assert told["at mid"] == "40.5%"
    assert told["at reference"] == "unknown"
    assert told["Time to liquidation"] == "1h 37m"
    assert "nothing can be liquidated" in second.text


async def test_an_unknown_outcome_says_so_in_a_word_and_an_icon(night: House) -> None:
    tree, _ = await page(night, "/")
    rows = tree.one(id="done").all("tr", class_="bad")
    assert len(rows) == 1
    badge = rows[0].one("span", class_="badge")
    assert badge.text == "UNKNOWN"
    assert badge.all("svg")
    assert "no answer within 20s" in rows[0].text
    assert "? of 112.5" in rows[0].text
    done = [row.text for row in tree.one(id="done").all("tr") if "41.15" in row.text]
    assert "111.7 of 112.5" in done[0]
    assert "mid 41.18" in done[0]
    assert "3.92 USD" in done[0]


async def test_cash_nets_thresholds_and_what_comes_are_told_with_units(night: House) -> None:
    tree, _ = await page(night, "/")
    cash = {d.one("dt").text: d.one("dd").text for d in tree.one(id="cash").one("dl").all("div")}
    assert cash == {
        "in 5m": "40,000 USD",
        "in 30m": "120,000 USD",
        "later": "250,000 USD",
        "in flight": "25,000 USD",
        "stuck": "50,000 USD",
    }
    assert "turns with ETH-USD at 2,806 USD (-5.5%)" in tree.one(id="thresholds").text
    nets = tree.one(id="nets").text
    assert "paused by ana" in nets
    assert "guard UNKNOWN: venue_up_for was never read" in nets
    assert "position dydx:HYPE-USD by funding-spike" in nets
    assert "in 29m 02:39:00 UTC funding settles" in tree.one(id="upcoming").text


async def test_a_quiet_night_says_that_nothing_waits(tmp_path: Path) -> None:
    tree, _ = await page(house(tmp_path, FakeDesk.quiet()), "/")
    assert tree.one("h1").text == "QUIET"
    assert "for 4h since" in tree.one(id="line").text
    assert "Nothing waits for a person." in tree.one(id="needs").text
    assert "All nets are up." in tree.one(id="nets").text


async def test_a_blind_daemon_says_blind_and_unknown_instead_of_a_number(tmp_path: Path) -> None:
    tree, _ = await page(house(tmp_path, FakeDesk.blind()), "/")
    assert tree.one("h1").text == "BLIND"
    assert tree.one("title").text.startswith("BLIND ")
    worst = tree.one(id="accounts").all("article")[0]
    told = {d.one("dt").text: d.one("dd").text for d in worst.one("dl").all("div")}
    assert told["Margin ratio"].startswith("unknown")
    assert told["Survivable move"].startswith("unknown")


async def test_a_snapshot_that_grows_old_turns_every_page_blind_without_a_script(tmp_path: Path) -> None:
    desk = FakeDesk.quiet()
    desk.stands = True
    old = scenes.stamp(desk.at - 43)
    desk.current = replace(desk.current, at=old, published=old)
    made = house(tmp_path, desk)
    tree, _ = await page(made, "/")
    assert tree.one("h1").text == "BLIND"
    assert re.search(r"Stale since \d\d:\d\d:\d\d UTC ?: the daemon has published nothing for 4[3-9]s", tree.one(id="old").text)
    other, _ = await page(made, "/markets")
    assert other.one(id="state").text == "BLIND"
    assert other.all(id="old")


async def test_a_daemon_that_does_not_answer_leaves_a_page_with_the_halt_on_it(tmp_path: Path) -> None:
    desk = FakeDesk()
    made = house(tmp_path, desk)
    async with client(made) as browser:
        await sign_in(browser, made, "approve")
        desk.unavailable = "the loop has not turned for 12 s"
        answer = await browser.get("/")
        assert answer.status_code == 503
        tree = parse(answer.text)
        assert "the loop has not turned for 12 s" in tree.one("main").text
        assert form_of(tree, "/do/halt", "HALT OPENINGS")["target"] == "portfolio"
        assert form_of(tree, "/do/halt", "stop everything")["target"] == ""
        refused = await browser.post("/do/halt", data=form_of(tree, "/do/halt", "stop everything"))
        assert refused.status_code == 503
        assert "12 s" in parse(refused.text).one("main").text


# --- asking -------------------------------------------------------------------------------------------------------------


async def test_a_plan_is_approved_by_a_form_and_the_page_says_what_came_of_it(tmp_path: Path) -> None:
    made = house(tmp_path, FakeDesk())
    async with client(made) as browser:
        await sign_in(browser, made, "approve")
        fields = form_of(parse((await browser.get("/")).text), "/do/approve", "Approve")
        words = await told(browser, await browser.post("/do/approve", data=fields))
        assert words.startswith("Done: approved shrink of funding-spike/dydx:ETH-USD")
        tree = parse((await browser.get("/")).text)
        assert not tree.all("form", action="/do/approve")
    command = made.desk.commands[0]
    assert (command.verb, command.actor, command.digest, command.target) == ("approve", "ana", scenes.DIGEST, fields["target"])


async def test_a_plan_that_changed_meanwhile_is_not_approved(tmp_path: Path) -> None:
    made = house(tmp_path, FakeDesk())
    async with client(made) as browser:
        await sign_in(browser, made, "approve")
        fields = form_of(parse((await browser.get("/")).text), "/do/approve", "Approve")
        now = made.desk.current
        made.desk.current = replace(now, needs=(replace(now.needs[0], digest="another"), *now.needs[1:]))
        words = await told(browser, await browser.post("/do/approve", data=fields))
        assert words.startswith("Not done: nothing: the plan is another one by now")
        assert form_of(parse((await browser.get("/")).text), "/do/approve", "Approve")["digest"] == "another"
    assert made.desk.current.needs[0].digest == "another"


async def test_nobody_acts_without_the_csrf_of_their_session(tmp_path: Path) -> None:
    made = house(tmp_path, FakeDesk())
    async with client(made) as browser:
        await sign_in(browser, made, "admin")
        fields = form_of(parse((await browser.get("/")).text), "/do/halt", "HALT OPENINGS")
        for wrong in ({**fields, "csrf": ""}, {**fields, "csrf": "x" * 43}, {k: v for k, v in fields.items() if k != "csrf"}):
            answer = await browser.post("/do/halt", data=wrong)
            assert answer.status_code == 403
            assert "this form is not of your session" in answer.text
        stolen = await browser.post("/do/halt", data=fields, headers={"origin": "https://evil.example"})
        assert stolen.status_code == 403
        assert made.desk.commands == []
        assert (await browser.post("/do/halt", data=fields)).status_code == 303
    assert [c.verb for c in made.desk.commands] == ["halt"]


async def test_who_may_only_view_sees_every_button_with_the_reason_why_not_and_is_refused(tmp_path: Path) -> None:
    made = house(tmp_path, FakeDesk())
    async with client(made) as browser:
        await sign_in(browser, made, "view")
        tree = parse((await browser.get("/")).text)
        for form in tree.all("form"):
            if form.get("action").startswith("/do/"):
                assert all("disabled" in button.attributes for button in form.all("button")), form.get("action")
        assert "viewer has the role view; this needs approve" in tree.one("aside").text
        fields = form_of(tree, "/do/approve", "Approve")
        answer = await browser.post("/do/approve", data=fields)
        assert answer.status_code == 403
        assert "viewer has the role view" in answer.text
    assert made.desk.commands == []


async def test_who_reads_without_signing_in_is_told_to_sign_in(tmp_path: Path) -> None:
    made = house(tmp_path, FakeDesk())
    async with client(made) as browser:
        tree = parse((await browser.get("/")).text)
        assert all("disabled" in b.attributes for f in tree.all("form") if f.get("action").startswith("/do/") for b in f.all("button"))
        assert "Reading only. Sign in to act." in tree.one("aside").text
        answer = await browser.post("/do/halt", data={"target": ""})
        assert answer.status_code == 401
        assert "Sign in" in parse(answer.text).one("main").text
    assert made.desk.commands == []


async def test_without_open_reading_nothing_is_shown_before_the_sign_in(tmp_path: Path) -> None:
    made = house(tmp_path, FakeDesk(), open_reading=False)
    async with client(made) as browser:
        for path in ("/", "/runs?status=done", "/markets/dydx:HYPE-USD", "/reports/replay-october.html"):
            answer = await browser.get(path)
            assert answer.status_code == 303
            assert answer.headers["location"].startswith("/login?next=/")
        asked = await browser.get("/login?next=/runs%3Fstatus%3Ddone")
        assert "NEEDS YOU" not in asked.text
        assert "funding-spike" not in asked.text
        form = parse(asked.text).one("form", action="/login")
        assert {i.get("name"): i.get("value") for i in form.all("input")}["next"] == "/runs?status=done"
        wrong = await browser.post("/login", data={"token": "reefd_" + "x" * 43, "next": "/runs?status=done"})
        assert wrong.status_code == 401
        assert "funding-spike" not in wrong.text
        assert "this token is not known" in parse(wrong.text).one(id="told").text
        refused = await browser.post("/do/halt", data={})
        assert refused.status_code == 401
        assert "NEEDS YOU" not in refused.text
        answer = await browser.post("/login", data={"token": made.secrets["view"], "next": "/runs?status=done"})
        assert (answer.status_code, answer.headers["location"]) == (303, "/runs?status=done")
        assert (await browser.get("/")).status_code == 200


async def test_a_pause_has_an_end_and_a_reason(tmp_path: Path) -> None:
    made = house(tmp_path, FakeDesk())
    async with client(made) as browser:
        await sign_in(browser, made, "approve")
        fields = form_of(parse((await browser.get("/runs")).text), "/do/pause", "Pause")
        assert fields["back"] == "/runs"
        words = await told(browser, await browser.post("/do/pause", data={**fields, "reason": " "}))
        assert words.startswith("Not done: say why")
        assert made.desk.commands == []
        answer = await browser.post("/do/pause", data={**fields, "target": "thin-book", "lasting": "4h", "reason": "maintenance"})
        assert urlsplit(answer.headers["location"]).path == "/runs"
        assert (await told(browser, answer)).startswith("Done: paused thin-book until")
        wrong = await told(browser, await browser.post("/do/pause", data={**fields, "target": "thin-bock", "lasting": "4h", "reason": "x"}))
        assert "did you mean thin-book?" in wrong
    command = made.desk.commands[0]
    assert command.reason == "maintenance"
    left = presenters.seconds_of(command.until or "") - presenters.seconds_of(made.desk.current.at)
    assert 4 * 3600 - 30 < left <= 4 * 3600


async def test_openings_are_halted_with_one_press_and_everything_with_two_and_an_admin_resumes(tmp_path: Path) -> None:
    made = house(tmp_path, FakeDesk())
    async with client(made) as browser:
        await sign_in(browser, made, "approve")
        tree = parse((await browser.get("/")).text)
        assert (await told(browser, await browser.post("/do/halt", data=form_of(tree, "/do/halt", "HALT OPENINGS")))).startswith("Done")
        tree = parse((await browser.get("/")).text)
        assert "Openings are halted" in tree.one(id="openings").text
        assert "this needs admin" in tree.one(id="openings").text
        stop = tree.one("details", id="stop")
        fields = form_of(stop, "/do/halt", "Yes, stop everything")
        await browser.post("/do/halt", data={**fields, "reason": "venue is lying"})
        tree = parse((await browser.get("/")).text)
        assert "Everything is halted: ana: venue is lying" in tree.one(id="halted").text
        fields = form_of(tree, "/do/resume", "Resume everything")
        assert (await browser.post("/do/resume", data=fields)).status_code == 403
        await sign_in(browser, made, "admin")
        fields = form_of(parse((await browser.get("/")).text), "/do/resume", "Resume everything")
        assert (await told(browser, await browser.post("/do/resume", data=fields))) == "Done: resumed everything"
    assert [(c.verb, c.target) for c in made.desk.commands] == [("halt", "portfolio"), ("halt", ""), ("resume", "")]


async def test_the_one_thing_to_acknowledge_is_under_the_thumb(tmp_path: Path) -> None:
    made = house(tmp_path, FakeDesk())
    async with client(made) as browser:
        await sign_in(browser, made, "approve")
        tree = parse((await browser.get("/markets")).text)
        fields = form_of(tree.one("aside"), "/do/ack", "Ack")
        assert fields["target"].startswith("buffer-low/dydx/")
        answer = await browser.post("/do/ack", data=fields)
        assert urlsplit(answer.headers["location"]).path == "/markets"
        assert (await told(browser, answer)).startswith("Done: took buffer-low")
        assert not parse((await browser.get("/markets")).text).one("aside").all("form", action="/do/ack")


async def test_what_cannot_be_done_is_told_where_it_was_asked(tmp_path: Path) -> None:
    made = house(tmp_path, FakeDesk())
    async with client(made) as browser:
        await sign_in(browser, made, "admin")
        csrf = form_of(parse((await browser.get("/alerts")).text), "/do/redeliver", "Send all again")["csrf"]
        ask = {"csrf": csrf, "back": "/alerts"}
        assert (await told(browser, await browser.post("/do/redeliver", data={**ask, "target": "*"}))).startswith(
            "Done: put 2 messages back"
        )
        assert (await told(browser, await browser.post("/do/test", data={**ask, "target": "page"}))) == "Done: answered 200 in 41ms"
        assert (await told(browser, await browser.post("/do/test", data={**ask, "target": "desk"}))).startswith("Not done: 500")
        assert (await told(browser, await browser.post("/do/enable", data={**ask, "target": "none"}))).startswith(
            "Not done: no endpoint is"
        )
        assert (await told(browser, await browser.post("/do/reload", data=ask))) == "Done: read 7 runbooks"
        away = await browser.post("/do/reload", data={**ask, "back": "https://evil.example/"})
        assert urlsplit(away.headers["location"]).netloc == ""
        assert (await browser.post("/do/sell-everything", data=ask)).status_code == 404


async def test_a_message_is_shown_by_its_name_only_and_never_from_the_address(night: House) -> None:
    tree, _ = await page(night, "/?told=Approved")
    assert not tree.all(id="told")


@pytest.mark.parametrize(
    "address", ["//evil.example", "https://evil.example", "/\\evil.example", "javascript:alert(1)", "", "/a b", "/a\r\nb"]
)
def test_an_address_to_go_on_to_never_leads_elsewhere(address: str) -> None:
    assert local(address) == "/"
    assert local("/runs?status=done#x") == "/runs?status=done#x"


# --- reading ------------------------------------------------------------------------------------------------------------


async def test_runs_come_a_hundred_a_page_with_a_way_to_the_older_ones(tmp_path: Path) -> None:
    made = house(tmp_path, FakeDesk.large(markets=3, runs=250))
    seen: list[str] = []
    async with client(made) as browser:
        path = "/runs"
        while path:
            tree = parse((await browser.get(path)).text)
            rows = [row.one("td", data_label="Run").one("a").get("href") for row in tree.one(id="runs").one("tbody").all("tr")]
            assert len(rows) <= 100
            seen += rows
            older = tree.all("a", rel="next")
            path = older[0].get("href") if older else ""
        assert len(seen) == len(set(seen)) == 252
        tree = parse((await browser.get("/runs?status=blocked&runbook=thin-book")).text)
        told_states = {row.one("td", data_label="Status").one("span", class_="badge").text for row in tree.one("tbody").all("tr")}
        assert told_states == {"blocked"}
        assert (await browser.get("/runs?before=nonsense")).status_code == 404


async def test_a_run_is_told_as_a_timeline_with_its_reason(night: House) -> None:
    made = night
    run = made.desk.current.running[0]
    tree, answer = await page(made, "/runs/" + presenters.path(run.run_id))
    assert answer.status_code == 200
    items = tree.one("ol", class_="timeline").all("li")
    assert len(items) == len(scenes.moments(made.desk.at))
    assert "paid > threshold" in tree.one(id="why").text
    assert "0.034%/h above" in tree.one(id="why").text
    unknown = next(item for item in items if "Slice 4: UNKNOWN" in item.text)
    assert "bad" in unknown.get("class").split()
    assert "went wrong" in unknown.text
    assert '"size": "112.5"' in unknown.one("pre").text
    missing, answer = await page(made, "/runs/nothing/of/that/name")
    assert answer.status_code == 404
    assert "no run is called" in missing.one("main").text


async def test_a_runbook_says_why_not_now_with_the_distance_of_every_part(night: House) -> None:
    made = night
    tree, _ = await page(made, "/runbooks/funding-spike?entity=dydx:BTC-USD")
    part = tree.one(id="whynot")
    assert part.one("h2").text == "Why not now: dydx:BTC-USD"
    rows = {row.one("th").one("code").text: row for row in part.all("tbody")[0].all("tr")}
    assert set(rows) == {
        "paid > threshold",
        "rate > quantile(rate, 99%, lookback)",
        "paid < 40% * threshold",
        "oracle_divergence < 50bps",
        "venue_up_for > 10m",
    }
    first = rows["paid > threshold"]
    assert first.one("span", class_="badge").text == "FALSE"
    assert first.one("td", data_label="Distance").text == "0.049%/h below"
    assert first.one("td", data_label="Bound").text == "0.05%/h"
    assert "lacks venue_up_for" in rows["venue_up_for > 10m"].text
    assert "inhibited by oracle-divergence" in part.text
    drawings = tree.one(id="course").all("svg", role="img")
    assert len(drawings) == 2
    assert "bound 0.05%/h" in drawings[0].get("aria-label")
    assert "the hold of 3m" in drawings[0].get("aria-label")
    assert drawings[0].all("rect", class_="hold")
    lines = tree.one("pre", class_="source").all("span", class_="ln")
    assert [n.text.partition(" ")[2] for n in lines[1:3]] == ["schema : reefd/v1", "runbook : funding-spike"]
    assert len(lines) == len(SOURCE.rstrip("\n").split("\n"))
    assert (await page(made, "/runbooks/none"))[1].status_code == 404
    assert (await page(made, "/runbooks/funding-spike?entity=none"))[1].status_code == 404


async def test_five_hundred_markets_come_in_pages_and_are_found_by_name(tmp_path: Path) -> None:
    made = house(tmp_path, FakeDesk.large(markets=500, runs=10))
    tree, _ = await page(made, "/markets")
    assert "500 markets" in tree.one(id="markets").text
    assert len(tree.one(id="markets").one("tbody").all("tr")) == 100
    assert len(tree.one("nav", class_="pages").all("a")) == 5
    last, _ = await page(made, "/markets?page=5")
    assert last.one(id="markets").one("tbody").all("tr")[-1].one("a").text == "dydx:M499-USD"
    found, _ = await page(made, "/markets?q=m123")
    assert [a.text for a in found.one(id="markets").one("tbody").all("a")] == ["dydx:M123-USD"]
    assert (await page(made, "/markets?page=99999999999999999999"))[1].status_code == 200


async def test_a_market_says_whether_strategies_may_open_and_shows_unknown_readings(night: House) -> None:
    made = night
    tree, _ = await page(made, "/markets/dydx:HYPE-USD", "approve")
    assert tree.one(id="gate").text.startswith("May strategies open here? closed closed by funding-spike")
    rows = {"".join(row.one("code").text.split()): row for row in tree.one(id="readings").all("tr") if row.all("code")}
    index = rows["index_price"]
    assert "unknown" in index.text
    assert "never read" in index.text
    assert "index_price unknown" in tree.one(id="courses").text
    assert (await page(made, "/markets/dydx:NOPE-USD"))[1].status_code == 404


async def test_the_journal_is_searched_and_paged_without_a_hole(night: House) -> None:
    made = night
    seen: list[int] = []
    async with client(made) as browser:
        path = "/journal?type=FeedFailed"
        while path:
            tree = parse((await browser.get(path)).text)
            seen += [int(item.get("id").removeprefix("e-")) for item in tree.one("ol", class_="entries").all("li")]
            older = tree.all("a", rel="next")
            path = older[0].get("href") if older else ""
            assert not path or parse_qs(urlsplit(path).query)["type"] == ["FeedFailed"]
        expected = [e.position for e in scenes.journal(made.desk.at) if e.type == "FeedFailed"]
        assert seen == expected
        wrong = await browser.get("/journal?since=yesterday")
        assert wrong.status_code == 422
        assert "is no ISO-8601 time" in parse(wrong.text).one("main").text
        empty = parse((await browser.get("/journal?until=2001-01-01T00:00")).text)
        assert "Nothing fits." in empty.text


async def test_alerts_show_where_they_go_and_every_dead_letter_can_be_sent_again(night: House) -> None:
    tree, _ = await page(night, "/alerts?status=dead", "admin")
    assert [h.text for h in tree.one(id="endpoints").all("h3")] == ["page ok", "desk OPEN BREAKER", "old disabled", "bus never used"]
    assert form_of(tree.one(id="endpoints"), "/do/enable", "Enable")["target"] == "old"
    assert sorted(i.get("value") for f in tree.one(id="dead").all("form") for i in f.all("input", name="target")) == [
        "*",
        "msg_01",
        "msg_02",
    ]
    assert {
        r.one("td", data_label="Status").one("span", class_="badge").text for r in tree.one(id="deliveries").one("tbody").all("tr")
    } == {"DEAD"}


async def test_reports_and_figures_of_the_stress_are_listed(night: House) -> None:
    tree, _ = await page(night, "/stress")
    assert [a.get("href") for a in tree.one(id="reports").all("a")] == [
        "/reports/stress-2026-11-26T01.html",
        "/reports/replay-october.html",
    ]
    assert "0.42%" in tree.one(id="figures").text


async def test_files_are_kept_by_the_browser_as_long_as_their_content_is_the_same(night: House) -> None:
    made = night
    async with client(made) as browser:
        for name in STATIC:
            mark = asset(name)[1]
            answer = await browser.get(f"/static/{name}?v={mark}")
            assert answer.status_code == 200
            assert "immutable" in answer.headers["cache-control"]
            assert (await browser.get(f"/static/{name}", headers={"if-none-match": f'"{mark}"'})).status_code == 304
            assert "immutable" not in (await browser.get(f"/static/{name}?v=old")).headers["cache-control"]
        assert (await browser.get("/static/..%2fdoor.py")).status_code == 404
        assert (await browser.get("/static/pages.py")).status_code == 404


# --- figures, drawings, colours -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (0.9, "0s"),
        (59.9, "59s"),
        (60, "1m"),
        (107, "1m 47s"),
        (3_600, "1h"),
        (3_605, "1h"),
        (6_720, "1h 52m"),
        (90_000, "1d 1h"),
        (-61, "-1m 1s"),
        (None, "unknown"),
        (float("inf"), "never"),
        (float("nan"), "unknown"),
    ],
)
def test_a_duration_is_told_by_its_two_largest_units(seconds: float | None, text: str) -> None:
    assert presenters.span(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "unknown"),
        (0.0, "0 USD"),
        (9.714, "9.71 USD"),
        (-4_987.5, "-4,988 USD"),
        (61_204.18, "61,204 USD"),
        (float("inf"), "without bound"),
    ],
)
def test_money_carries_its_unit(value: float | None, text: str) -> None:
    assert presenters.usd(value) == text


def test_a_time_is_told_both_ways_and_a_countdown_ends() -> None:
    clock = presenters.Clock(at_s=presenters.seconds_of("2026-11-26T02:11:05Z"))
    assert clock.when("2026-11-26T02:05:12.500Z") == (
        '<time datetime="2026-11-26T02:05:12.500Z" data-rel="when">5m 52s ago</time> <span class="abs">02:05:12 UTC</span>'
    )
    assert ">in 29m<" in clock.when("2026-11-26T02:40:05Z")
    assert "2026-11-25 23:00 UTC" in clock.when("2026-11-25T23:00:00Z")
    assert ">1m 47s left<" in clock.left("2026-11-26T02:12:52Z")
    assert ">lapsed<" in clock.left("2026-11-26T02:11:05Z")
    assert clock.when(None) == ""


def test_a_text_of_the_daemon_is_told_by_the_watch_and_in_money() -> None:
    clock = presenters.Clock(at_s=presenters.seconds_of("2026-11-26T02:11:05Z"))
    assert clock.said("until 2026-11-26T04:01:57.499Z (in 9m58s742ms)") == "until 04:01:57 UTC (in 9m58s)"
    assert clock.said("since 2026-11-25T23:00:00Z") == "since 2026-11-25 23:00 UTC"
    assert clock.said("turns at 97,523 price; 258ms") == "turns at 97,523 USD; 258ms"
    assert clock.said("price of 3 prices, run/1795665117499672970/1") == "price of 3 prices, run/1795665117499672970/1"


def test_a_gap_in_a_course_is_never_drawn_over() -> None:
    series = scenes.course("x", "e", "ratio", (0.1, 0.2, None, None, 0.3, None, 0.4), 1_000_000.0, threshold=0.5)
    edges = scale(series)
    assert edges is not None
    assert edges.high > 0.5, "the bound is in sight"
    drawn = line(series, edges)
    assert drawn.count("M") == 3, "three stretches"
    assert drawn.count("L") == 1, "one of them has two points"


def test_a_long_course_keeps_its_peaks_when_it_is_thinned() -> None:
    values = tuple(9.0 if i == 31_337 else 1.0 for i in range(60_000))
    series = scenes.course("x", "e", "ratio", values, 1_000_000_000.0)
    edges = scale(series)
    assert edges is not None
    drawn = line(series, edges)
    assert len(drawn) < 20_000
    assert f"{edges.y(9.0):.2f}" in drawn


def test_a_bound_that_is_far_away_does_not_flatten_the_course() -> None:
    series = scenes.course("depth", "e", "USD", (400_000.0, 410_000.0, 405_000.0), 1_000.0, threshold=1_000.0)
    edges = scale(series)
    assert edges is not None
    assert edges.low > 300_000
    assert "bound 1,000 USD" in chart(series)


def test_a_runbook_is_coloured_without_changing_a_sign_of_it() -> None:
    for told_line, text in zip(source_lines(SOURCE), SOURCE.rstrip("\n").split("\n"), strict=True):
        assert parse(str(told_line)).kids == [] or _plain(parse(str(told_line))) == text
    assert 'class="y-comment"' in source_lines("a: 1  # why")[0]
    assert 'class="y-number">0.05%/h<' in source_lines("threshold: 0.05%/h")[0]
    assert "y-comment" not in source_lines('a: "x # y"')[0]


def _plain(node: Node) -> str:
    return "".join(kid if isinstance(kid, str) else _plain(kid) for kid in node.kids)


def test_why_nodes_without_a_value_are_unknown_and_never_true() -> None:
    blank = WhyNode(text="x > 1", shown="unknown", value=None, unit="truth", role="derived")
    assert verdict(blank) == "UNKNOWN"
    assert verdict(replace(blank, value=float("nan"))) == "UNKNOWN"
    assert [verdict(replace(blank, value=v)) for v in (0.0, 1.0, 2.0)] == ["FALSE", "UNKNOWN", "TRUE"]


def _channel(value: int) -> float:
    part = value / 255
    return part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4


def _luminance(colour: str) -> float:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return 0.2126 * _channel(red) + 0.7152 * _channel(green) + 0.0722 * _channel(blue)


def contrast(one: str, other: str) -> float:
    """WCAG 2 contrast ratio of two colours."""
    light, dark = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_every_pair_of_colours_can_be_read_in_light_and_dark() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21.0)
    css = asset("reefd.css")[0].decode()
    light, dark = (dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6})", block)) for block in re.findall(r":root \{(.*?)\}", css, re.S)[:2])
    assert set(light) == set(dark)
    grounds = ("card", "page", "chip", "bad-wash", "warn-wash", "good-wash")
    pairs = [(text, ground) for text in ("ink", "soft", "link") for ground in grounds]
    pairs += [(text, ground) for text in ("good", "warn", "bad", "wait", "act") for ground in ("card", "chip", "page")]
    pairs += [("bad", "bad-wash"), ("warn", "warn-wash"), ("good", "good-wash"), ("on-button", "button"), ("bad", "button")]
    pairs += [(name, name.replace("on-", "") + "-fill") for name in light if name.startswith("on-") and name != "on-button"]
    poor = [
        f"{scheme}: {text} on {ground}: {contrast(colours[text], colours[ground]):.2f}"
        for scheme, colours in (("light", light), ("dark", dark))
        for text, ground in pairs
        if contrast(colours[text], colours[ground]) < 4.5
    ]
    assert poor == []
    used = set(re.findall(r"(?<![a-z-])color: var\(--([a-z-]+)\)", css))
    assert used <= {text for text, _ in pairs}, f"colours of text that no pair checks: {used - {text for text, _ in pairs}}"
    assert re.findall(r"#[0-9a-fA-F]{3,8}\b", re.sub(r"--[a-z-]+: #[0-9a-f]{6};", "", css)) == [], "a colour has a name"


def test_the_script_and_the_style_fetch_nothing_from_elsewhere() -> None:
    for name in STATIC:
        text = asset(name)[0].decode().replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?:|//[a-z]+\.|@import|url\(|eval\(|innerHTML|document\.write", text), name


def test_the_lines_of_the_views_all_have_a_look() -> None:
    assert set(presenters.LINES) == set(get_type_hints(Now)["line"].__args__)
