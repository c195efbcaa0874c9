"""From rows to numbers that can be believed: intervals, paired tests, aggregates, and how they are written."""
