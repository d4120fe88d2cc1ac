"""What the peers that run on a JVM share."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from bench.peers.peer import INSTALLED

AGENT_HEAP: Final = ("-Xms512m", "-Xmx512m")
# What Chronicle and Aeron ask for on Java 17.
OPENS: Final = (
    "--add-exports=java.base/jdk.internal.ref=ALL-UNNAMED",
    "--add-exports=java.base/sun.nio.ch=ALL-UNNAMED",
    "--add-exports=jdk.unsupported/sun.misc=ALL-UNNAMED",
    "--add-exports=jdk.compiler/com.sun.tools.javac.file=ALL-UNNAMED",
    "--add-opens=jdk.compiler/com.sun.tools.javac=ALL-UNNAMED",
    "--add-opens=java.base/java.lang=ALL-UNNAMED",
    "--add-opens=java.base/java.lang.reflect=ALL-UNNAMED",
    "--add-opens=java.base/java.io=ALL-UNNAMED",
    "--add-opens=java.base/java.nio=ALL-UNNAMED",
    "--add-opens=java.base/java.util=ALL-UNNAMED",
    "--add-opens=java.base/jdk.internal.misc=ALL-UNNAMED",
    "--add-opens=java.base/sun.nio.ch=ALL-UNNAMED",
)


def java(name: str, main: str, lib: Path, *flags: str) -> list[str]:
    """A class of ours or of the peer's, with the peer's jars."""
    classes = INSTALLED / name / "classes"
    return ["java", *flags, "-cp", f"{classes}:{lib}/*", main]
