"""Where every window, accumulator and trigger lives on a row, and the generated functions that move windows (floor 4).

Offsets are append-only: a known key keeps its place, so a reload or a new runbook only lengthens rows. Windows belong to a kind of
entity, not to a runbook: every row of the kind keeps them warm, and equal windows of several runbooks are one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from daemon.language.kernels import SERIES_CELLS, TRIGGER_CELLS, WINDOW_CELLS
from daemon.language.slots import CELLS, GLOBAL, HEADER, SLOTS, VALUE_SIGNALS, VALUED, seen_cell
from daemon.language.terms import Apply, Derived, Elsewhere, Over, Read, Stateful, Term, Window, signature
from daemon.runbook.compile import HEAD, TAIL, Function
from daemon.runbook.emit import Constants, Emitter, Number, Offsets, Row
from daemon.units import FOREVER, NEVER
from daemon.world.entities import Kind

NAN = float("nan")
RING_MIN = 32  # first capacity of a ring; it doubles when full
_MOMENTS = ("mean", "std", "zscore", "sum", "count", "share")
PUSH_ORDER = (Kind.CHAIN, Kind.ROUTE, Kind.MARKET, Kind.POSITION, Kind.ACCOUNT, Kind.VENUE, Kind.BUCKET, Kind.PORTFOLIO)


@dataclass(slots=True)
class Series:
    """Samples of one term on the rows of a kind: cells at `s` in I, the last value at `f` in F, and the windows over them."""

    kind: Kind
    key: str
    argument: Term
    overrides: tuple[tuple[str, int], ...]
    s: int
    f: int
    kept_ns: int = 0
    states: dict[tuple[str, int], tuple[int, int]] = field(default_factory=dict)  # (state, duration) -> offsets in I and F
    outputs: dict[tuple[str, int, float], int] = field(default_factory=dict)  # (function, duration, rank) -> offset in F


@dataclass(slots=True)
class Accumulator:
    """Cells of one stateful term on the rows of a kind."""

    kind: Kind
    key: str
    term: Stateful
    overrides: tuple[tuple[str, int], ...]
    g: int
    c: int


class Layout:
    """The places of one engine; implements `emit.Offsets`."""

    def __init__(self, given: frozenset[tuple[Kind, str]]) -> None:
        self.given = given
        self.floats: dict[Kind, list[float]] = {kind: [NAN] * SLOTS[kind] for kind in Kind}  # the template of a new row's F
        self.ints: dict[Kind, list[int]] = {kind: _header(kind) for kind in Kind}
        self.series: dict[Kind, dict[str, Series]] = {kind: {} for kind in Kind}
        self.accumulators: dict[Kind, dict[str, Accumulator]] = {kind: {} for kind in Kind}
        self.triggers: dict[tuple[Kind, str], int] = {}
        self.bounds: list[tuple[int, int]] = []  # further entries of the pushers' table of bounds: (global index, bound)
        self.constants = Constants()
        self.version = 0

    def _floats(self, kind: Kind, count: int, value: float) -> int:
        self.floats[kind] += [value] * count
        return len(self.floats[kind]) - count

    def _ints(self, kind: Kind, cells: list[int]) -> int:
        self.ints[kind] += cells
        return len(self.ints[kind]) - len(cells)

    def trigger(self, kind: Kind, key: str) -> int:
        """Offset in I of a trigger's cells."""
        if (kind, key) not in self.triggers:
            cells = [0] * TRIGGER_CELLS
            cells[3], cells[4] = -1, FOREVER
            self.triggers[kind, key] = self._ints(kind, cells)
        return self.triggers[kind, key]

    def window(self, kind: Kind, window: Window, max_age: Mapping[str, int]) -> int:
        """Offset in F of a window's output; a new window lengthens the rows."""
        argument = window.argument
        overrides = () if isinstance(argument, Read) else _overrides(argument, max_age)
        key = signature(argument) + (repr(overrides) if overrides else "")
        series = self.series[kind].get(key)
        if series is None:
            # What the argument itself is made of takes its place first: windows move in the order in which they were placed.
            Emitter(kind, self, Constants(), self.given, max_age).value(argument, Row(kind, "e", "F0", "I0", ()))
            s = self._ints(kind, [NEVER, 0, 0, NEVER, 0, 0, 0, 0])
            assert SERIES_CELLS == 8
            series = Series(kind, key, argument, overrides, s, self._floats(kind, 1, NAN))
            self.series[kind][key] = series
            self.version += 1
        output = (window.function, window.duration_ns, window.rank)
        if output not in series.outputs:
            state = _state_of(window.function)
            place = (state, window.duration_ns)
            if place not in series.states:
                w = self._ints(kind, [0] * WINDOW_CELLS)
                series.states[place] = (w, self._floats(kind, 10, 0.0))
            series.outputs[output] = self._floats(kind, 1, NAN)
            series.kept_ns = max(series.kept_ns, window.duration_ns)
            self.version += 1
        return series.outputs[output]

    def stateful(self, kind: Kind, term: Stateful, max_age: Mapping[str, int]) -> tuple[int, int]:
        """Offsets in F and I of an accumulator."""
        overrides = _overrides(term, max_age)
        key = signature(term) + (repr(overrides) if overrides else "")
        if key not in self.accumulators[kind]:
            for argument in term.arguments:
                Emitter(kind, self, Constants(), self.given, max_age).value(argument, Row(kind, "e", "F0", "I0", ()))
            g, c = self._floats(kind, 2, NAN), self._ints(kind, [0, 0])
            self.accumulators[kind][key] = Accumulator(kind, key, term, overrides, g, c)
            self.version += 1
        held = self.accumulators[kind][key]
        return held.g, held.c

    def placed_window(self, kind: Kind, window: Window, max_age: Mapping[str, int]) -> int | None:
        """Offset in F of a window's output when it has its place already, else None; nothing is placed."""
        overrides = () if isinstance(window.argument, Read) else _overrides(window.argument, max_age)
        series = self.series[kind].get(signature(window.argument) + (repr(overrides) if overrides else ""))
        return None if series is None else series.outputs.get((window.function, window.duration_ns, window.rank))

    def placed_stateful(self, kind: Kind, term: Stateful, max_age: Mapping[str, int]) -> tuple[int, int] | None:
        """Offsets in F and I of an accumulator when it has its place already, else None."""
        overrides = _overrides(term, max_age)
        held = self.accumulators[kind].get(signature(term) + (repr(overrides) if overrides else ""))
        return None if held is None else (held.g, held.c)

    def keys(self, kind: Kind) -> dict[str, tuple[str, int, int]]:
        """Every placed key of a kind: (F or I, offset, count), for checkpoints."""
        placed = {"slots.F": ("F", 0, SLOTS[kind]), "slots.I": ("I", 0, HEADER + CELLS * SLOTS[kind])}
        for key, series in self.series[kind].items():
            placed[f"series {key} I"] = ("I", series.s, SERIES_CELLS)
            placed[f"series {key} F"] = ("F", series.f, 1)
            for (state, duration), (w, g) in series.states.items():
                placed[f"window {key} {state} {duration} I"] = ("I", w, WINDOW_CELLS)
                placed[f"window {key} {state} {duration} F"] = ("F", g, 10)
            for (function, duration, rank), o in series.outputs.items():
                placed[f"output {key} {function} {duration} {rank!r}"] = ("F", o, 1)
        for key, held in self.accumulators[kind].items():
            placed[f"accumulator {key} F"] = ("F", held.g, 2)
            placed[f"accumulator {key} I"] = ("I", held.c, 2)
        for (of, key), q in self.triggers.items():
            if of is kind:
                placed[f"trigger {key}"] = ("I", q, TRIGGER_CELLS)
        return placed

    # --- the generated functions that move windows -----------------------------------------------------------------------
    def pushers(self) -> tuple[str, dict[Kind, list[Function]], tuple[float, ...], tuple[Number, ...]]:
        """Source of the functions `push_<kind>_<n>`, by kind, with their constants."""
        self.constants = Constants()
        text = [HEAD.format(name="(windows)")]
        functions: dict[Kind, list[Function]] = {kind: [] for kind in Kind}
        for kind in PUSH_ORDER:
            items: list[Series | Accumulator] = [*self.series[kind].values(), *self.accumulators[kind].values()]
            groups: dict[tuple[tuple[str, int], ...], list[Series | Accumulator]] = {}
            for item in items:
                groups.setdefault(item.overrides, []).append(item)
            for n, (overrides, members) in enumerate(groups.items()):
                emitter = _Pusher(kind, self, overrides)
                for member in members:
                    if isinstance(member, Series):
                        emitter.series(member)
                    else:
                        emitter.accumulator(member)
                name = f"push_{kind.value}_{n}"
                functions[kind].append(Function(name=name, arguments=tuple(emitter.arguments)))
                text.append(f"\n\ndef {name}({', '.join((*emitter.arguments, *TAIL))}):")
                text += emitter.lines
        return "\n".join(text), functions, tuple(self.constants.floats), tuple(self.constants.numbers)

    def extra_bound(self, kind: Kind, signal: str, bound: int) -> int:
        """Index in the pushers' table of an overridden staleness bound."""
        entry = (GLOBAL[kind, signal], bound)
        if entry not in self.bounds:
            self.bounds.append(entry)
        return len(GLOBAL) + self.bounds.index(entry)


class _Pusher(Emitter):
    """Emits the function that pushes samples and slides windows on the rows of one kind."""

    def __init__(self, kind: Kind, layout: Layout, overrides: tuple[tuple[str, int], ...]) -> None:
        super().__init__(kind, layout, layout.constants, layout.given, dict(overrides))
        self.layout = layout
        self.arguments |= {"T0": None, "V0": None}

    def bound(self, kind: Kind, signal: str) -> str:
        override = self.max_age.get(signal)
        if override is None:
            return super().bound(kind, signal)
        return f"B[{self.layout.extra_bound(kind, signal, override)}]"

    def when_observed(self, terms: tuple[Term, ...]) -> None:
        """Open a block that runs when some reading of the terms was sampled at `at`."""
        cells: list[str] = []
        loops: list[Term] = []
        for term in terms:
            self.collect(term, self.own, cells, loops)
        if loops:
            self.temporaries += 1
            flag = f"o{self.temporaries}"
            self.line(f"{flag} = 0")
            for cell in cells:
                self.line(f"if {cell} == at:")
                self.line(f"    {flag} = 1")
            for term in loops:
                self.flag(term, self.own, flag)
            self.line(f"if {flag}:")
        else:
            self.line(f"if {' or '.join(f'{cell} == at' for cell in dict.fromkeys(cells)) or '0'}:")
        self.indent += 1
        self.memo = self.memo.new_child()
        self.rows = self.rows.new_child()
        self.pairs = self.pairs.new_child()

    def collect(self, term: Term, row: Row, cells: list[str], loops: list[Term]) -> None:
        """Sampled-at cells of the readings on straight lines; sets and named entities go to `loops`, with the row they start from."""
        match term:
            case Read():
                at = self.row(row, term.relation)
                cells.append(f"{at.ints}[{seen_cell(term.kind, term.signal) + 1}]")
            case Derived():
                at = self.row(row, term.relation)
                if (term.kind, term.signal) in self.given:
                    cells.append(f"{at.ints}[{seen_cell(term.kind, term.signal) + 1}]")
                elif at is row or not _sets_inside(term.body):
                    self.collect(term.body, at, cells, loops)
                else:
                    loops.append(term)
            case Apply(function="valued"):
                cells += [f"{row.ints}[{seen_cell(Kind.MARKET, s) + 1}]" for s in VALUE_SIGNALS]
            case Apply(arguments=arguments) | Stateful(arguments=arguments):
                for argument in arguments:
                    self.collect(argument, row, cells, loops)
            case Window(argument=argument):
                self.collect(argument, row, cells, loops)
            case Over() | Elsewhere():
                loops.append(term)
            case _:
                pass

    def flag(self, term: Term, row: Row, flag: str) -> None:
        """Lines that raise `flag` when a member of a set was sampled at `at`."""
        match term:
            case Over():
                origin = self.row(row, "market") if term.members == "peers" and row.kind is not Kind.MARKET else row
                member = self.enter(term.members, origin, term.kind)
                self.raise_flag(term.body, member, flag)
                self.leave()
                if term.own is not None:
                    self.raise_flag(term.own, row, flag)
            case Elsewhere():
                self.loops += 1
                number = f"x{self.loops}"
                self.line(f"{number} = {self.constants.number(('row', term.kind, term.entity))}")
                self.raise_flag(term.body, self.open_row(term.kind, number), flag)
            case Derived():
                self.raise_flag(term.body, self.row(row, term.relation), flag)
            case _:
                raise AssertionError(f"no set: {term}")

    def raise_flag(self, body: Term, row: Row, flag: str) -> None:
        """Lines that raise `flag` when a reading of `body` was sampled at `at`."""
        cells: list[str] = []
        loops: list[Term] = []
        self.collect(body, row, cells, loops)
        for cell in dict.fromkeys(cells):
            self.line(f"if {cell} == at:")
            self.line(f"    {flag} = 1")
        for inner in loops:
            self.flag(inner, row, flag)

    def close(self) -> None:
        """Close a block opened by `when_observed`."""
        self.leave()

    def series(self, series: Series) -> None:
        """Push the sample of a series and slide its windows."""
        argument = series.argument
        self.when_observed((argument,))
        if isinstance(argument, Read) and argument.relation == "" and not argument.dimension.truth:
            x = self.new(f"F0[{_slot(argument)}]")
        else:
            x = self.value(argument, self.own)
        if argument.dimension.truth:
            x = self.new(f"NAN if {x} == 1 else {x} * 0.5")
        # Once an instant: what an action reports in the same instant is no second sample of what stands.
        self.line(f"if {x} == {x} and I0[{series.s}] != at:")
        self.indent += 1
        self.sample(series, x)
        for (state, duration), (w, g) in series.states.items():
            d = self.constants.number(("ns", "", duration))
            wanted = [(f, r, o) for (f, length, r), o in series.outputs.items() if length == duration and _state_of(f) == state]
            self.slide(series, state, w, g, d, wanted, x)
        self.indent -= 1
        self.close()

    def sample(self, series: Series, x: str) -> None:
        """Lines that append one sample to a series: h its index, b and m the ring's base and mask."""
        s, f = series.s, series.f
        for text in (
            f"h = I0[{s + 1}]",
            f"b = I0[{s + 5}]",
            f"m = I0[{s + 6}]",
            f"if F0[{f}] == {x}:",
            f"    I0[{s + 4}] += 1",
            "else:",
            f"    I0[{s + 4}] = 1",
            f"    F0[{f}] = {x}",
            "i = b + (h & m)",
            "T0[i] = at",
            f"V0[i] = {x}",
            f"I0[{s}] = at",
            f"I0[{s + 1}] = h + 1",
            "if h & 7 == 0:",
            "    if h == 0:",
            f"        I0[{s + 3}] = at",
            *(f"        I0[{w + 4}] = at" for w, _ in series.states.values()),
            f"    room(I0, T0, {s}, h, b, m, at)",
        ):
            self.line(text)

    def slide(self, series: Series, state: str, w: int, g: int, d: str, wanted: list[tuple[str, float, int]], x: str) -> None:
        """Lines that move one window and write its outputs."""
        s = series.s
        match state:
            case "moments":
                self.temporaries += 1
                n, a, q, c = (f"{letter}{self.temporaries}" for letter in "nsqc")
                self.line(f"{n}, {a}, {q}, {c} = moments(F0, I0, T0, V0, {w}, {g}, at, {d}, h, b, m, {x})")
                warm = self.new(f"I0[{w + 4}] <= at - {d}")
                for function, _, o in wanted:
                    value = {
                        "mean": f"{c} + {a} / {n}",
                        "share": f"{c} + {a} / {n}",
                        "sum": f"{a} + {c} * {n}",
                        "count": f"{n} * 1.0",
                        "std": f"std_of({n}, {a}, {q}, I0[{s + 4}])",
                        "zscore": f"zscore_of({n}, {a}, {q}, {c}, I0[{s + 4}], {x})",
                    }[function]
                    self.line(f"F0[{o}] = {value} if {warm} else NAN")
            case "before":
                then = self.new(f"value_before(I0, T0, V0, {s}, {w}, at, {d})")
                for function, _, o in wanted:
                    self.line(
                        f"F0[{o}] = {x} - {then}" if function == "change" else f"F0[{o}] = {x} / {then} - 1.0 if {then} != 0.0 else NAN"
                    )
            case "max" | "min":
                sign = "1.0" if state == "max" else "-1.0"
                for _, _, o in wanted:
                    self.line(f"F0[{o}] = extreme(I0, T0, V0, {s}, {w}, at, {d}, {sign})")
            case "order":
                self.line(f"order(I0, T0, V0, {s}, {w}, at, {d})")
                for _, rank, o in wanted:
                    self.line(f"F0[{o}] = quantile_of(I0, V0, {s}, {w}, at, {d}, {self.constants.real(rank)})")
            case "ewma":
                for _, _, o in wanted:
                    self.line(f"F0[{o}] = ewma(F0, I0, {s}, {w}, {g}, at, {d}, {x})")
            case _:
                for function, _, o in wanted:
                    self.line(f"F0[{o}] = {function}(F0, I0, T0, V0, {s}, {w}, {g}, at, {d})")

    def accumulator(self, held: Accumulator) -> None:
        """Update one accumulator."""
        self.when_observed(held.term.arguments)
        values = [self.value(a, self.own) for a in held.term.arguments]
        match held.term.function:
            case "steady_for":
                self.line(f"steady(I0, {held.c}, at, {values[0]})")
            case "since_change":
                self.line(f"changed(F0, I0, {held.g}, {held.c}, at, {values[0]})")
            case _:
                self.line(f"frozen(F0, I0, {held.g}, {held.c}, at, {values[0]}, {values[1]})")
        self.close()


def pusher(
    kind: Kind, layout: Layout, item: Series | Accumulator, offsets: Offsets, constants: Constants
) -> tuple[tuple[str, ...], list[str]]:
    """(arguments, lines) of a function that moves one series or accumulator, whose cells stand where `item` and `offsets` say."""
    emitter = _Pusher(kind, layout, item.overrides)
    emitter.offsets, emitter.constants = offsets, constants
    if isinstance(item, Series):
        emitter.series(item)
    else:
        emitter.accumulator(item)
    return tuple(emitter.arguments), emitter.lines


def _header(kind: Kind) -> list[int]:
    cells = [0] * HEADER
    for j in range(VALUED, VALUED + 4):
        cells[j] = -1
    return cells + [NEVER] * (CELLS * SLOTS[kind])


def _state_of(function: str) -> str:
    if function in _MOMENTS:
        return "moments"
    return {"change": "before", "pct_change": "before", "quantile": "order"}.get(function, function)


def _slot(read: Read) -> int:
    return (seen_cell(read.kind, read.signal) - HEADER) // CELLS


def _sets_inside(term: Term) -> bool:
    match term:
        case Over() | Elsewhere():
            return True
        case Derived(body=body):
            return _sets_inside(body)
        case Apply(arguments=arguments) | Stateful(arguments=arguments):
            return any(_sets_inside(a) for a in arguments)
        case Window(argument=argument):
            return _sets_inside(argument)
        case _:
            return False


def _overrides(term: Term, max_age: Mapping[str, int]) -> tuple[tuple[str, int], ...]:
    """The overridden bounds that a term's readings use."""
    used: set[str] = set()

    def visit(inner: Term) -> None:
        match inner:
            case Read(signal=signal):
                used.add(signal)
            case Derived(body=body, signal=signal):
                used.add(signal)
                visit(body)
            case Apply(arguments=arguments) | Stateful(arguments=arguments):
                for argument in arguments:
                    visit(argument)
                if isinstance(inner, Apply) and inner.function == "valued":
                    used.update(VALUE_SIGNALS)
            case Window(argument=argument):
                visit(argument)
            case Over(body=body) | Elsewhere(body=body):
                visit(body)
            case _:
                pass

    visit(term)
    return tuple(sorted((name, max_age[name]) for name in used if name in max_age))
