"""What each study measures, as data."""
