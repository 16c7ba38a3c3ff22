"""The files that `reefd replay --out DIR` leaves: the report as JSON, text and one page, and the figures under it as Parquet (floor 9)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import polars as pl

from daemon.errors import UserError
from daemon.simulation.acceptance import Verdict
from daemon.simulation.account import SimulatedAccount
from daemon.simulation.curve import Curve, Points, Track
from daemon.simulation.episode import Episode
from daemon.simulation.page import Picture, page
from daemon.simulation.report import Report


def as_document(report: Report, verdicts: Sequence[Verdict]) -> str:
    """The report as one JSON document."""
    document = report.as_json()
    if verdicts:
        document["acceptance"] = [verdict.as_json() for verdict in verdicts]
    return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)


def as_text(report: Report, verdicts: Sequence[Verdict]) -> str:
    """The report for people."""
    return "\n".join([report.as_text(), *(verdict.line() for verdict in verdicts)])


def write_report(out: Path, report: Report, verdicts: Sequence[Verdict], *, having: SimulatedAccount, lacking: SimulatedAccount) -> None:
    """Writes `report.{json,txt,html}` and `equity`, `episodes` and `actions` as Parquet into a folder; raises UserError when it cannot."""
    assert isinstance(having.series, Track)
    assert isinstance(lacking.series, Track)
    picture = Picture(
        having=having.series, lacking=lacking.series, liquidated=tuple(having.liquidated), liquidated_without=tuple(lacking.liquidated)
    )
    texts = {
        "report.json": as_document(report, verdicts) + "\n",
        "report.txt": as_text(report, verdicts) + "\n",
        "report.html": page(report, picture, [verdict.line() for verdict in verdicts]),
    }
    frames = {
        "equity.parquet": equity_frame(having.series, lacking.series),
        "episodes.parquet": episode_frame(report.episodes),
        "actions.parquet": action_frame(report.episodes),
    }
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            (out / name).write_text(text, encoding="utf-8")
        for name, frame in frames.items():
            frame.write_parquet(out / name)
    except OSError as error:
        raise UserError(f"{error.filename or out}: cannot be written: {(error.strerror or str(error)).lower()}") from error


def equity_frame(having: Track, lacking: Track) -> pl.DataFrame:
    """Both passes over time, ts int64 ns: what the thinned curves keep; null where a series kept nothing at that instant."""
    curves: Mapping[str, Curve] = {
        f"{name}_{which}": curve
        for name, both in (
            ("equity", (having.equity, lacking.equity)),
            ("margin_ratio", (having.margin_ratio, lacking.margin_ratio)),
            ("funding", (having.funding, lacking.funding)),
        )
        for which, curve in zip(("with", "without"), both, strict=True)
    }
    joined = pl.DataFrame(schema={"ts": pl.Int64, "turn": pl.Int64})
    for name, curve in curves.items():
        points = curve.points()
        frame = pl.DataFrame({"ts": points.at, "turn": _turns(points), name: points.value})
        joined = joined.join(frame, on=["ts", "turn"], how="full", coalesce=True)
    return joined.sort("ts", "turn").drop("turn")


def _turns(points: Points) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """0 for the first point of an instant, 1 for its second: a liquidation has one before and one after."""
    new = np.append(True, points.at[1:] != points.at[:-1])[: len(points)]
    index = np.arange(len(points), dtype=np.int64)
    return index - np.maximum.accumulate(np.where(new, index, 0)) if len(points) else index


def episode_frame(episodes: Sequence[Episode]) -> pl.DataFrame:
    """One row an episode; times int64 ns, null while it is open; `why` has one line a reading."""
    rows = [
        {
            "episode": e.id, "runbook": e.runbook, "entity": e.entity, "subject": e.subject, "pending_at": e.pending_at,
            "fired_at": e.fired_at, "cleared_at": e.cleared_at, "ending": e.ending or None, "run_status": e.run_status,
            "runs": len(e.run_statuses),
            "actions": len(e.actions), "why": "\n".join(e.why),
        }
        for e in episodes
    ]  # fmt: skip
    schema = {
        "episode": pl.String, "runbook": pl.String, "entity": pl.String, "subject": pl.String, "pending_at": pl.Int64, "fired_at": pl.Int64,
        "cleared_at": pl.Int64, "ending": pl.String, "run_status": pl.String, "runs": pl.Int64, "actions": pl.Int64, "why": pl.String,
    }  # fmt: skip
    return pl.DataFrame(rows, schema=schema)


def action_frame(episodes: Sequence[Episode]) -> pl.DataFrame:
    """One row an action; sizes in base units, notional and price in USD; null where an action has none."""
    rows = [
        {
            "ts": a.at, "episode": e.id, "run": a.run_id, "runbook": e.runbook, "entity": e.entity, "market": a.market or None,
            "action": a.action, "outcome": a.outcome, "size": a.size, "notional_usd": a.notional_usd, "price": a.price, "reason": a.reason,
        }
        for e in episodes
        for a in e.actions
    ]  # fmt: skip
    schema = {
        "ts": pl.Int64, "episode": pl.String, "run": pl.String, "runbook": pl.String, "entity": pl.String, "market": pl.String,
        "action": pl.String, "outcome": pl.String, "size": pl.Float64, "notional_usd": pl.Float64, "price": pl.Float64, "reason": pl.String,
    }  # fmt: skip
    return pl.DataFrame(rows, schema=schema)
