"""Questions timed and measured; each file opens with its own."""
