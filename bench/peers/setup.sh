#!/usr/bin/env bash
# Installs the peers, pinned, below .installed/ (git-ignored), each once: a stamp file remembers the
# inputs of its step. A peer that cannot be installed is reported and left out of the run's figures,
# not out of its table. With names as arguments, only these steps.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

PLACE=.installed
STAMPS=$PLACE/stamps
mkdir -p "$STAMPS" "$PLACE/bin"
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 PIP_ROOT_USER_ACTION=ignore
export DEBIAN_FRONTEND=noninteractive

say() { echo "peers: $*" >&2; }

install_packages() { # PACKAGE...
    local as_root=()
    ((EUID == 0)) || as_root=(sudo -n)
    "${as_root[@]}" apt-get update -q && "${as_root[@]}" apt-get install -q -y --no-install-recommends "$@"
}
need() { # COMMAND PACKAGE
    command -v "$1" >/dev/null || install_packages "$2"
}

jars() { # FOLDER
    rm -rf "$PLACE/$1"
    mvn -B -q -Dstyle.color=never -f "$1/pom.xml" -DincludeScope=runtime \
        -DoutputDirectory="$PWD/$PLACE/$1/lib" dependency:copy-dependencies
}
classes() { # FOLDER LIB
    javac -nowarn -XDsuppressNotes -encoding UTF-8 -cp "$2/*" -d "$PLACE/$1/classes" java/peers/*.java "$1"/*.java
}

step_limits() { # the machine's own limits
    need gcc gcc && gcc -O2 -std=gnu11 -Wall -Wextra -o "$PLACE/bin/limits" limits/limits.c
}
step_python() { # ZeroMQ, Redis and iceoryx2 from Python
    local venv=$PLACE/venv
    rm -rf "$venv"
    "${PYTHON:-python3}" -m venv "$venv" && "$venv/bin/python" -m pip install -qq -r python/requirements.txt
}
step_redis() { # redis-tools holds the server's program, and starts no service as redis-server does
    [[ -x /usr/bin/redis-check-rdb ]] || install_packages redis-tools || return
    ln -sf /usr/bin/redis-check-rdb "$PLACE/bin/redis-server" && "$PLACE/bin/redis-server" --version
}
step_chronicle() { need javac openjdk-17-jdk-headless && need mvn maven && jars chronicle && classes chronicle "$PLACE/chronicle/lib"; }
step_aeron() { need javac openjdk-17-jdk-headless && need mvn maven && jars aeron && classes aeron "$PLACE/aeron/lib"; }
step_rocketmq() { # the jars come with the interop tests
    ../../tests/compat/setup.sh && [[ -d ../host/bin/lib ]] ||
        (cd ../.. && .venv/bin/python -c "from bench.host.brokers import jar_dir; jar_dir()") || return
    rm -rf "$PLACE/rocketmq" && classes rocketmq ../../tests/compat/java/lib/5.5.0
}
step_iceoryx2() {
    command -v cargo >/dev/null || { say "no cargo: install Rust 1.89 or newer"; return 1; }
    CARGO_TARGET_DIR="$PWD/$PLACE/iceoryx2" cargo build -q --release --locked --manifest-path iceoryx2/Cargo.toml &&
        cp "$PLACE/iceoryx2/release/agent" "$PLACE/bin/iceoryx2-agent"
}
step_nats() {
    need go golang && (cd nats && CGO_ENABLED=0 go build -trimpath -o "../$PLACE/bin/nats-agent" . &&
        CGO_ENABLED=0 go build -trimpath -o "../$PLACE/bin/nats-server" github.com/nats-io/nats-server/v2)
}

inputs() { # STEP: the files that the step depends on
    case $1 in
    limits) echo limits/limits.c ;;
    python) echo python/requirements.txt ;;
    redis) echo setup.sh ;;
    chronicle | aeron | rocketmq) find "$1" java -type f ;;
    iceoryx2 | nats) find "$1" -type f ;;
    esac
}

failed=()
for step in "${@:-limits python redis chronicle aeron iceoryx2 nats rocketmq}"; do
    for name in $step; do
        sum=$(inputs "$name" | sort | xargs cat | sha256sum)
        [[ -f $STAMPS/$name && $(<"$STAMPS/$name") == "$sum" ]] && continue
        say "installing $name"
        rm -f "$STAMPS/$name" "$STAMPS/$name.failed"
        if "step_$name" >"$STAMPS/$name.log" 2>&1; then
            echo "$sum" >"$STAMPS/$name"
        else
            failed+=("$name")
            tail -n 3 "$STAMPS/$name.log" >"$STAMPS/$name.failed"
            say "$name cannot be installed: $(<"$STAMPS/$name.failed")"
        fi
    done
done
((${#failed[@]} == 0)) || say "not installed: ${failed[*]}; they are reported as such"
