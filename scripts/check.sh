#!/bin/sh
# Lint, format, types, borders, protos, and that gen/ is what the protos give. Run by `make check`.

set -eu
cd "$(dirname "$0")/.."

BIN=$(pwd)/.venv/bin
BUF=$(pwd)/.tools/venv/bin/buf
FAILED=''

# check NAME COMMAND...: runs one check; the others run on when it fails.
check() {
  name=$1
  shift
  if output=$("$@" 2>&1); then
    printf 'ok      %s\n' "$name"
  else
    printf 'FAILED  %s\n%s\n' "$name" "$output"
    FAILED="$FAILED $name"
  fi
}

# Generates aside, so that gen/ is whole for whoever uses it meanwhile.
regenerate() {
  rm -rf build/regenerated
  mkdir -p build/regenerated/scripts build/regenerated/.tools
  cp -R proto build/regenerated/proto
  cp scripts/gen.py build/regenerated/scripts/gen.py
  ln -s "$(pwd)/.tools/wheels" build/regenerated/.tools/wheels
  PATH="$BIN:$PATH" "$BIN/python" build/regenerated/scripts/gen.py || return 1
  rm -rf build/protos
  cp -R build/regenerated/build/protos build/protos
  if ! diff -r -q -x __pycache__ gen build/regenerated/gen; then
    echo "gen/ is not what the protos give. Run: make gen"
    return 1
  fi
  types=services/provisioner/redoma_provisioner/edge/envoy_types.binpb
  if ! cmp "$types" "build/regenerated/$types"; then
    echo "$types is not what Envoy's protos give. Run: make gen"
    return 1
  fi
}

# The commit whose protos must not be broken: where this branch left main, or the commit before when this is main itself.
base_commit() {
  git rev-parse --verify --quiet HEAD >/dev/null 2>&1 || return 0
  for main in origin/main main; do
    if git rev-parse --verify --quiet "$main" >/dev/null; then
      base=$(git merge-base HEAD "$main" || true)
      break
    fi
  done
  base=${base:-$(git rev-parse HEAD)}
  if [ "$base" = "$(git rev-parse HEAD)" ] && git diff --quiet HEAD -- proto; then
    base=$(git rev-parse --verify --quiet HEAD~1 || true)
  fi
  if [ -n "$base" ] && [ -n "$(git ls-tree -r --name-only "$base" -- proto)" ]; then
    echo "$base"
  fi
}

breaking() {
  rm -rf build/against
  mkdir -p build/against/build
  git archive "$1" proto buf.yaml | tar -x -C build/against
  cp -R build/protos build/against/build/protos
  "$BUF" breaking --against build/against
}

sources() {
  for directory in services/*/redoma_* cli/redoma_cli; do
    [ -d "$directory" ] && printf '%s ' "$directory"
  done
}

check "ruff check" "$BIN/ruff" check .
check "ruff format" "$BIN/ruff" format --check .
# shellcheck disable=SC2046  # a list of directories
check "mypy --strict" "$BIN/mypy" --strict $(sources)
check "lint-imports" "$BIN/lint-imports"
check "gen is current" regenerate
check "buf lint" "$BUF" lint
base=$(base_commit)
if [ -n "$base" ]; then
  check "buf breaking against $(git rev-parse --short "$base")" breaking "$base"
else
  echo "skipped buf breaking: no earlier commit has protos"
fi

if [ -n "$FAILED" ]; then
  echo "make check failed:$FAILED" >&2
  exit 1
fi
