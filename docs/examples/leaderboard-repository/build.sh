#!/bin/sh
# From submissions to a site: the same commands for a pull request, for the pages, and at home.
#   sh build.sh            all submissions
#   DATA_DIR=data sh build.sh    on prepared tasks instead of the bundled mini suite
set -eu
rm -rf build
medbench submissions submissions --output-dir build/runs ${DATA_DIR:+--data-dir "$DATA_DIR"}
medbench site build/runs --output build/site --title "${TITLE:-Our leaderboard}"
