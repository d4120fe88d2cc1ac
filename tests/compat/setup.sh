#!/usr/bin/env bash
# Installs what the interop tests run against: Apache's Java clients, name server and broker, and
# the Go client. Everything is pinned, lands in git-ignored folders below this one, and is done
# once: a stamp file remembers the inputs of each step.
set -euo pipefail
cd "$(dirname "$0")"

CLIENTS=(5.5.0 5.3.3 4.9.8)
SERVER=5.5.0
# Brokers that exchange stores with ours, beside SERVER: a version, and the newest broker at or before
# it that is published.
BROKERS=("5.3.3 5.3.3" "4.9.8 4.9.7")
STAMPS=.stamps
mkdir -p "$STAMPS"

say() { echo "compat: $*"; }

# done_before STEP INPUT...: true when STEP was finished with exactly these inputs.
done_before() {
    local step=$1
    shift
    sums=$(cat "$@" | sha256sum)
    [[ -f $STAMPS/$step && $(<"$STAMPS/$step") == "$sums" ]]
}
finish() { echo "$sums" >"$STAMPS/$1"; }

install_tools() {
    local missing=()
    command -v javac >/dev/null || missing+=(openjdk-17-jdk-headless)
    command -v mvn >/dev/null || missing+=(maven)
    command -v go >/dev/null || missing+=(golang)
    ((${#missing[@]})) || return 0
    say "installing ${missing[*]}"
    local as_root=()
    ((EUID == 0)) || as_root=(sudo)
    "${as_root[@]}" apt-get update -q
    DEBIAN_FRONTEND=noninteractive "${as_root[@]}" apt-get install -q -y --no-install-recommends \
        "${missing[@]}"
}

fetch_jars() { # POM VERSION FOLDER [BROKER-VERSION]
    say "fetching the jars of $3"
    local new="java/lib/$3.new"
    rm -rf "$new" "java/lib/$3"
    mvn -B -q -Dstyle.color=never -f "java/$1" -Drocketmq.version="$2" \
        -Dbroker.version="${4:-$2}" -DincludeScope=runtime \
        -DoutputDirectory="$PWD/$new" dependency:copy-dependencies
    mv "$new" "java/lib/$3"
}

install_tools
for version in "${CLIENTS[@]}"; do
    if ! done_before "jars-$version" java/client.xml <(echo "$version") || [[ ! -d java/lib/$version ]]; then
        fetch_jars client.xml "$version" "$version"
        finish "jars-$version"
    fi
    if ! done_before "driver-$version" java/src/*.java <(echo "$version") || [[ ! -d java/classes/$version ]]; then
        say "compiling the Java driver for $version"
        rm -rf "java/classes/$version"
        javac -nowarn -XDsuppressNotes --release 17 -encoding UTF-8 -cp "java/lib/$version/*" -d "java/classes/$version" \
            java/src/*.java
        finish "driver-$version"
    fi
done
if ! done_before jars-server java/server.xml <(echo "$SERVER") || [[ ! -d java/lib/server ]]; then
    fetch_jars server.xml "$SERVER" server
    finish jars-server
fi
for broker in "${BROKERS[@]}"; do
    read -r version published <<<"$broker"
    folder=broker-$version
    if ! done_before "jars-$folder" java/broker.xml <(echo "$broker") || [[ ! -d java/lib/$folder ]]; then
        fetch_jars broker.xml "$version" "$folder" "$published"
        finish "jars-$folder"
    fi
done
if ! done_before driver-admin java/admin/*.java <(echo "$SERVER") || [[ ! -d java/classes/admin ]]; then
    say "compiling the driver of mqadmin"
    rm -rf java/classes/admin
    javac --release 17 -encoding UTF-8 -cp "java/lib/server/*" -d java/classes/admin java/admin/*.java
    finish driver-admin
fi
if ! done_before driver-go go/*.go go/go.mod go/go.sum || [[ ! -x go/driver ]]; then
    say "building the Go driver"
    (cd go && CGO_ENABLED=0 go build -trimpath -o driver .)
    finish driver-go
fi
