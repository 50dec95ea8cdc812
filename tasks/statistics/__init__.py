"""What numbers are worth: intervals, paired comparisons, ranks. Pure functions over per-sample statistics."""
