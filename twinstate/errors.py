"""Every error the twin raises on purpose.

TwinError
├── LibraryError       a drug or signal file breaks a rule of form or meaning
├── UnitError          a unit the analyte's allow-list does not have
├── CovariateError     a model needs a covariate nobody has sent
│   └── ModelError     a model lacks a value of its own, so nothing can be estimated with it
└── MathsError         a deterministic failure of the arithmetic: the twin is quarantined
"""

from __future__ import annotations


class TwinError(Exception):
    """Root of the tree above; its text is one sentence a person can act on."""


class LibraryError(TwinError):
    """A file under `config/` breaks a rule; the text names file, key, value, rule and way out."""


class UnitError(TwinError):
    """A unit that the allow-list of this analyte or covariate does not have."""


class CovariateError(TwinError):
    """The model needs a covariate that no accepted record has given."""


class ModelError(CovariateError):
    """A value of the model itself is unknown: its twins stay pending until its file has one."""


class MathsError(TwinError):
    """Deterministic failure of one patient's arithmetic: never time, never memory."""


# What the machine lacks for a moment says nothing of a patient: it ends the worker, and the record is read again.
OF_THE_MACHINE = (MemoryError, OSError, EOFError, ImportError, ReferenceError, SystemError)
