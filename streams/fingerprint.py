"""One name for everything that could change a bit of a stored twin."""

from __future__ import annotations

import functools
import hashlib
import sys
from importlib.metadata import version
from pathlib import Path

import numba
import numpy as np

import twinstate
from twinstate.library import Library


@functools.lru_cache(maxsize=1)
def _machine() -> str:
    """Code, interpreter, array library, compiler and processor."""
    digest = hashlib.sha256()
    root = Path(twinstate.__file__).parent
    for path in sorted(p for p in root.rglob("*") if p.suffix in (".py", ".npy")):
        digest.update(path.relative_to(root).as_posix().encode())
        digest.update(path.read_bytes())
    parts = (
        digest.hexdigest(),
        ".".join(map(str, sys.version_info[:3])),
        np.__version__,
        numba.__version__,
        version("llvmlite"),
        numba.core.config.CPU_NAME or _host_cpu(),
    )
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _host_cpu() -> str:
    import llvmlite.binding as llvm

    return f"{llvm.get_host_cpu_name()} {llvm.get_host_cpu_features().flatten()}"


def fingerprint_of(library: Library) -> str:
    """Hash of code, library, Python, NumPy, compiler and processor; two workers that share it share every bit."""
    return hashlib.sha256(f"{_machine()} {library.fingerprint}".encode()).hexdigest()[:32]
