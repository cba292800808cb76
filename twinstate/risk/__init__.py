"""From simulated exposure to episodes of risk."""
