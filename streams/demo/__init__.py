"""The demo: real patients and a virtual ward through the whole pipeline."""
