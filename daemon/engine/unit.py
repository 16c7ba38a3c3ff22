"""The generated program cut into units that run over whole columns (floor 4): text, and which columns it loads and fills.

Between two edges nothing but recorded rows moves a trigger or a window. So the compiled execution turns the loop inside out: one unit,
a window or a runbook, runs over many rows before the next one does. A unit is the SAME emitted text as the plain execution's, around
which stands a loop that loads each row's readings from columns into flat rows of the unit's own and calls it.

    unit = trigger_unit(runbook, layout, given, recorded, axis="market")
    unit.text           # functions `observe`, `horizon` and the loop `run`, ready for a nopython compiler
    unit.columns        # what `run` takes, by name

Offsets are counted anew in every unit (its windows in order of appearance), so the text of a runbook depends on nothing but its logic.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from daemon.engine.layout import Accumulator, Layout, Series, pusher
from daemon.language.kernels import SERIES_CELLS, TRIGGER_CELLS, WINDOW_CELLS
from daemon.language.slots import CELLS, HEADER, SAMPLED, SLOT, SLOTS, VALUE_SIGNALS, seen_cell
from daemon.language.terms import Stateful, Window
from daemon.runbook.compile import TAIL, Program, compile_trigger
from daemon.runbook.emit import Constants, Number
from daemon.runbook.model import Runbook
from daemon.units import FOREVER, NEVER
from daemon.world.entities import Kind

# Columns of the table of instances that `run` walks over.
NUMBER, NEXT, END, FORCE, EDGE_AT, CODE, ROW, FIRST_PATH = range(8)
SCAN = 64  # rows looked at together for one that can move a resting trigger
KIND_CODE = {kind: code for code, kind in enumerate(Kind)}
OWN = "0"  # the path of a unit's own row
_VALUED = re.compile(r"valued(?:_horizon)?\((?:h, )?(?:\w+, )?I(\w+), B")
_FROZEN = re.compile(r"frozen_time\(F(\w+), I\w+, (\d+), (\d+)")
# Kernels that take rows and hand them on to nobody.
_INLINED = re.compile(r"(?:room|moments|second|value_before|ewma|quantile_of|steady|changed|frozen)\((?:[FITV]0, )+")
_SET_LOOP = re.compile(r"^(\s*)for (m\d+) in (\w+)\[(\w+)\]:$")
_OPENED = re.compile(r"^\s*F(\w+) = (\w+)_F\[")


class Unsupported(Exception):
    """Something of the program cannot run over columns; the plain execution takes it. The argument says what."""


@dataclass(frozen=True, slots=True, order=True)
class Column:
    """One column: `what` is v value, s time seen, m time sampled, f and i cells of the kind's row (windows, accumulators)."""

    kind: Kind
    what: str
    place: int  # v s m: the signal's slot; f i: the offset in the engine's own row of this kind

    @property
    def integral(self) -> bool:
        """True for int64 columns."""
        return self.what in "smi"


class Cells:
    """Offsets of one unit, counted anew: `emit.Offsets` over the engine's layout, remembering what stands where."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.floats: dict[Kind, list[int]] = {kind: [] for kind in Kind}  # the layout's offset of each cell behind the slots
        self.ints: dict[Kind, list[int]] = {kind: [] for kind in Kind}

    def f(self, kind: Kind, real: int) -> int:
        """This unit's offset of a cell of F; a new one when it was not met yet."""
        if real not in self.floats[kind]:
            self.floats[kind].append(real)
        return SLOTS[kind] + self.floats[kind].index(real)

    def i(self, kind: Kind, real: int) -> int:
        """This unit's offset of a cell of I."""
        if real not in self.ints[kind]:
            self.ints[kind].append(real)
        return HEADER + CELLS * SLOTS[kind] + self.ints[kind].index(real)

    def window(self, kind: Kind, window: Window, max_age: Mapping[str, int]) -> int:
        """Offset of a window's output."""
        return self.f(kind, self.layout.window(kind, window, max_age))

    def stateful(self, kind: Kind, term: Stateful, max_age: Mapping[str, int]) -> tuple[int, int]:
        """Offsets of an accumulator's cells."""
        g, c = self.layout.stateful(kind, term, max_age)
        first = self.f(kind, g)
        assert self.f(kind, g + 1) == first + 1
        second = self.i(kind, c)
        assert self.i(kind, c + 1) == second + 1
        return first, second

    def width(self, kind: Kind) -> tuple[int, int]:
        """Cells of a row of this unit in F and I."""
        return SLOTS[kind] + len(self.floats[kind]), HEADER + CELLS * SLOTS[kind] + len(self.ints[kind])


def parameter_type(name: str) -> str:
    """What a parameter of `run` is: `i` a number, else I or F (int64, float64) and its dimensions."""
    if name in ("lo", "hi", "until", "Q"):
        return "i"
    if name in ("INST", "SEG") or "_of_" in name:
        return "I2"
    if name in ("K", "S", "X", "W"):
        return "F1"
    if name in ("N", "B", "AT", "AXK", "AXE", "AXC"):
        return "I1"
    letter, _, tail = name.partition("_")
    if name in ("T0s", "V0s"):
        return "I2" if name == "T0s" else "F2"
    if name.endswith("s") and letter[0] in "FI":
        return f"{letter[0]}2"
    if tail in ("Fs", "Is"):
        return f"{tail[0]}3"
    return f"{'I' if tail[0] in 'smi' else 'F'}1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """One unit of the program and what links it to state."""

    name: str
    scope: Kind
    text: str
    parameters: tuple[str, ...]  # of `run`, in order
    columns: Mapping[str, Column]  # parameter -> column
    outputs: Mapping[str, Column]  # parameter -> column that `run` fills
    cells: Cells
    floats: tuple[float, ...]
    numbers: tuple[Number, ...]
    paths: tuple[str, ...] = ()  # rows on straight lines: "0" its own, "market", "from_chain", ...
    numbered: tuple[str, ...] = ()  # paths whose row number the text asks for, in the order of the table's columns from FIRST_PATH
    arenas: tuple[Kind, ...] = ()  # kinds of which it sees every row
    sets: tuple[str, ...] = ()
    joined: bool = False
    axis: Kind | None = None  # the kind of the one row that moves; None where several do
    item: Series | Accumulator | None = None  # what a window's unit moves
    max_age: Mapping[str, int] = field(default_factory=dict)


    @property
    def types(self) -> dict[str, str]:
        """The types of `run`'s parameters, in order."""
        return {name: parameter_type(name) for name in self.parameters}


def path_kind(scope: Kind, path: str) -> Kind:
    """The kind of the row at a path."""
    if path == OWN:
        return scope
    last = path.rpartition("_")[2]
    return Kind.CHAIN if last in ("from", "to") else Kind(last)


# --- windows and accumulators -------------------------------------------------------------------------------------------
def window_unit(kind: Kind, item: Series | Accumulator, layout: Layout, recorded: frozenset[tuple[Kind, str]]) -> Unit:
    """The unit that moves one series with its windows, or one accumulator, along the rows of one entity."""
    cells = Cells(layout)
    moved: Series | Accumulator
    filled: dict[str, Column] = {}
    if isinstance(item, Series):
        s, *_ = (cells.i(kind, item.s + j) for j in range(SERIES_CELLS))
        states = {}
        for place, (w, g) in item.states.items():
            ints = [cells.i(kind, w + j) for j in range(WINDOW_CELLS)]
            floats = [cells.f(kind, g + j) for j in range(10)]
            states[place] = (ints[0], floats[0])
        outputs = {key: cells.f(kind, o) for key, o in item.outputs.items()}
        moved = replace(item, s=s, f=cells.f(kind, item.f), states=states, outputs=outputs)
        for key, o in item.outputs.items():
            filled[f"out_f{outputs[key]}"] = Column(kind, "f", o)
    else:
        g, c = cells.f(kind, item.g), cells.i(kind, item.c)
        cells.f(kind, item.g + 1)
        cells.i(kind, item.c + 1)
        moved = replace(item, g=g, c=c)
        filled = {f"out_f{g + j}": Column(kind, "f", item.g + j) for j in (0, 1)}
        filled |= {f"out_i{c + j}": Column(kind, "i", item.c + j) for j in (0, 1)}
    own = set(cells.floats[kind]), set(cells.ints[kind])
    constants = Constants()
    arguments, lines = pusher(kind, layout, moved, cells, constants)
    if not set(arguments) <= {"F0", "I0", "T0", "V0"}:
        raise Unsupported(f"a window over readings of more than one {kind.value}: {item.key}")
    body = "\n".join(lines)
    columns = _columns(body, "0", kind, cells, recorded, sampled=True, skip=own)
    loads = _loads(columns, cells, "F0", "I0")
    stores = [f"            {name}[c] = {'F0' if name.startswith('out_f') else 'I0'}[{name[5:]}]" for name in filled]
    parameters = ("lo", "hi", "SEG", "F0s", "I0s", "T0s", "V0s", "K", "N", "B", "S", "X", "W", "AT", *columns, *filled)
    held_f, held_i = _cells_used(body, columns, cells, kind)
    local = not re.search(r"\b[FI]0\b(?!\[)", _INLINED.sub("", body))
    copies = [f"F0[{n}] = F0s[k, {n}]" for n in held_f] + [f"I0[{n}] = I0s[k, {n}]" for n in held_i]
    back = [f"F0s[k, {n}] = F0[{n}]" for n in held_f] + [f"I0s[k, {n}] = I0[{n}]" for n in held_i]
    width_f, width_i = cells.width(kind)
    # Cells that a loop keeps to itself stay in registers.
    begin = [f"F0 = local_floats({width_f})", f"I0 = local_ints({width_i})", *copies] if local else ["F0 = F0s[k]", "I0 = I0s[k]"]
    text = "\n".join([
        f"def push({', '.join((*arguments, *TAIL))}):",
        body or "    pass",
        "",
        "",
        f"def run({', '.join(parameters)}):",
        "    for k in range(lo, hi):",
        *(f"        {line}" for line in begin),
        "        T0 = T0s[k]",
        "        V0 = V0s[k]",
        "        for c in range(SEG[k, 0], SEG[k, 1]):",
        "            at = AT[c]",
        *(f"            {line}" for line in loads),
        "            if c + 1 == SEG[k, 1] or AT[c + 1] != at:",
        f"                push({', '.join((*arguments, *TAIL[:-2], 'k', 'at'))})",
        *stores,
        *(f"        {line}" for line in (back if local else ())),
    ])  # fmt: skip
    return Unit(
        name=f"window {kind.value} {item.key}", scope=kind, text=text, parameters=parameters, columns=columns, outputs=filled,
        cells=cells, floats=tuple(constants.floats), numbers=tuple(constants.numbers), item=item,
    )  # fmt: skip


def _cells_used(body: str, columns: Mapping[str, Column], cells: Cells, kind: Kind) -> tuple[list[int], list[int]]:
    """Every cell of F0 and I0 that a window's text touches, or that a column is loaded into."""
    floats = {int(n) for n in re.findall(r"\bF0\[(\d+)\]", body)} | set(range(SLOTS[kind], cells.width(kind)[0]))
    ints = {int(n) for n in re.findall(r"\bI0\[(\d+)\]", body)} | set(range(HEADER + CELLS * SLOTS[kind], cells.width(kind)[1]))
    for name, column in columns.items():
        (ints if column.integral else floats).add(_place(name, column))
    return sorted(floats), sorted(ints)


# --- runbooks -----------------------------------------------------------------------------------------------------------
def trigger_unit(
    runbook: Runbook,
    layout: Layout,
    given: frozenset[tuple[Kind, str]],
    recorded: frozenset[tuple[Kind, str]],
    axis: str | None,
) -> Unit:
    """The unit that advances one runbook's triggers. `axis`: the path of the one row that moves; None: several do (joined)."""
    scope = runbook.scope
    cells = Cells(layout)
    cells.ints[scope] = [-1 - j for j in range(TRIGGER_CELLS)]  # the trigger's own cells come first and belong to no layout
    q = HEADER + CELLS * SLOTS[scope]
    program = compile_trigger(runbook, cells, given, q)
    source = "\n".join(_numbered_sets(program.source.split("\n")))
    arguments = program.functions["observe"].arguments
    paths = tuple(dict.fromkeys(OWN if a in ("F0", "I0") else a[2:] for a in arguments if a in ("F0", "I0") or a[:2] in ("F_", "I_")))
    numbered = tuple(dict.fromkeys(a[2:] for a in arguments if a.startswith("r_")))
    arenas = tuple(dict.fromkeys(Kind(a[:-2]) for a in arguments if a.endswith(("_F", "_I"))))
    sets = tuple(a for a in arguments if "_of_" in a)
    if axis is None:
        return _joined(runbook, program, source, cells, recorded, paths, numbered, arenas, sets)
    return _single(runbook, program, source, cells, recorded, paths, numbered, arenas, sets, axis)


def _single(
    runbook: Runbook, program: Program, source: str, cells: Cells, recorded: frozenset[tuple[Kind, str]], paths: tuple[str, ...],
    numbered: tuple[str, ...], arenas: tuple[Kind, ...], sets: tuple[str, ...], axis: str,
) -> Unit:  # fmt: skip
    scope, kind = runbook.scope, path_kind(runbook.scope, axis)
    floats, ints = row_names(axis)
    columns = _columns(source, floats[1:], kind, cells, recorded)
    loads = _loads(columns, cells, floats, ints)
    rows, called = _rows_and_call(program, paths, numbered, arenas, sets)
    parameters = _parameters(paths, arenas, sets, ("AT",), columns)
    scan = _scan(source, floats, ints, columns, cells, scope) if not arenas else None
    stepped = ["c = i", *loads]
    scanning = _scanning(scan, loads) if scan else []
    text = _loop(source, parameters, rows, ["stop = within(AT, i, end, until)"], scanning, stepped, called)
    return Unit(
        name=f"runbook {runbook.id}", scope=scope, text=text, parameters=parameters, columns=columns, outputs={}, cells=cells,
        floats=program.floats, numbers=program.numbers, paths=paths, numbered=numbered, arenas=arenas, sets=sets, axis=kind,
        max_age=runbook.max_age,
    )  # fmt: skip


def _joined(
    runbook: Runbook, program: Program, source: str, cells: Cells, recorded: frozenset[tuple[Kind, str]], paths: tuple[str, ...],
    numbered: tuple[str, ...], arenas: tuple[Kind, ...], sets: tuple[str, ...],
) -> Unit:  # fmt: skip
    scope = runbook.scope
    names = {path: row_names(path)[0][1:] for path in paths}
    kinds: dict[Kind, list[str]] = {}
    for path in paths:
        kinds.setdefault(path_kind(scope, path), []).append(names[path])
    for line in source.split("\n"):
        opened = _OPENED.match(line)
        if opened:
            kinds.setdefault(Kind(opened[2]), []).append(opened[1])
    columns: dict[str, Column] = {}
    loading: list[str] = []
    located = [path for path in paths if path != OWN]
    for kind, rows_of in kinds.items():
        found: dict[str, Column] = {}
        for name in rows_of:
            found |= _columns(source, name, kind, cells, recorded)
        if not found:
            continue
        columns |= found
        loading.append(f"if kind == {KIND_CODE[kind]}:")
        for path in paths:
            if path_kind(scope, path) is kind:
                floats, ints = row_names(path)
                number = "e" if path == OWN else f"INST[k, {FIRST_PATH + len(numbered) + located.index(path)}]"
                loading.append(f"    if number == {number}:")
                loading += [f"        {line}" for line in _loads(found, cells, floats, ints)]
        if kind in arenas:
            loading += [f"    {line}" for line in _loads(found, cells, f"{kind.value}_F[number]", f"{kind.value}_I[number]")]
    rows, called = _rows_and_call(program, paths, numbered, arenas, sets)
    parameters = _parameters(paths, arenas, sets, ("AT", "AXK", "AXE", "AXC"), columns)
    stepped = ["kind = AXK[i]", "number = AXE[i]", "c = AXC[i]", *loading]
    text = _loop(source, parameters, rows, [], [], stepped, called)
    return Unit(
        name=f"runbook {runbook.id}", scope=scope, text=text, parameters=parameters, columns=columns, outputs={}, cells=cells,
        floats=program.floats, numbers=program.numbers, paths=paths, numbered=numbered, arenas=arenas, sets=sets, joined=True,
        max_age=runbook.max_age,
    )  # fmt: skip


def _loop(
    source: str, parameters: Sequence[str], rows: Sequence[str], begin: Sequence[str], scanning: Sequence[str], stepped: Sequence[str],
    called: str,
) -> str:  # fmt: skip
    """The text with its loop over instances: `rows` and `begin` once an instance, `scanning` before each time that is looked at,
    `stepped` for each row that is loaded at it."""
    return "\n".join([
        source,
        "",
        "",
        f"def run({', '.join(parameters)}):",
        "    for k in range(lo, hi):",
        f"        if INST[k, {EDGE_AT}] != NOT_DUE:",
        "            continue",
        *(f"        {line}" for line in rows),
        f"        i = INST[k, {NEXT}]",
        f"        end = INST[k, {END}]",
        *(f"        {line}" for line in begin),
        "        while True:",
        *(f"            {line}" for line in scanning),
        "            t = AT[i] if i < end else NOT_DUE",
        "            row = t",
        *_evaluate(),
        "            if row == t:",
        "                while i < end and AT[i] == t:",
        *(f"                    {line}" for line in stepped),
        "                    i += 1",
        *_judge(called),
        f"        INST[k, {NEXT}] = i",
    ])  # fmt: skip


def _evaluate() -> list[str]:
    """Lines that find the next time at which the trigger is looked at: a row, its due, or a fact told from outside."""
    return [
        "            if I0[Q + 4] < t:",
        "                t = I0[Q + 4]",
        f"            if INST[k, {FORCE}] < t:",
        f"                t = INST[k, {FORCE}]",
        "            if t > until:",
        "                break",
        f"            told = 1 if row == t or INST[k, {FORCE}] == t else 0",
        f"            if INST[k, {FORCE}] <= t:",
        f"                INST[k, {FORCE}] = NOT_DUE",
    ]


def _judge(called: str) -> list[str]:
    """Lines that evaluate at `t` and stop at an edge."""
    return [
        "            at = t",
        f"            code = {called}",
        "            if I0[Q + 4] <= t:",
        "                I0[Q + 4] = NOT_DUE",
        "            if code & 7:",
        f"                INST[k, {EDGE_AT}] = t",
        f"                INST[k, {CODE}] = code & 7",
        f"                INST[k, {ROW}] = told",
        "                break",
    ]


def row_names(path: str) -> tuple[str, str]:
    """The names of a path's rows in the text."""
    return ("F0", "I0") if path == OWN else (f"F_{path}", f"I_{path}")


def _parameters(
    paths: Sequence[str], arenas: Sequence[Kind], sets: Sequence[str], axis: Sequence[str], columns: Mapping[str, Column]
) -> tuple[str, ...]:
    rows = [f"{name}s" for path in paths for name in row_names(path)]
    whole = [f"{kind.value}_{letter}s" for kind in arenas for letter in "FI"]
    return ("lo", "hi", "until", "Q", "INST", *rows, *whole, *sets, "K", "N", "B", "S", "X", "W", *axis, *columns)


def _rows_and_call(
    program: Program, paths: Sequence[str], numbered: Sequence[str], arenas: Sequence[Kind], sets: Sequence[str]
) -> tuple[list[str], str]:
    rows = [f"e = INST[k, {NUMBER}]"]
    for path in paths:
        rows += [f"{name} = {name}s[k]" for name in row_names(path)]
    for kind in arenas:
        rows += [f"{kind.value}_{letter} = {kind.value}_{letter}s[k]" for letter in "FI"]
    rows += [f"r_{path} = INST[k, {FIRST_PATH + j}]" for j, path in enumerate(numbered)]
    return rows, f"observe({', '.join((*program.functions['observe'].arguments, *TAIL))})"


def _numbered_sets(lines: Sequence[str]) -> list[str]:
    """Loops over member lists as loops over rows of a table whose first cell counts the members."""
    found = []
    for line in lines:
        loop = _SET_LOOP.match(line)
        if loop:
            indent, member, listed, row = loop.groups()
            found += [
                f"{indent}for j{member} in range(1, {listed}[{row}, 0] + 1):",
                f"{indent}    {member} = {listed}[{row}, j{member}]",
            ]
        else:
            found.append(line)
    return found


def _columns(
    text: str,
    row: str,
    kind: Kind,
    cells: Cells,
    recorded: frozenset[tuple[Kind, str]],
    *,
    sampled: bool = False,
    skip: tuple[set[int], set[int]] = (set(), set()),
) -> dict[str, Column]:
    """The columns that a text reads through the row variables `F<row>` and `I<row>`; what was not recorded has none."""
    floats = {int(n) for n in re.findall(rf"\bF{row}\[(\d+)\]", text)}
    ints = {int(n) for n in re.findall(rf"\bI{row}\[(\d+)\]", text)}
    for name in _VALUED.findall(text):
        if name == row:
            floats |= {SLOT[kind, signal] for signal in VALUE_SIGNALS}
            ints |= {seen_cell(kind, signal) for signal in VALUE_SIGNALS}
    for name, g, c in _FROZEN.findall(text):
        if name == row:
            floats |= {int(g), int(g) + 1}
            ints |= {int(c), int(c) + 1}
    found: dict[str, Column] = {}
    base_f, base_i = SLOTS[kind], HEADER + CELLS * SLOTS[kind]
    slots = [slot for (of, _), slot in SLOT.items() if of is kind]
    names = {slot: name for (of, name), slot in SLOT.items() if of is kind}
    for n in sorted(floats):
        if n >= base_f:
            real = cells.floats[kind][n - base_f]
            if real not in skip[0]:
                found[f"{kind.value}_f{n}"] = Column(kind, "f", real)
        elif n in slots and (kind, names[n]) in recorded:
            found[f"{kind.value}_v{n}"] = Column(kind, "v", n)
    for n in sorted(ints):
        if n >= base_i:
            real = cells.ints[kind][n - base_i]
            if real >= 0 and real not in skip[1]:
                found[f"{kind.value}_i{n}"] = Column(kind, "i", real)
        elif n >= HEADER:
            slot, part = divmod(n - HEADER, CELLS)
            if part == 0 and (kind, names[slot]) in recorded:
                found[f"{kind.value}_s{slot}"] = Column(kind, "s", slot)
            elif part == SAMPLED and sampled and (kind, names[slot]) in recorded:
                found[f"{kind.value}_m{slot}"] = Column(kind, "m", slot)
    return found


def _loads(columns: Mapping[str, Column], cells: Cells, floats: str, ints: str) -> list[str]:
    """Lines that put row `c` of the columns into row variables; `F[n]` of `market_F[number]` becomes `market_F[number, n]`."""
    lines = []
    for name, column in columns.items():
        place = _place(name, column)
        target = ints if column.integral else floats
        cell = f"{target[:-1]}, {place}]" if target.endswith("]") else f"{target}[{place}]"
        lines.append(f"{cell} = {name}[c]")
    return lines


def _place(name: str, column: Column) -> int:
    """The cell of a unit's row that a column is loaded into."""
    match column.what:
        case "v":
            return column.place
        case "s":
            return HEADER + CELLS * column.place
        case "m":
            return HEADER + CELLS * column.place + SAMPLED
        case _:
            return int(re.sub(r"\D", "", name.rpartition("_")[2]))


# --- looking for a row that can move a resting trigger ------------------------------------------------------------------
def _scan(
    source: str, floats: str, ints: str, columns: Mapping[str, Column], cells: Cells, scope: Kind
) -> tuple[list[str], str, str] | None:
    """(lines, when, until): the trigger's conditions straight from the columns at `u`; None where an expression needs the row itself,
    or where time alone can make it TRUE."""
    lines = source[source.index("\ndef observe(") + 1 :].split("\n")[1:]
    rests = next((n for n, line in enumerate(lines) if line.startswith("    if (s == 0 and ")), None)
    if rests is None:
        return None
    when, until = re.findall(r"(\S+) != 2", lines[rests])
    body = lines[: rests - 1]
    if scope is Kind.POSITION:
        body = body[2:]  # whether the position is there is asked once, not at every row
    text = "\n".join(body)
    for name, column in columns.items():
        target = ints if column.integral else floats
        text = text.replace(f"{target}[{_place(name, column)}]", f"{name}[u]")
    if re.search(rf"\b({floats}|{ints})\b(?!\[)", text) or "\n    for " in f"\n{text}":
        return None
    return text.split("\n"), when, until


def _scanning(scan: tuple[list[str], str, str], loads: Sequence[str]) -> list[str]:
    """Lines that go on to the first row, before `stop`, at which a resting trigger moves; its dues until then hold nothing."""
    body, when, until = scan
    lines = [
        "s = I0[Q]",
        # A due before the next row is looked at first: a trigger that fires may have met its `until` already.
        f"if (s == 0 or s == 2) and i < stop and INST[k, {FORCE}] > AT[i] and I0[Q + 4] >= AT[i]:",
        "    first = i",
    ]
    for status, verdict in ((0, when), (2, until)):
        lines += [
            f"    if s == {status}:",
            f"        while i + {SCAN} <= stop:",
            "            hit = 0",
            f"            for u in range(i, i + {SCAN}):",
            "                at = AT[u]",
            *(f"            {line}" for line in body),
            f"                hit |= 1 if {verdict} == 2 else 0",
            "            if hit != 0:",
            "                break",
            f"            i += {SCAN}",
        ]
    return [
        *lines,
        "    while i < stop:",
        "        u = i",
        "        at = AT[u]",
        *(f"    {line}" for line in body),
        f"        if (s == 0 and {when} == 2) or (s == 2 and {until} == 2):",
        "            break",
        "        i += 1",
        f"    if INST[k, {FORCE}] != NOT_DUE:",
        f"        i = within(AT, first, i, INST[k, {FORCE}] - 1)",
        "    if i > first:",
        "        c = i - 1",
        *(f"        {line}" for line in loads),
        "        passed = AT[i] if i < end else until",
        "        if I0[Q + 4] < passed:",
        "            I0[Q + 4] = NOT_DUE",
    ]


__all__ = ["CODE", "EDGE_AT", "END", "FIRST_PATH", "FORCE", "FOREVER", "NEVER", "NEXT", "NUMBER", "ROW", "Column", "Unit", "Unsupported"]
