"""What medbench measures of itself: ratios inside one run."""
