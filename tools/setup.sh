#!/usr/bin/env bash
# Installs what is missing, once: tools/setup.sh run | check | test | powercut
#
#   run       .venv with shmq in it (editable) and its compiled kernels
#   check     run, and the linters and test libraries, at the versions of constraints.txt
#   test      check, and what the interop tests run against (tests/compat/setup.sh)
#   powercut  check, and FUSE with its library, and mkfs, for an ext4 on a recorded disk
#
# Debian packages are installed where they are missing and we are root or may use sudo. Takes no
# time when nothing changed: .setup/ holds, for each step, a sum of what went into it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

VENV=.venv
STAMPS=.setup
PYTHON_MIN=3.11
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 PIP_ROOT_USER_ACTION=ignore
export DEBIAN_FRONTEND=noninteractive

say() { echo "setup: $*" >&2; }
fail() {
    say "$*"
    exit 1
}

install_packages() { # PACKAGE...
    local as_root=()
    command -v apt-get >/dev/null || fail "missing: $*; install them, then start again"
    if ((EUID != 0)); then
        sudo -n true 2>/dev/null ||
            fail "missing: $*; as root: apt-get install $* (then start again)"
        as_root=(sudo -n)
    fi
    say "installing $*"
    "${as_root[@]}" apt-get update -q >&2 </dev/null
    "${as_root[@]}" apt-get install -q -y --no-install-recommends "$@" >&2 </dev/null
}

python_fits() { # PYTHON
    "$1" -c "import sys; sys.exit(sys.version_info < (${PYTHON_MIN/./, }))" 2>/dev/null
}

find_python() {
    local candidate
    for candidate in ${PYTHON:-} python3 python3.{14,13,12,11} /usr/bin/python3; do
        if command -v "$candidate" >/dev/null && python_fits "$candidate"; then
            command -v "$candidate"
            return
        fi
    done
    return 1
}

# A Python that can make virtual environments, its headers, and a compiler.
need_system() {
    local missing=() python
    python=$(find_python) || missing+=(python3 python3-venv python3-dev)
    if [[ -n $python ]]; then
        "$python" -c "import ensurepip, venv" 2>/dev/null || missing+=(python3-venv)
        [[ -f $("$python" -c "import sysconfig; print(sysconfig.get_path('include'))")/Python.h ]] ||
            missing+=(python3-dev)
    fi
    command -v "${CC:-gcc}" >/dev/null || missing+=(gcc libc6-dev)
    ((${#missing[@]} == 0)) || install_packages "${missing[@]}"
    PYTHON=$(find_python) || fail "no Python of at least $PYTHON_MIN on the PATH; name one in PYTHON"
    "$PYTHON" -c "import ensurepip, venv" ||
        fail "$PYTHON cannot make virtual environments; name another Python in PYTHON"
}

done_before() { [[ -f $STAMPS/$1 && $(<"$STAMPS/$1") == "$2" ]]; } # LEVEL SUM

make_venv() {
    if [[ -x $VENV/bin/python ]] && "$VENV/bin/python" -m pip --version >/dev/null 2>&1; then
        return
    fi
    need_system
    say "making $VENV with $("$PYTHON" --version)"
    rm -rf "$VENV" "$STAMPS"
    "$PYTHON" -m venv "$VENV"
}

# The package, editable, with its kernels built in place. LEVEL is run or check.
install_package() { # LEVEL EXTRAS
    local inputs=(setup.cfg setup.py pyproject.toml tools/constraints.txt)
    inputs+=(shmq/kernels/*.py shmq/kernels/*.h shmq/kernels/*.pxd)
    local sum build
    sum=$(cat "${inputs[@]}" <(realpath "$VENV") | sha256sum) # An editable install holds its path.
    if done_before "$1" "$sum" || done_before check "$sum"; then
        "$VENV/bin/shmq" --version >/dev/null 2>&1 && return
    fi
    need_system
    say "installing shmq$2 into $VENV and compiling its kernels"
    mapfile -t build < <("$VENV/bin/python" -c '
import tomllib
print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], sep="\n")')
    "$VENV/bin/python" -m pip install -qq -c tools/constraints.txt "${build[@]}" >&2 </dev/null
    # Without isolation: the next build then compiles only what changed.
    "$VENV/bin/python" -m pip install -qq -c tools/constraints.txt --no-build-isolation \
        -e ".$2" >&2 </dev/null
    mkdir -p "$STAMPS"
    echo "$sum" >"$STAMPS/$1"
}

# What tests/powercut mounts with.
install_fuse() {
    local missing=()
    [[ $(ldconfig -p) == *libfuse3.so* ]] || missing+=(fuse3)
    command -v mkfs.ext4 >/dev/null || missing+=(e2fsprogs)
    ((${#missing[@]} == 0)) || install_packages "${missing[@]}"
    if ! "$VENV/bin/python" -c "import mfusepy" 2>/dev/null; then
        say "installing shmq[powercut] into $VENV"
        "$VENV/bin/python" -m pip install -qq -c tools/constraints.txt --no-build-isolation \
            -e ".[powercut]" >&2 </dev/null
    fi
}

want=${1:-run}
case $want in
run) level=run extras="" ;;
check | test | powercut) level=check extras="[test,dev,bench]" ;;
*) fail "no such set-up: $want; there are run, check, test and powercut" ;;
esac
make_venv
install_package "$level" "$extras"
case $want in
test) tests/compat/setup.sh >&2 </dev/null ;;
powercut) install_fuse ;;
esac
