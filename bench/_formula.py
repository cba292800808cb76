"""Formulas of case files: read by Python's own parser, held to a few operations, turned into postfix programs.

Nothing is ever executed as code: a formula becomes a list of operations on numbers, and what is not on the list is
refused with its place. A program runs over NumPy arrays here, and number by number in the kernel of `_odes.py`.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

# Operations of a postfix program; NUMBER and NAME put a value on the stack.
NUMBER, NAME = 0, 1
ADD, SUBTRACT, MULTIPLY, DIVIDE, POWER, MINIMUM, MAXIMUM = 2, 3, 4, 5, 6, 7, 8
LESS, LESS_EQUAL, GREATER, GREATER_EQUAL, EQUAL, UNEQUAL, AND, OR = 9, 10, 11, 12, 13, 14, 15, 16
NEGATE, NOT, EXP, LOG, LOG10, SQRT, ABS = 17, 18, 19, 20, 21, 22, 23
CHOOSE = 24  # condition, value if true, value if false

_BINARY: dict[type[ast.operator], int] = {
    ast.Add: ADD,
    ast.Sub: SUBTRACT,
    ast.Mult: MULTIPLY,
    ast.Div: DIVIDE,
    ast.Pow: POWER,
}
_COMPARISON: dict[type[ast.cmpop], int] = {
    ast.Lt: LESS,
    ast.LtE: LESS_EQUAL,
    ast.Gt: GREATER,
    ast.GtE: GREATER_EQUAL,
    ast.Eq: EQUAL,
    ast.NotEq: UNEQUAL,
}
_FUNCTION = {"exp": EXP, "log": LOG, "ln": LOG, "log10": LOG10, "sqrt": SQRT, "abs": ABS}
_TWO_ARGUMENTS = {"min": MINIMUM, "max": MAXIMUM, "pow": POWER}
LONGEST = 4000  # characters: a formula longer than that is not one


class FormulaError(ValueError):
    """A formula with something in it that is not allowed; the text says what and what is."""


class Program(NamedTuple):
    """One formula in postfix.

    Attributes:
        operation: Codes above, (length,).
        name: Which name `NAME` puts on the stack, (length,).
        number: What `NUMBER` puts on the stack, (length,).
    """

    operation: Integers
    name: Integers
    number: Floats


def compile_formula(text: str, names: Mapping[str, int]) -> Program:
    """Turn a formula into a program.

    Args:
        text: For example "TVCL*exp(ETA_CL)*(WT/70)**0.75".
        names: What it may use, and where each stands among the values.

    Raises:
        FormulaError: An unknown name, function or kind of expression, or text that cannot be read.
    """
    if len(text) > LONGEST:
        raise FormulaError(f"is {len(text)} characters long, more than {LONGEST}")
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise FormulaError(f"cannot be read as a formula ({error})") from error
    parts: list[tuple[int, int, float]] = []
    try:
        _put(tree.body, names, parts)
    except (RecursionError, OverflowError) as error:
        raise FormulaError(f"is nested too deeply or holds too large a number ({error})") from error
    operation, name, number = zip(*parts, strict=True)
    return Program(np.array(operation, np.int64), np.array(name, np.int64), np.array(number, np.float64))


def _put(node: ast.expr, names: Mapping[str, int], parts: list[tuple[int, int, float]]) -> None:
    """Append a node's operations; its operands come first."""

    def put(*operands: ast.expr, then: int) -> None:
        for operand in operands:
            _put(operand, names, parts)
        parts.append((then, 0, 0.0))

    match node:
        case ast.Constant(value=bool() | int() | float() as value):
            parts.append((NUMBER, 0, float(value)))
        case ast.Name(id=name):
            if name not in names:
                raise FormulaError(f"uses {name}, which is none of {', '.join(names) or 'no names'}")
            parts.append((NAME, names[name], 0.0))
        case ast.BinOp(left=left, op=operator, right=right) if type(operator) in _BINARY:
            put(left, right, then=_BINARY[type(operator)])
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            _put(operand, names, parts)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            put(operand, then=NEGATE)
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            put(operand, then=NOT)
        case ast.Compare(left=left, ops=operators, comparators=others) if all(
            type(op) in _COMPARISON for op in operators
        ):
            for index, (op, right) in enumerate(zip(operators, others, strict=True)):
                put(left, right, then=_COMPARISON[type(op)])
                if index > 0:  # a < b < c
                    parts.append((AND, 0, 0.0))
                left = right
        case ast.BoolOp(op=operator, values=values):
            _put(values[0], names, parts)
            for operand in values[1:]:
                put(operand, then=AND if isinstance(operator, ast.And) else OR)
        case ast.IfExp(test=test, body=body, orelse=orelse):
            put(test, body, orelse, then=CHOOSE)
        case ast.Call(func=ast.Name(id=function), args=[argument], keywords=[]) if function in _FUNCTION:
            put(argument, then=_FUNCTION[function])
        case ast.Call(func=ast.Name(id=function), args=[first, second], keywords=[]) if (
            function in _TWO_ARGUMENTS
        ):
            put(first, second, then=_TWO_ARGUMENTS[function])
        case _:
            raise FormulaError(
                f"has '{ast.unparse(node)}' in it; allowed are numbers, names, + - * / **, comparisons, and, or, "
                f"not, a if b else c, {', '.join([*_FUNCTION, *_TWO_ARGUMENTS])}"
            )


def run(program: Program, values: Sequence[Floats | float]) -> Floats:
    """Run a program over arrays that broadcast together; what cannot be computed is NaN or infinite.

    Args:
        program: From `compile_formula`.
        values: One array a name, in the order of the names.
    """
    stack: list[Floats] = []
    with np.errstate(all="ignore"):
        for operation, name, number in zip(*(part.tolist() for part in program), strict=True):
            if operation == NUMBER:
                stack.append(np.float64(number))  # type: ignore[arg-type]
            elif operation == NAME:
                stack.append(np.asarray(values[name], dtype=np.float64))
            elif operation == CHOOSE:
                otherwise, chosen, condition = stack.pop(), stack.pop(), stack.pop()
                stack.append(np.where(condition != 0.0, chosen, otherwise))
            elif operation >= NEGATE:
                stack.append(_one(operation, stack.pop()))
            else:
                right, left = stack.pop(), stack.pop()
                stack.append(_two(operation, left, right))
    return np.asarray(stack[0], dtype=np.float64)


def _one(operation: int, value: Floats) -> Floats:
    functions = {NEGATE: np.negative, EXP: np.exp, LOG: np.log, LOG10: np.log10, SQRT: np.sqrt, ABS: np.abs}
    if operation == NOT:
        return np.asarray(value == 0.0, dtype=np.float64)
    return np.asarray(functions[operation](value))


def _two(operation: int, left: Floats, right: Floats) -> Floats:
    functions = {
        ADD: np.add,
        SUBTRACT: np.subtract,
        MULTIPLY: np.multiply,
        DIVIDE: np.divide,
        POWER: np.power,
        MINIMUM: np.minimum,
        MAXIMUM: np.maximum,
        LESS: np.less,
        LESS_EQUAL: np.less_equal,
        GREATER: np.greater,
        GREATER_EQUAL: np.greater_equal,
        EQUAL: np.equal,
        UNEQUAL: np.not_equal,
        AND: np.logical_and,
        OR: np.logical_or,
    }
    return np.asarray(functions[operation](left, right), dtype=np.float64)


# How a part of a formula hangs on the amounts: not at all, as a multiple of one of them, or in another way.
_FREE, _MULTIPLE, _OTHERWISE = 0, 1, 2


def is_multiple_of(program: Program, amount: int, first_amount: int) -> bool:
    """Whether a formula is one amount times something that neither amounts nor time change.

    Seen from its form alone: "-KA*A1" is such a multiple of A1, "A1*A1/A1" counts as none.

    Args:
        program: From `compile_formula`.
        amount: The name that may be multiplied.
        first_amount: Names from here on change with time: amounts, and time itself.
    """
    stack: list[int] = []
    for operation, name in zip(program.operation.tolist(), program.name.tolist(), strict=True):
        if operation == NUMBER:
            stack.append(_FREE)
        elif operation == NAME:
            stack.append(_MULTIPLE if name == amount else _FREE if name < first_amount else _OTHERWISE)
        elif operation == NEGATE:
            continue
        elif operation == CHOOSE:
            otherwise, chosen, condition = stack.pop(), stack.pop(), stack.pop()
            stack.append(chosen if condition == _FREE and chosen == otherwise else _OTHERWISE)
        elif operation > NEGATE:
            stack[-1] = _FREE if stack[-1] == _FREE else _OTHERWISE
        else:
            right, left = stack.pop(), stack.pop()
            stack.append(_hangs(operation, left, right))
    return stack[0] == _MULTIPLE


def _hangs(operation: int, left: int, right: int) -> int:
    """How the result of two parts hangs on the amounts."""
    if left == right == _FREE:
        return _FREE
    if operation in (ADD, SUBTRACT) and left == right:
        return left
    if operation == MULTIPLY and sorted((left, right)) == [_FREE, _MULTIPLE]:
        return _MULTIPLE
    if operation == DIVIDE and (left, right) == (_MULTIPLE, _FREE):
        return _MULTIPLE
    return _OTHERWISE
