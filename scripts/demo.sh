#!/usr/bin/env bash
# The demo: the study of the bundled family, its law, a plan for 2 MB, and the page.
set -euo pipefail
cd "$(dirname "$0")/.."
kbit=.venv/bin/kbit
start=$SECONDS
"$kbit" study family/study.yaml --store runs.db
"$kbit" law --store runs.db
"$kbit" plan --store runs.db --memory 2MB
"$kbit" report --store runs.db --out report
echo "The demo took $((SECONDS - start)) seconds. Open $PWD/report/index.html"
