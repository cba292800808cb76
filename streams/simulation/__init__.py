"""Virtual patients: what is true of them, the records that tell of it, and how those arrive."""
