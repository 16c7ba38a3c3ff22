"""Emitted text to LLVM's intermediate form (floor 5): the few forms of Python that generated programs and kernels are made of.

    module = lower(sources, "run", {"lo": "i", "AT": "I1", ...})        # llvmlite.ir.Module with one external function

Values are int64 `i`, float64 `f` and truth `b`; arrays `I1 I2 I3 F1 F2 F3` (element and dimensions, C order, the last dimension dense).
Python's meaning is kept where it differs from the machine's: `/` is a float's, `%` and `//` of ints take the divisor's sign, a
conditional expression with array look-ups by a loop's counter is lazy. No index wraps around, no division traps. Every operation is
the IEEE one in the order written: nothing is contracted or reordered, so results equal the plain execution's to the last bit.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llvmlite import ir

I64, F64, I1 = ir.IntType(64), ir.DoubleType(), ir.IntType(1)
SCALARS: Mapping[str, ir.Type] = {"i": I64, "f": F64, "b": I1}
EXTERNALS = {"log": "reefd_log"}  # what comes from the C library
OUTLINED = frozenset({"trigger", "extreme", "order", "slope", "volatility", "halved", "horizon"})  # called seldom, or long
LOCALS = {"local_floats": "F1", "local_ints": "I1"}  # arrays that a function keeps to itself
CHEAP = frozenset({"sqrt", "float", "finite", "elapsed"})  # calls that may be made in vain
UNKNOWN = "?"

Type = str | tuple[str, ...]  # a scalar's or an array's code, or those of a tuple


@dataclass(frozen=True, slots=True)
class _Rows:
    """An array at run time: its first cell, and how many cells apart the members of each dimension but the last stand."""

    code: str
    pointer: ir.Value
    strides: tuple[ir.Value, ...]


_Value = Any  # an ir.Value, or _Rows: llvmlite has no types


class Unlowered(Exception):
    """A form of Python that this page does not know: a mistake of ours."""


def lower(source: str, entry: str, parameters: Mapping[str, str], symbol: str) -> ir.Module:
    """The module of a text whose function `entry` takes `parameters`. What is seen from outside is `symbol`, which takes them packed
    into one int64 array (`packed`) and returns an int64."""
    functions = {node.name: node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)}
    constants: dict[str, int | float] = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            constants[node.targets[0].id] = _constant(node.value)
    module = ir.Module(name=entry)
    program = _Program(module, functions, constants)
    node = functions[entry]
    types = tuple(parameters[argument.arg] for argument in node.args.args)
    made, returned = program.function(entry, types, outer=True)
    outside = ir.Function(module, ir.FunctionType(I64, [I64.as_pointer()]), symbol)
    builder = ir.IRBuilder(outside.append_basic_block("entry"))
    passed: list[ir.Value] = []
    for argument in made.args:
        cell = builder.load(builder.gep(outside.args[0], [ir.Constant(I64, len(passed))]))
        if isinstance(argument.type, ir.PointerType):
            passed.append(builder.inttoptr(cell, argument.type))
        else:
            passed.append(cell if argument.type == I64 else builder.bitcast(cell, F64))
    found = builder.call(made, passed)
    if isinstance(returned, tuple):
        # Several values are put behind the parameters.
        for j, code in enumerate(returned):
            part = builder.extract_value(found, j)
            cell = builder.gep(outside.args[0], [ir.Constant(I64, len(passed) + j)])
            builder.store(builder.bitcast(part, I64) if code == "f" else part, cell)
    builder.ret(ir.Constant(I64, 0) if isinstance(returned, tuple) else found)
    return module


def packed(parameters: Mapping[str, str]) -> dict[str, int]:
    """Where each parameter stands in the packed array; an array's strides, in cells, follow its address."""
    places: dict[str, int] = {}
    place = 0
    for name, code in parameters.items():
        places[name] = place
        place += 1 if code in SCALARS else int(code[1])
    return places


def _constant(node: ast.expr) -> int | float:
    if isinstance(node, ast.Call):  # float("nan")
        assert isinstance(node.args[0], ast.Constant)
        return float(str(node.args[0].value))
    found = ast.literal_eval(node)
    assert isinstance(found, int | float)
    return found


class _Program:
    """The functions of one module, each lowered once for the types it is called with."""

    def __init__(self, module: ir.Module, functions: Mapping[str, ast.FunctionDef], constants: Mapping[str, int | float]) -> None:
        self.module = module
        self.functions = functions
        self.constants = constants
        self.made: dict[tuple[str, tuple[str, ...]], tuple[ir.Function, Type]] = {}
        self.inferred: dict[tuple[str, tuple[str, ...]], tuple[dict[str, str], Type]] = {}

    def types_of(self, name: str, types: tuple[str, ...]) -> tuple[dict[str, str], Type]:
        """(types of the variables, type returned) of a function called with arguments of `types`."""
        key = (name, types)
        if key not in self.inferred:
            self.inferred[key] = _Inference(self, self.functions[name], types).run()
        return self.inferred[key]

    def function(self, name: str, types: tuple[str, ...], outer: bool = False) -> tuple[ir.Function, Type]:
        """The lowered function and what it returns."""
        key = (name, types)
        if key not in self.made:
            variables, returned = self.types_of(name, types)
            arguments: list[ir.Type] = []
            for code in types:
                arguments += [SCALARS[code]] if code in SCALARS else [_element(code).as_pointer(), *[I64] * (int(code[1]) - 1)]
            kind = ir.FunctionType(_llvm(returned), arguments)
            made = ir.Function(self.module, kind, f"{name}.{len(self.made)}")
            made.linkage = "internal"
            if name not in OUTLINED and not outer:
                made.attributes.add("alwaysinline")
            made.attributes.add("nounwind")
            for argument in made.args:
                if isinstance(argument.type, ir.PointerType) and outer:
                    argument.add_attribute("noalias")
            self.made[key] = (made, returned)
            _Lowering(self, self.functions[name], made, types, variables, returned).run()
        return self.made[key]

    def external(self, name: str) -> ir.Function:
        """A function of the C library of one float."""
        symbol = EXTERNALS[name]
        if symbol in self.module.globals:
            return self.module.globals[symbol]
        return ir.Function(self.module, ir.FunctionType(F64, [F64]), symbol)

    def intrinsic(self, name: str) -> ir.Function:
        """An LLVM function of one float: `llvm.sqrt`."""
        return self.module.declare_intrinsic(f"llvm.{name}", [F64])


def _element(code: str) -> ir.Type:
    return I64 if code[0] == "I" else F64


def _llvm(code: Type) -> ir.Type:
    if isinstance(code, tuple):
        return ir.LiteralStructType([SCALARS[part] for part in code]) if code else ir.VoidType()
    return SCALARS[code]


def _join(a: str, b: str) -> str:
    if UNKNOWN in (a, b):
        return a if b == UNKNOWN else b
    if a == b:
        return a
    assert a in SCALARS, f"{a} and {b}"
    return "f" if "f" in (a, b) else "i"


class _Inference:
    """Types of one function's variables, to a fixed point."""

    def __init__(self, program: _Program, node: ast.FunctionDef, types: tuple[str, ...]) -> None:
        self.program = program
        self.node = node
        self.variables = {argument.arg: code for argument, code in zip(node.args.args, types, strict=True)}
        self.returned: Type = ()

    def run(self) -> tuple[dict[str, str], Type]:
        for _ in range(20):
            before = dict(self.variables), self.returned
            self.block(self.node.body)
            if before == (self.variables, self.returned):
                return self.variables, self.returned
        raise Unlowered(f"the types of {self.node.name} do not settle")

    def block(self, body: Sequence[ast.stmt]) -> None:
        for node in body:
            self.statement(node)

    def statement(self, node: ast.stmt) -> None:
        match node:
            case ast.Assign(targets=targets, value=value):
                for target in targets:
                    self.assign(target, value)
            case ast.AugAssign(target=ast.Name(id=name), op=op, value=value):
                before = self.variables.get(name, UNKNOWN)
                self.variables[name] = _join(before, self.operation(op, before, self.of(value)))
            case ast.If(body=body, orelse=orelse):
                self.block(body)
                self.block(orelse)
            case ast.While(body=body):
                self.block(body)
            case ast.For(target=target, iter=ast.Call(), body=body):
                assert isinstance(target, ast.Name)
                self.variables[target.id] = "i"
                self.block(body)
            case ast.For(target=ast.Tuple(elts=names), iter=ast.Tuple(elts=items), body=body):
                for item in items:
                    assert isinstance(item, ast.Tuple)
                    for place, part in zip(names, item.elts, strict=True):
                        self.assign(place, part)
                self.block(body)
            case ast.Return(value=ast.Tuple(elts=parts)):
                codes = tuple(self.scalar(part) for part in parts)
                self.returned = tuple(map(_join, self.returned, codes)) if self.returned else codes
            case ast.Return(value=value) if value is not None:
                code = self.scalar(value)
                self.returned = _join(self.returned, code) if isinstance(self.returned, str) else code
            case _:
                pass

    def assign(self, target: ast.expr, value: ast.expr) -> None:
        match target:
            case ast.Name(id=name):
                found = self.of(value)
                assert isinstance(found, str)
                self.variables[name] = _join(self.variables.get(name, UNKNOWN), found)
            case ast.Tuple(elts=names):
                if isinstance(value, ast.Tuple):
                    codes: Sequence[Type] = [self.of(part) for part in value.elts]
                else:
                    found = self.of(value)
                    codes = found if isinstance(found, tuple) else [UNKNOWN] * len(names)
                for place, code in zip(names, codes, strict=True):
                    if isinstance(place, ast.Name):
                        assert isinstance(code, str)
                        self.variables[place.id] = _join(self.variables.get(place.id, UNKNOWN), code)
            case _:
                pass

    def scalar(self, node: ast.expr) -> str:
        found = self.of(node)
        assert isinstance(found, str)
        return found

    def operation(self, op: ast.operator, a: Type, b: Type) -> str:
        assert isinstance(a, str)
        assert isinstance(b, str)
        if isinstance(op, ast.Div):
            return "f"
        return "i" if (a, b) == ("b", "b") else _join(a, b)

    def of(self, node: ast.expr) -> Type:
        match node:
            case ast.Constant(value=bool()):
                return "b"
            case ast.Constant(value=int()):
                return "i"
            case ast.Constant(value=float()):
                return "f"
            case ast.Name(id=name):
                if name in self.program.constants:
                    return "f" if isinstance(self.program.constants[name], float) else "i"
                return self.variables.get(name, UNKNOWN)
            case ast.BinOp(left=left, op=op, right=right):
                return self.operation(op, self.of(left), self.of(right))
            case ast.UnaryOp(op=ast.Not()) | ast.Compare() | ast.BoolOp():
                return "b"
            case ast.UnaryOp(operand=operand):
                return self.of(operand)
            case ast.IfExp(body=body, orelse=orelse):
                return _join(self.scalar(body), self.scalar(orelse))
            case ast.Subscript(value=value, slice=index):
                array = self.scalar(value)
                if array == UNKNOWN:
                    return UNKNOWN
                rest = int(array[1]) - (len(index.elts) if isinstance(index, ast.Tuple) else 1)
                return f"{array[0]}{rest}" if rest else ("i" if array[0] == "I" else "f")
            case ast.Call(func=ast.Name(id=name), args=arguments):
                if name in LOCALS:
                    return LOCALS[name]
                if name in ("int", "floor"):
                    return "i"
                if name in ("sqrt", "log", "float"):
                    return "f"
                if name == "abs":
                    return self.of(arguments[0])
                codes = tuple(self.scalar(argument) for argument in arguments)
                return UNKNOWN if UNKNOWN in codes else self.program.types_of(name, codes)[1]
            case _:
                raise Unlowered(ast.dump(node))


class _Lowering:
    """Instructions of one function."""

    def __init__(
        self,
        program: _Program,
        node: ast.FunctionDef,
        made: ir.Function,
        types: tuple[str, ...],
        variables: Mapping[str, str],
        returned: Type,
    ) -> None:
        self.program = program
        self.node = node
        self.made = made
        self.variables = variables
        self.returned = returned
        self.entry = made.append_basic_block("entry")
        self.builder = ir.IRBuilder(made.append_basic_block("body"))
        self.slots: dict[str, ir.Value] = {}
        self.rows: dict[str, _Rows] = {}
        self.loops: list[tuple[ir.Block, ir.Block]] = []  # (where continue goes, where break goes)
        self.counters: set[str] = set()  # names that walk over rows and may stand one past them
        self.inference = _Inference(program, node, types)
        self.inference.variables = dict(variables)
        builder = ir.IRBuilder(self.entry)
        values = iter(made.args)
        for argument, code in zip(node.args.args, types, strict=True):
            if code in SCALARS:
                self.slots[argument.arg] = builder.alloca(SCALARS[variables[argument.arg]])
                builder.store(self._as(next(values), code, variables[argument.arg], builder), self.slots[argument.arg])
            else:
                pointer = next(values)
                self.rows[argument.arg] = _Rows(code, pointer, tuple(next(values) for _ in range(int(code[1]) - 1)))
        for name, code in variables.items():
            if name not in self.slots and code in SCALARS:
                self.slots[name] = builder.alloca(SCALARS[code])

    def run(self) -> None:
        self.block(self.node.body)
        if not self.builder.block.is_terminated:
            if self.returned == ():
                self.builder.ret_void()
            else:
                self.builder.unreachable()
        ir.IRBuilder(self.entry).branch(self.made.blocks[1])

    # --- statements -----------------------------------------------------------------------------------------------------
    def block(self, body: Sequence[ast.stmt]) -> None:
        for node in body:
            if self.builder.block.is_terminated:
                return
            self.statement(node)

    def statement(self, node: ast.stmt) -> None:
        match node:
            case ast.Assign(targets=targets, value=ast.Tuple(elts=parts)):
                values = [self.value(part) for part in parts]
                (target,) = targets
                assert isinstance(target, ast.Tuple)
                for name, (value, code) in zip(target.elts, values, strict=True):
                    self.store(name, value, code)
            case ast.Assign(targets=[ast.Tuple(elts=names)], value=value):
                found, codes = self.value(value)
                assert isinstance(codes, tuple)
                for j, name in enumerate(names):
                    self.store(name, self.builder.extract_value(found, j), codes[j])
            case ast.Assign(targets=targets, value=value):
                found, code = self.value(value)
                for target in targets:
                    self.store(target, found, code)
            case ast.AugAssign(target=target, op=op, value=value):
                left, a = self.value(target)
                right, b = self.value(value)
                self.store(target, *self.operation(op, left, a, right, b))
            case ast.If(test=test, body=[ast.Assign(targets=[ast.Name()], value=value) as only], orelse=[]) if not self.lazy(value):
                # One cheap assignment is a choice, not a branch: loops of these become vector instructions.
                self.statement(ast.Assign(targets=only.targets, value=ast.IfExp(test=test, body=value, orelse=only.targets[0])))
            case ast.If(test=test, body=body, orelse=orelse):
                self.branch(test, body, orelse)
            case ast.While(test=test, body=body):
                self.loop_while(test, body)
            case ast.For(target=ast.Name(id=name), iter=ast.Call(func=ast.Name(id="range"), args=bounds), body=body):
                self.loop_range(name, bounds, body)
            case ast.For(target=ast.Tuple(elts=names), iter=ast.Tuple(elts=items), body=body):
                for item in items:
                    assert isinstance(item, ast.Tuple)
                    for target, part in zip(names, item.elts, strict=True):
                        self.store(target, *self.value(part))
                    self.block(body)
            case ast.Return(value=None):
                self.builder.ret_void()
            case ast.Return(value=ast.Tuple(elts=parts)):
                assert isinstance(self.returned, tuple)
                whole: ir.Value = ir.Constant(_llvm(self.returned), ir.Undefined)
                for j, part in enumerate(parts):
                    whole = self.builder.insert_value(whole, self._as(*self.scalar(part), self.returned[j]), j)
                self.builder.ret(whole)
            case ast.Return(value=value) if value is not None:
                assert isinstance(self.returned, str)
                self.builder.ret(self._as(*self.scalar(value), self.returned))
            case ast.Break():
                self.builder.branch(self.loops[-1][1])
            case ast.Continue():
                self.builder.branch(self.loops[-1][0])
            case ast.Expr(value=ast.Constant()) | ast.Pass():
                pass
            case ast.Expr(value=value):
                self.value(value)
            case _:
                raise Unlowered(ast.dump(node))

    def store(self, target: ast.expr, value: _Value, code: Type) -> None:
        match target:
            case ast.Name(id=name):
                if isinstance(value, _Rows):
                    self.rows[name] = value
                else:
                    assert isinstance(code, str)
                    self.builder.store(self._as(value, code, self.variables[name]), self.slots[name])
            case ast.Subscript():
                assert isinstance(code, str)
                assert not isinstance(value, _Rows)
                pointer, element = self.cell(target)
                self.builder.store(self._as(value, code, element), pointer)
            case _:
                raise Unlowered(ast.dump(target))

    def branch(self, test: ast.expr, body: Sequence[ast.stmt], orelse: Sequence[ast.stmt]) -> None:
        yes, no, after = (self.made.append_basic_block(name) for name in ("then", "else", "after"))
        self.jump(test, yes, no)
        for block, statements in ((yes, body), (no, orelse)):
            self.builder.position_at_end(block)
            self.block(statements)
            if not self.builder.block.is_terminated:
                self.builder.branch(after)
        self.builder.position_at_end(after)

    def jump(self, test: ast.expr, yes: ir.Block, no: ir.Block) -> None:
        """Goes to one of two blocks; `and` and `or` look no further than they must."""
        match test:
            case ast.BoolOp(op=op, values=values):
                for part in values[:-1]:
                    further = self.made.append_basic_block("further")
                    self.jump(part, *((further, no) if isinstance(op, ast.And) else (yes, further)))
                    self.builder.position_at_end(further)
                self.jump(values[-1], yes, no)
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                self.jump(operand, no, yes)
            case _:
                self.builder.cbranch(self._as(*self.scalar(test), "b"), yes, no)

    def loop_while(self, test: ast.expr, body: Sequence[ast.stmt]) -> None:
        head, inside, after = (self.made.append_basic_block(name) for name in ("while", "do", "done"))
        self.builder.branch(head)
        self.builder.position_at_end(head)
        self.jump(test, inside, after)
        self.loops.append((head, after))
        self.builder.position_at_end(inside)
        self.block(body)
        if not self.builder.block.is_terminated:
            self.builder.branch(head)
        self.loops.pop()
        self.builder.position_at_end(after)

    def loop_range(self, name: str, bounds: Sequence[ast.expr], body: Sequence[ast.stmt]) -> None:
        values = [self._as(*self.scalar(bound), "i") for bound in bounds]
        first, last = (ir.Constant(I64, 0), values[0]) if len(values) == 1 else (values[0], values[1])
        down = len(bounds) == 3  # the only step is -1
        head, inside, following, after = (self.made.append_basic_block(label) for label in ("for", "do", "next", "done"))
        before = self.builder.block
        self.builder.branch(head)
        self.builder.position_at_end(head)
        counter = self.builder.phi(I64)
        counter.add_incoming(first, before)
        self.builder.cbranch(self.builder.icmp_signed(">" if down else "<", counter, last), inside, after)
        self.builder.position_at_end(inside)
        self.builder.store(counter, self.slots[name])
        self.loops.append((following, after))
        self.block(body)
        if not self.builder.block.is_terminated:
            self.builder.branch(following)
        self.loops.pop()
        self.builder.position_at_end(following)
        step = self.builder.add(counter, ir.Constant(I64, -1 if down else 1), flags=["nsw"])
        counter.add_incoming(step, following)
        self.builder.branch(head)
        self.builder.position_at_end(after)

    # --- expressions ------------------------------------------------------------------------------------------------------
    def scalar(self, node: ast.expr) -> tuple[ir.Value, str]:
        found, code = self.value(node)
        assert isinstance(code, str)
        return found, code

    def value(self, node: ast.expr) -> tuple[_Value, Type]:
        match node:
            case ast.Constant(value=bool(value)):
                return ir.Constant(I1, int(value)), "b"
            case ast.Constant(value=int(value)):
                return ir.Constant(I64, value), "i"
            case ast.Constant(value=float(value)):
                return ir.Constant(F64, value), "f"
            case ast.Name(id=name):
                return self.name(name)
            case ast.BinOp(left=left, op=op, right=right):
                a, b = self.scalar(left), self.scalar(right)
                return self.operation(op, *a, *b)
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                found, code = self.scalar(operand)
                if code == "f":
                    return self.builder.fneg(found), "f"
                return self.builder.neg(self._as(found, code, "i")), "i"
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return self.builder.not_(self._as(*self.scalar(operand), "b")), "b"
            case ast.Compare():
                return self.compare(node), "b"
            case ast.BoolOp(op=op, values=values):
                return self.logic(op, values), "b"
            case ast.IfExp():
                return self.choice(node)
            case ast.Subscript():
                return self.look_up(node)
            case ast.Call(func=ast.Name(id=name), args=arguments):
                return self.call(name, arguments)
            case _:
                raise Unlowered(ast.dump(node))

    def name(self, name: str) -> tuple[_Value, Type]:
        if name in self.rows:
            return self.rows[name], self.rows[name].code
        if name in self.program.constants:
            constant = self.program.constants[name]
            return (ir.Constant(F64, constant), "f") if isinstance(constant, float) else (ir.Constant(I64, constant), "i")
        return self.builder.load(self.slots[name]), self.variables[name]

    def operation(self, op: ast.operator, left: _Value, a: Type, right: _Value, b: Type) -> tuple[ir.Value, str]:
        assert isinstance(a, str)
        assert isinstance(b, str)
        code = self.inference.operation(op, a, b)
        x, y = self._as(left, a, code), self._as(right, b, code)
        build = self.builder
        if code == "f":
            match op:
                case ast.Add():
                    return build.fadd(x, y), "f"
                case ast.Sub():
                    return build.fsub(x, y), "f"
                case ast.Mult():
                    return build.fmul(x, y), "f"
                case ast.Div():
                    return build.fdiv(x, y), "f"
        match op:
            case ast.Add():
                return build.add(x, y), "i"
            case ast.Sub():
                return build.sub(x, y), "i"
            case ast.Mult():
                return build.mul(x, y), "i"
            case ast.BitAnd():
                return build.and_(x, y), "i"
            case ast.BitOr():
                return build.or_(x, y), "i"
            case ast.RShift():
                return build.ashr(x, y), "i"
            case ast.FloorDiv() | ast.Mod():
                rest = build.srem(x, y)
                zero = ir.Constant(I64, 0)
                wrong = build.and_(build.icmp_signed("!=", rest, zero), build.icmp_signed("<", build.xor(rest, y), zero))
                if isinstance(op, ast.Mod):
                    return build.add(rest, build.select(wrong, y, zero)), "i"
                return build.sub(build.sdiv(x, y), build.zext(wrong, I64)), "i"
        raise Unlowered(f"{type(op).__name__} of {a} and {b}")

    def compare(self, node: ast.Compare) -> ir.Value:
        left, a = self.scalar(node.left)
        found: ir.Value | None = None
        for op, comparator in zip(node.ops, node.comparators, strict=True):
            right, b = self.scalar(comparator)
            sign = {ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "==", ast.NotEq: "!="}[type(op)]
            code = "f" if "f" in (a, b) else "i"
            x, y = self._as(left, a, code), self._as(right, b, code)
            if code == "i":
                verdict = self.builder.icmp_signed(sign, x, y)
            elif sign == "!=":
                verdict = self.builder.fcmp_unordered(sign, x, y)  # NaN differs from everything
            else:
                verdict = self.builder.fcmp_ordered(sign, x, y)
            found = verdict if found is None else self.builder.and_(found, verdict)
            left, a = right, b
        assert found is not None
        return found

    def logic(self, op: ast.boolop, values: Sequence[ast.expr]) -> ir.Value:
        if not any(self.lazy(part) for part in values):
            found = self._as(*self.scalar(values[0]), "b")
            for part in values[1:]:
                other = self._as(*self.scalar(part), "b")
                found = self.builder.and_(found, other) if isinstance(op, ast.And) else self.builder.or_(found, other)
            return found
        yes, no, after = (self.made.append_basic_block(name) for name in ("yes", "no", "after"))
        self.jump(ast.BoolOp(op=op, values=list(values)), yes, no)
        for block in (yes, no):
            self.builder.position_at_end(block)
            self.builder.branch(after)
        self.builder.position_at_end(after)
        found = self.builder.phi(I1)
        found.add_incoming(ir.Constant(I1, 1), yes)
        found.add_incoming(ir.Constant(I1, 0), no)
        return found

    def lazy(self, node: ast.expr) -> bool:
        """True for what must not be computed in vain: a look-up by a computed place may lie outside, a call may be long."""
        for inner in ast.walk(node):
            if isinstance(inner, ast.Subscript) and not _safe(inner.slice):
                return True
            if isinstance(inner, ast.Call) and not (isinstance(inner.func, ast.Name) and inner.func.id in CHEAP):
                return True
        return False

    def choice(self, node: ast.IfExp) -> tuple[ir.Value, str]:
        code = self.inference.scalar(node)
        if not self.lazy(node.body) and not self.lazy(node.orelse):
            test = self._as(*self.scalar(node.test), "b")
            body, orelse = self._as(*self.scalar(node.body), code), self._as(*self.scalar(node.orelse), code)
            return self.builder.select(test, body, orelse), code
        yes, no, after = (self.made.append_basic_block(name) for name in ("yes", "no", "after"))
        self.jump(node.test, yes, no)
        incoming = []
        for block, part in ((yes, node.body), (no, node.orelse)):
            self.builder.position_at_end(block)
            found = self._as(*self.scalar(part), code)
            incoming.append((found, self.builder.block))
            self.builder.branch(after)
        self.builder.position_at_end(after)
        chosen = self.builder.phi(SCALARS[code])
        for found, block in incoming:
            chosen.add_incoming(found, block)
        return chosen, code

    def cell(self, node: ast.Subscript) -> tuple[ir.Value, str]:
        """(pointer to the cell, its type)."""
        rows, _ = self.value(node.value)
        assert isinstance(rows, _Rows)
        indices = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        assert len(indices) == int(rows.code[1]), ast.unparse(node)
        where: ir.Value = ir.Constant(I64, 0)
        for j, index in enumerate(indices):
            at = self._as(*self.scalar(index), "i")
            where = self.builder.add(where, self.builder.mul(at, rows.strides[j]) if j < len(rows.strides) else at)
        return self.builder.gep(rows.pointer, [where]), "i" if rows.code[0] == "I" else "f"

    def look_up(self, node: ast.Subscript) -> tuple[_Value, Type]:
        rows, _ = self.value(node.value)
        assert isinstance(rows, _Rows)
        indices = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        left = int(rows.code[1]) - len(indices)
        if left == 0:
            pointer, code = self.cell(node)
            return self.builder.load(pointer), code
        assert len(indices) == 1
        at = self._as(*self.scalar(indices[0]), "i")
        pointer = self.builder.gep(rows.pointer, [self.builder.mul(at, rows.strides[0])])
        return _Rows(f"{rows.code[0]}{left}", pointer, rows.strides[1:]), f"{rows.code[0]}{left}"

    def call(self, name: str, arguments: Sequence[ast.expr]) -> tuple[ir.Value, Type]:
        if name in LOCALS:
            return self.local(LOCALS[name], arguments[0]), LOCALS[name]
        values = [self.value(argument) for argument in arguments]
        if name in ("int", "floor", "float", "sqrt", "log", "abs"):
            return self.arithmetic(name, *values[0])
        codes = tuple(code for _, code in values if isinstance(code, str))
        function, returned = self.program.function(name, codes)
        passed: list[ir.Value] = []
        for value, _ in values:
            passed += [value.pointer, *value.strides] if isinstance(value, _Rows) else [value]
        return self.builder.call(function, passed), returned

    def local(self, code: str, length: ast.expr) -> _Rows:
        """An array of the function's own, of a length known here."""
        assert isinstance(length, ast.Constant)
        assert isinstance(length.value, int)
        room = ir.IRBuilder(self.entry).alloca(_element(code), length.value)
        return _Rows(code, room, ())

    def arithmetic(self, name: str, value: _Value, code: Type) -> tuple[ir.Value, Type]:
        assert isinstance(code, str)
        match name:
            case "abs" if code == "i":
                return self.builder.select(self.builder.icmp_signed("<", value, ir.Constant(I64, 0)), self.builder.neg(value), value), "i"
            case "abs":
                return self.builder.call(self.program.intrinsic("fabs"), [value]), "f"
            case "sqrt":
                return self.builder.call(self.program.intrinsic("sqrt"), [self._as(value, code, "f")]), "f"
            case "floor":
                return self.builder.fptosi(self.builder.call(self.program.intrinsic("floor"), [self._as(value, code, "f")]), I64), "i"
            case "int":
                return (self.builder.fptosi(value, I64) if code == "f" else self._as(value, code, "i")), "i"
            case "float":
                return self._as(value, code, "f"), "f"
            case _:
                return self.builder.call(self.program.external(name), [self._as(value, code, "f")]), "f"

    def _as(self, value: _Value, code: Type, wanted: str, builder: ir.IRBuilder | None = None) -> ir.Value:
        """A scalar as another type."""
        build = builder or self.builder
        assert not isinstance(value, _Rows)
        match code, wanted:
            case _ if code == wanted:
                return value
            case "i", "f":
                return build.sitofp(value, F64)
            case "b", "i":
                return build.zext(value, I64)
            case "b", "f":
                return build.uitofp(value, F64)
            case "i", "b":
                return build.icmp_signed("!=", value, ir.Constant(I64, 0))
            case "f", "b":
                return build.fcmp_unordered("!=", value, ir.Constant(F64, 0.0))
            case _:
                raise Unlowered(f"{code} as {wanted}")


def _safe(index: ast.expr) -> bool:
    """True for places that are always inside: constants, and `u`, a row that is there."""
    match index:
        case ast.Constant():
            return True
        case ast.Name(id="u"):
            return True
        case ast.Subscript(value=ast.Name(id=name)) if name in "KNB":
            return True
        case ast.Tuple(elts=parts):
            return all(_safe(part) or isinstance(part, ast.Name) for part in parts)
        case _:
            return False
