"""Rows of state by kind, who is who, and who belongs to whom (floor 4).

An arena is four lists of rows: F floats, I ints, T and V rings. Row 0 is the void entity. Rows only ever lengthen.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable

from daemon.engine.layout import RING_MIN, Layout, Series
from daemon.language.catalogue import BLOCK_AGE_LIMIT_S
from daemon.language.kernels import ewma, extreme, moments, order, slope, volatility
from daemon.language.slots import ASSET, BLOCK, GROW, LINKS, NAME, SLOT, VALUED, seen_cell
from daemon.units import FOREVER, NEVER, NS
from daemon.world.entities import PORTFOLIO_ID, Entity, Kind, Topology

SIZE_SLOT = SLOT[Kind.POSITION, "size"]
SIZE_SEEN = seen_cell(Kind.POSITION, "size")
BLOCK_AGE_SLOT = SLOT[Kind.VENUE, "block_age"]


class Arena:
    """The rows of one kind."""

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.F: list[list[float]] = []
        self.I: list[list[int]] = []
        self.T: list[array[int]] = []
        self.V: list[array[float]] = []
        self.ids: list[str] = []
        self.rows: dict[str, int] = {}
        self.entities: list[Entity] = []


class Arenas:
    """All rows of an engine; keeps links and member lists true as entities appear and positions open and close."""

    def __init__(self, topology: Topology, layout: Layout) -> None:
        self.topology = topology
        self.layout = layout
        self.kinds: dict[Kind, Arena] = {kind: Arena(kind) for kind in Kind}
        self.members: dict[str, list[list[int]]] = {}
        self.interned: dict[str, int] = {"": 0}
        self.scratch: list[float] = [0.0] * 64
        self.changed = True  # an entity appeared, or a position opened or closed: who touches whom must be found anew
        for kind in Kind:
            self._add(kind, "", Entity(kind=kind, id="", labels={}, links={}))
        self.row(Kind.PORTFOLIO, PORTFOLIO_ID)
        for venue in topology.venues:
            self.row(Kind.VENUE, venue)
        for account in topology.accounts:
            self.row(Kind.ACCOUNT, account)
        for route in topology.routes:
            self.row(Kind.ROUTE, route)

    def intern(self, text: str) -> int:
        """A number for a text, the same for equal texts."""
        return self.interned.setdefault(text, len(self.interned))

    def row(self, kind: Kind, entity: str) -> int:
        """The row of an entity; a new one, with the rows it links to, when it was never named before."""
        found = self.kinds[kind].rows.get(entity)
        if found is not None:
            return found
        return self._add(kind, entity, self.topology.entity(kind, entity))

    def _add(self, kind: Kind, entity_id: str, entity: Entity) -> int:
        arena = self.kinds[kind]
        number = len(arena.ids)
        arena.ids.append(entity_id)
        arena.rows[entity_id] = number
        arena.entities.append(entity)
        arena.F.append([])
        arena.I.append([])
        arena.T.append(array("q"))
        arena.V.append(array("d"))
        self.lengthen(kind, number)
        ints = arena.I[number]
        ints[NAME] = self.intern(entity_id)
        ints[ASSET] = self.intern(entity.labels.get("base", ""))
        ints[LINKS["portfolio"]] = 1 if entity_id else 0
        for relation, target in entity.links.items():
            linked = Kind.CHAIN if relation in ("from", "to") else Kind(relation)
            ints[LINKS[relation]] = self.row(linked, target)
        if kind is Kind.MARKET and entity_id:
            venue = self.topology.venues.get(entity.links.get("venue", ""))
            for j, name in enumerate((venue.valued_at if venue else ("oracle_price", "mark_price", "last_price"))[:4]):
                ints[VALUED + j] = SLOT[Kind.MARKET, name]
        if kind in (Kind.MARKET, Kind.POSITION, Kind.ACCOUNT):
            ints[BLOCK] = self.block(ints[LINKS["venue"]])
        self.changed = True
        if len(self.scratch) <= number + 1:
            self.scratch += [0.0] * len(self.scratch)
        return number

    def block(self, venue: int) -> int:
        """The block_age in ns that rows of a venue carry: 0 where it is not provided, FOREVER beyond the catalogue's limit."""
        age = self.kinds[Kind.VENUE].F[venue][BLOCK_AGE_SLOT] if venue else float("nan")
        if age != age:
            return 0
        return FOREVER if age > BLOCK_AGE_LIMIT_S else int(age * NS)

    def lengthen(self, kind: Kind, number: int) -> None:
        """Bring a row to the layout's present length and give new rings their room."""
        arena = self.kinds[kind]
        floats, ints = arena.F[number], arena.I[number]
        floats += self.layout.floats[kind][len(floats) :]
        ints += self.layout.ints[kind][len(ints) :]
        for series in self.layout.series[kind].values():
            ints[series.s + 7] = max(ints[series.s + 7], series.kept_ns)
            if ints[series.s + 6] == 0:
                ints[series.s + 5] = self.room(arena, number, RING_MIN)
                ints[series.s + 6] = RING_MIN - 1
            for (state, duration), (w, g) in series.states.items():
                if state in ("min", "max", "order") and ints[w + 3] == 0:
                    ints[w + 2] = self.room(arena, number, ints[series.s + 6] + 1)
                    ints[w + 3] = 1
                if ints[series.s + 1] and ints[w + 4] == 0:
                    self._catch_up(arena, number, series, state, duration, w, g)

    def _catch_up(self, arena: Arena, number: int, series: Series, state: str, duration: int, w: int, g: int) -> None:
        """Slide a window that came later than its samples over those that are still kept; it is known no earlier than they allow."""
        F, I, T, V = arena.F[number], arena.I[number], arena.T[number], arena.V[number]  # noqa: E741
        s = series.s
        head, tail, base, mask = I[s + 1], I[s + 2], I[s + 5], I[s + 6]
        I[w + 4] = T[base + (tail & mask)] if tail else I[s + 3]
        if state in ("before", "order", "slope", "volatility"):
            I[w] = tail
        if state in ("slope", "volatility"):
            I[w + 1] = tail
        for j in range(tail, head):
            I[s + 1] = j + 1
            at, x = T[base + (j & mask)], V[base + (j & mask)]
            match state:
                case "moments":
                    moments(F, I, T, V, w, g, at, duration, j, base, mask, x)
                case "min" | "max":
                    extreme(I, T, V, s, w, at, duration, 1.0 if state == "max" else -1.0)
                case "order":
                    order(I, T, V, s, w, at, duration)
                case "ewma":
                    ewma(F, I, s, w, g, at, duration, x)
                case "slope":
                    slope(F, I, T, V, s, w, g, at, duration)
                case "volatility":
                    volatility(F, I, T, V, s, w, g, at, duration)
        I[s + 1] = head

    def room(self, arena: Arena, number: int, capacity: int) -> int:
        """Room for `capacity` more samples behind a row's rings; where it begins."""
        times, values = arena.T[number], arena.V[number]
        start = len(times)
        times.frombytes(bytes(8 * capacity))
        values.frombytes(bytes(8 * capacity))
        return start

    def grow(self, kind: Kind, number: int) -> None:
        """Double the full rings of a row; samples keep their indices, so no cursor moves."""
        arena = self.kinds[kind]
        ints = arena.I[number]
        ints[GROW] = 0
        for series in self.layout.series[kind].values():
            s = series.s
            head, tail, base, mask = ints[s + 1], ints[s + 2], ints[s + 5], ints[s + 6]
            if head + 10 - tail <= mask:
                continue
            capacity = 2 * (mask + 1)
            start = self.room(arena, number, capacity)
            times, values = arena.T[number], arena.V[number]
            for i in range(tail, head):
                times[start + (i & (capacity - 1))] = times[base + (i & mask)]
                values[start + (i & (capacity - 1))] = values[base + (i & mask)]
            ints[s + 5], ints[s + 6] = start, capacity - 1
            for (state, _), (w, _) in series.states.items():
                if state in ("min", "max"):
                    old, ints[w + 2] = ints[w + 2], self.room(arena, number, capacity)
                    times = arena.T[number]
                    for j in range(ints[w], ints[w + 1]):
                        times[ints[w + 2] + (j & (capacity - 1))] = times[old + (j & mask)]
                elif state == "order":
                    old, ints[w + 2] = ints[w + 2], self.room(arena, number, capacity)
                    values = arena.V[number]
                    values[ints[w + 2] : ints[w + 2] + ints[w + 1]] = values[old : old + ints[w + 1]]

    # --- sets -----------------------------------------------------------------------------------------------------------
    def alive(self, number: int) -> bool:
        """True for a position that was seen with a size other than 0."""
        position = self.kinds[Kind.POSITION]
        return number > 0 and position.I[number][SIZE_SEEN] != NEVER and position.F[number][SIZE_SLOT] != 0.0

    def want(self, listed: str) -> list[list[int]]:
        """The member list `<set>_of_<kind>`, indexed by the row of `kind`; the same object for the life of the engine."""
        if listed not in self.members:
            self.members[listed] = []
            self._fill(listed)
        return self.members[listed]

    def refill(self) -> None:
        """Bring every member list up to date."""
        for listed in self.members:
            self._fill(listed)

    def _fill(self, listed: str) -> None:
        members, _, of = listed.partition("_of_")
        kind = Kind(of)
        self.members[listed][:] = [self.of(members, kind, number) for number in range(len(self.kinds[kind].ids))]

    def of(self, members: str, kind: Kind, number: int) -> list[int]:
        """The rows of a set as seen from a row of `kind`, in order of appearance; none from the void."""
        if number == 0:
            return []
        match members:
            case "peers":
                market = self.kinds[Kind.MARKET]
                symbol = market.ids[number].partition(":")[2]
                return [i for i in range(1, len(market.ids)) if i != number and market.ids[i].partition(":")[2] == symbol]
            case "positions":
                return [i for i in self._linked(Kind.POSITION, kind, number) if self.alive(i)]
            case "markets":
                return list(self._linked(Kind.MARKET, kind, number))
            case "accounts":
                return list(self._linked(Kind.ACCOUNT, kind, number))
            case _:
                target = {"chains": Kind.CHAIN, "routes": Kind.ROUTE, "venues": Kind.VENUE, "buckets": Kind.BUCKET}[members]
                return list(range(1, len(self.kinds[target].ids)))

    def _linked(self, members: Kind, kind: Kind, number: int) -> Iterable[int]:
        """Rows of `members` that link to row `number` of `kind`; all of them from a kind they do not belong to."""
        arena = self.kinds[members]
        belongs = {Kind.POSITION: ("market", "account", "venue", "bucket"), Kind.MARKET: ("venue",), Kind.ACCOUNT: ("venue", "bucket")}[
            members
        ]
        if kind.value not in belongs:
            return range(1, len(arena.ids))
        cell = LINKS[kind.value]
        return (i for i in range(1, len(arena.ids)) if arena.I[i][cell] == number)
