"""`medbench data download`: where native files are to be had, and fetching them whole, checked and resumable."""
