"""From the files under `config/` to checked models: form, units, meaning. `library.py` opens the files."""
