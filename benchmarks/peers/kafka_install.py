"""Apache Kafka in a cache directory, through Maven: what it needs, and its jar files, all of them or none."""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.harness.child_process import ChildProcess
from benchmarks.harness.system import PeerFailed, Say

VERSION = "4.3.0"
SCALA = "2.13"
SLF4J = "1.7.36"  # the API version that Kafka brings; without a binding Kafka logs nothing, not even why it gave up
JAVA_MIN = 17
NAME = f"kafka-{VERSION}"
MAVEN_WAIT_S = 900.0

_DEPENDENCIES = (
    ("org.apache.kafka", f"kafka_{SCALA}", VERSION),
    ("org.apache.kafka", "kafka-tools", VERSION),
    ("org.slf4j", "slf4j-simple", SLF4J),
)
_POM = """<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>rayqueue.benchmarks</groupId>
  <artifactId>kafka</artifactId>
  <version>1</version>
  <packaging>pom</packaging>
  <dependencies>
{}  </dependencies>
</project>
"""
_DEPENDENCY = "    <dependency><groupId>{}</groupId><artifactId>{}</artifactId><version>{}</version></dependency>\n"
POM = _POM.format("".join(_DEPENDENCY.format(*dependency) for dependency in _DEPENDENCIES))


def java() -> str | None:
    """The java to run: of JAVA_HOME if it has one, else of PATH."""
    home = os.environ.get("JAVA_HOME")
    return (home and shutil.which("java", path=str(Path(home, "bin")))) or shutil.which("java")


def java_version(text: str) -> int | None:
    """The major version in what `java -version` prints; None when there is none. 1.8 counts as 8."""
    found = re.search(r'version "(\d+)(?:\.(\d+))?', text)
    if not found:
        return None
    major, minor = int(found[1]), found[2]
    return int(minor) if major == 1 and minor else major


def lib(cache: Path) -> Path:
    """Where the jar files are."""
    return cache / NAME / "lib"


def is_whole(cache: Path) -> bool:
    """Whether the jar files of this version, and of this list of dependencies, are there."""
    pom = cache / NAME / "pom.xml"
    return pom.is_file() and pom.read_text() == POM and lib(cache).is_dir()


def missing(cache: Path) -> str | None:
    """What must be installed first, in one line; None when nothing."""
    program = java()
    if program is None:
        return f"kafka needs Java {JAVA_MIN} or newer: `sudo apt install openjdk-{JAVA_MIN}-jre-headless`"
    said = subprocess.run([program, "-version"], capture_output=True, text=True, check=False)
    version = java_version(said.stderr + said.stdout)
    if version is None or version < JAVA_MIN:
        return (
            f"kafka needs Java {JAVA_MIN} or newer, {program} is {version or 'of an unknown version'}: "
            f"`sudo apt install openjdk-{JAVA_MIN}-jre-headless`, or set JAVA_HOME to a newer one"
        )
    if not is_whole(cache) and shutil.which("mvn") is None:
        return "kafka is fetched by Maven, and there is no `mvn`: `sudo apt install maven`"
    if importlib.util.find_spec("confluent_kafka") is None:
        return "kafka needs its Python client: `pip install confluent-kafka` (rayqueue's extra `bench` has it)"
    return None


def prepare(cache: Path, say: Say) -> None:
    """Fetches the jar files unless they are there.

    They are gathered in a directory beside and renamed at the end, so the final name only ever holds all of them. One
    process at a time, by a lock that ends with its holder; so what an interrupted run has left may be removed.

    Raises:
        PeerFailed: Maven could not.
    """
    if is_whole(cache):
        return
    cache.mkdir(parents=True, exist_ok=True)
    with _locked(cache / f"{NAME}.lock"):
        if is_whole(cache):
            return  # another run has just fetched them
        for left in (cache / NAME, *cache.glob(f"{NAME}.part-*")):
            if left.exists():
                shutil.rmtree(left)
        say(f"kafka: fetching {VERSION} through Maven into {cache} (54 MB, once)")
        part = Path(tempfile.mkdtemp(prefix=f"{NAME}.part-", dir=cache))
        try:
            _fetch(part)
            part.rename(cache / NAME)
        finally:
            if part.exists():
                shutil.rmtree(part)


def _fetch(directory: Path) -> None:
    (directory / "pom.xml").write_text(POM)
    goal = ["dependency:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={directory / 'lib'}"]
    command = ["mvn", "--batch-mode", "--quiet", "--strict-checksums", *goal]
    log = directory / "maven.log"
    with ChildProcess(command, log, directory) as maven:
        try:
            status = maven.wait(MAVEN_WAIT_S)
        except subprocess.TimeoutExpired:
            raise PeerFailed(f"kafka: Maven took more than {MAVEN_WAIT_S:.0f} s for {VERSION}; run again") from None
    if status != 0 or not (directory / "lib" / f"kafka_{SCALA}-{VERSION}.jar").is_file():
        raise PeerFailed(
            f"kafka: Maven could not fetch {VERSION}: {why(log.read_text())}; see that `mvn` reaches a repository "
            "(~/.m2/settings.xml), and run again"
        )


def why(log: str) -> str:
    """The line of Maven's output that says what was wrong: its first error."""
    errors = [line.partition("[ERROR]")[2].strip() for line in log.splitlines() if "[ERROR]" in line]
    return next((line for line in errors if line), "it gave no reason")


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
