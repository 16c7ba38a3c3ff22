"""`reefd margin`: how far a book is from liquidation, and what price, funding and delay do to that (floor 9)."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from daemon.errors import UserError
from daemon.simulation.book import load_book
from daemon.simulation.margin_map import margin_map
from daemon.simulation.margin_report import as_json, as_text, page


def margin(book: Path, *, json_format: bool, out: Path | None = None) -> int:
    """Print every account's standing and map, and write them into `out` as `margin.{json,txt,html}`; 0, whatever they say.

    Raises RunbookError for mistakes in the book, UserError for a missing price or a folder that cannot be written.
    """
    held = load_book(book)
    maps = margin_map(held)
    document = json.dumps(as_json(held, maps), indent=2, ensure_ascii=False, allow_nan=False)
    text = as_text(held, maps)
    if out is not None:
        try:
            out.mkdir(parents=True, exist_ok=True)
            for name, content in (("margin.json", document + "\n"), ("margin.txt", text + "\n"), ("margin.html", page(held, maps))):
                (out / name).write_text(content, encoding="utf-8")
        except OSError as error:
            raise UserError(f"{error.filename or out}: cannot be written: {(error.strerror or str(error)).lower()}") from error
    sys.stdout.write((document if json_format else text) + "\n")
    return 0
