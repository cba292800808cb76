"""The oracle: what a log of records must lead to, told by the plainest program we could write.

One process, one record at a time: acceptance and events in log order with the log's append times, the final twins from
the accepted records sorted in event time. Lists and loops, nothing remembered that could be computed again. It shares
with the pipeline only what computes a number (the kernels of `twinstate.pk` and `twinstate.assimilation`, typical
parameters, folding of windows), the types that results are written in, and the decoding of one record. Acceptance,
lateness, plans, evaluation points, episodes, events and documents are written again from the semantics, so that a
mistake in the one is not a mistake in the other.
"""

from streams.oracle.run import Account, Oracle

__all__ = ["Account", "Oracle"]
