"""Pharmacokinetics: structures, dosing and exact propagation of one patient's course."""
