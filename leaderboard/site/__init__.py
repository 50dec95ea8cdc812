"""A folder of runs as a static site: tables to sort and filter, a page for each run, the data beside."""
