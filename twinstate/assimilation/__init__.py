"""Kalman-type data assimilation: one step, the whole record, refinement, windows."""
