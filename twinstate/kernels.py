"""The decorator every compiled kernel wears.

Kernels stand in `pk` and `assimilation`. Compiled code is kept in a folder named after the sources of both.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import numba
from numba.core import sigutils
from numba.core.caching import FunctionCache

_P = ParamSpec("_P")
_R = TypeVar("_R")


def _kernel_cache() -> str:
    """Where compiled kernels live: a folder named after the sources of `pk` and `assimilation`, where kernels are.

    Numba looks only at the file a kernel stands in, not at the kernels it calls in other files: compiled code
    would outlive a change of those. Here a changed source makes a new folder.
    """
    package = Path(__file__).parent
    digest = hashlib.sha256()
    for source in sorted([Path(__file__), *package.glob("pk/*.py"), *package.glob("assimilation/*.py")]):
        digest.update(source.relative_to(package).as_posix().encode() + b"\0" + source.read_bytes())
    return str(package / "__pycache__" / f"kernels-{digest.hexdigest()[:16]}")


_KERNEL_CACHE = _kernel_cache()


_Kept: Any = FunctionCache  # numba has no types
_signature: Any = sigutils.normalize_signature


class _CheckedCache(_Kept):  # type: ignore[misc]
    """Numba's cache on disk, which hands out no code for arguments of another type.

    Its index names a numbered file for each signature. Two processes that compile for the first time at once may give
    one number to two signatures, or read an index whose file is yet to be written: the machine code then takes a whole
    number for a fraction without a word. What does not fit is compiled anew.
    """

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """The compiled code for these arguments; None where none is kept."""
        found = super().load_overload(sig, target_context)
        if found is not None and tuple(found.signature.args) != tuple(_signature(sig)[0]):
            return None
        return found


def _compile(function: Callable[_P, _R], **more: Any) -> Callable[_P, _R]:
    options: dict[str, Any] = {"cache": True, "nogil": True, "error_model": "numpy", **more}
    # Tests that check shapes wrap every function first; numba needs the plain one.
    plain = inspect.unwrap(function)
    settings: Any = numba.config
    elsewhere, settings.CACHE_DIR = settings.CACHE_DIR, _KERNEL_CACHE
    try:
        compiled: Any = numba.njit(**options)(plain)
        compiled._cache = _CheckedCache(plain)
    finally:
        settings.CACHE_DIR = elsewhere
    kept: Callable[_P, _R] = compiled
    return kept


def kernel(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Compile one patient's arithmetic with numba.

    Plain loops, one patient at a time: the bits of a result cannot depend on who shares its batch. `fastmath`
    and `parallel` stay off for the same reason, and the lock of the interpreter is released so that the
    worker's event loop keeps beating while a twin is refitted.
    """
    return _compile(function)


def inner_kernel(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Compile arithmetic that only fills arrays it is given: it may neither make an array nor return one.

    Numba counts the references to every array of a tuple at every call, atomically; between two doses that
    takes longer than the exponentials. What makes no array need not count.
    """
    return _compile(function, _nrt=False)


def folded_kernel(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """A kernel that becomes part of the kernel that calls it, and may make arrays where that one may.

    Handing over arrays takes longer than a step's dozen of multiplications. Python cannot call it if it makes any.
    """
    return _compile(function, _nrt=False, inline="always")
