"""One name for everything that could change a bit of a stored twin."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import platform
import sys
from importlib.metadata import version
from pathlib import Path

import llvmlite.binding as llvm
import numba
import numpy as np

import twinstate
from twinstate.library import Library


@functools.lru_cache(maxsize=1)
def _machine() -> str:
    """Code, interpreter, array library, compiler and processor."""
    digest = hashlib.sha256()
    package = Path(twinstate.__file__).parent
    # Of the edge only what turns bytes into entries can change a twin.
    edge = [Path(__file__).with_name(name) for name in ("codec.py", "json_keys.py", "records.py")]
    for path in [*sorted(p for p in package.rglob("*") if p.suffix in (".py", ".npy")), *edge]:
        digest.update(path.relative_to(package.parent).as_posix().encode())
        digest.update(path.read_bytes())
    parts = (
        digest.hexdigest(),
        ".".join(map(str, sys.version_info[:3])),
        np.__version__,
        numba.__version__,
        version("llvmlite"),
        os.environ.get("NUMBA_CPU_NAME", ""),
        json.dumps(np.lib.introspect.opt_func_info(func_name="^(exp|sqrt)$"), sort_keys=True),
        " ".join(platform.libc_ver()),
        f"{llvm.get_host_cpu_name()} {llvm.get_host_cpu_features().flatten()}",
    )
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def fingerprint_of(library: Library) -> str:
    """Hash of code, library, Python, NumPy, compiler and processor; two workers that share it share every bit."""
    return hashlib.sha256(f"{_machine()} {library.fingerprint}".encode()).hexdigest()[:32]
