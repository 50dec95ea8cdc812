"""`report.html`: a run, or several of the same data, as one file to look through."""
