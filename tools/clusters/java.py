"""Jars from Maven Central, and the command that starts a class of theirs."""

import functools
import shutil
import subprocess
import tempfile
import zipfile
from pathlib import Path

HERE = Path(__file__).parent

# What Flink's and Spark's own start scripts open for Java 17.
_OPENED = [
    f"java.base/{package}=ALL-UNNAMED"
    for package in (
        "java.io java.lang java.lang.invoke java.lang.reflect java.net java.nio java.text "
        "java.time java.util java.util.concurrent java.util.concurrent.atomic "
        "java.util.concurrent.locks sun.nio.ch sun.nio.cs sun.security.action sun.util.calendar"
    ).split()
]
OPEN = [word for package in _OPENED for word in ("--add-opens", package)]
# Of a cluster that lives for minutes most time goes into compiling what it runs: quickly, not well.
QUICK = ["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"]


class NotHere(Exception):
    """Java, Maven, or jars that Maven cannot get."""


@functools.cache
def jars(name: str) -> tuple[str, ...]:
    """Paths of all jars that `NAME.pom.xml` asks for; the first time they are downloaded.

    Raises:
        NotHere: there is no Java, no Maven, or a registry that lacks one of them.
    """
    for program in ("java", "mvn"):
        if shutil.which(program) is None:
            raise NotHere(f"{name}: need {program}, found none")
    with tempfile.TemporaryDirectory() as folder:
        listing = Path(folder) / "classpath"
        command = ["mvn", "-q", "-B", "-f", str(HERE / f"{name}.pom.xml")]
        command += ["dependency:build-classpath", f"-Dmdep.outputFile={listing}"]
        for offline in (["-o"], []):
            done = subprocess.run([*command, *offline], capture_output=True, text=True)
            if done.returncode == 0:
                return tuple(listing.read_text().strip().split(":"))
    said = next((line for line in done.stdout.splitlines() if "ERROR" in line), "no reason given")
    raise NotHere(f"{name}: Maven cannot get what {name}.pom.xml asks for: {said[:300]}")


def java(name: str, main: str, *arguments: str, heap_mb: int, options: tuple[str, ...] = ()):
    """The command that runs a class out of those jars."""
    classpath = ["-cp", ":".join(jars(name))]
    return ["java", *OPEN, *QUICK, f"-Xmx{heap_mb}m", *options, *classpath, main, *arguments]


def runnable_jar(name: str, main: str, path: Path) -> Path:
    """A jar for `java -jar` that holds nothing but where the others are and where to begin."""
    places = " ".join(Path(jar).as_uri() for jar in jars(name))
    line = f"Class-Path: {places}"
    folded = [line[:72]] + [" " + line[at : at + 71] for at in range(72, len(line), 71)]
    manifest = ["Manifest-Version: 1.0", f"Main-Class: {main}", *folded, ""]
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("META-INF/MANIFEST.MF", "\r\n".join(manifest))
    return path
