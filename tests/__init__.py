"""Tests: `twinstate` and `streams` mirror the sources, `integration` has real servers, `reference` published cases."""
