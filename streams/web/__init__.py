"""HTTP over the stored twins."""
