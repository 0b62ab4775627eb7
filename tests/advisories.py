"""Whether anything that users install with the package has a known weakness: ``python -m tests.advisories PIP_AUDIT``.

The versions are those that are installed here, of the package's own dependencies and of its extras for users, with all
that these need. Exit code 0 if none has one, 1 if any has, 69 if that could not be found out for all of them.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from importlib.metadata import distribution
from pathlib import Path
from typing import Any, Final

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PACKAGE: Final = "forge-consensus"
EXTRAS: Final = ("admin", "cli", "config", "crypto", "web")
"""Those that users install; testing and dev are for developers, whose tools no node runs."""
UNAVAILABLE: Final = 69
SECONDS_MAX: Final = 300.0


def installed(package: str = PACKAGE, extras: tuple[str, ...] = EXTRAS) -> dict[str, str]:
    """Return the name and the version of everything that a package with these extras needs, without itself."""
    found: dict[str, str] = {}
    left = [(package, extras)]
    seen = set(left)
    while left:
        name, wanted = left.pop()
        for text in distribution(name).requires or ():
            need = Requirement(text)
            if need.marker is not None and not any(need.marker.evaluate({"extra": extra}) for extra in ("", *wanted)):
                continue
            found[canonicalize_name(need.name)] = distribution(need.name).version
            row = (need.name, tuple(sorted(need.extras)))
            if row not in seen:
                seen.add(row)
                left.append(row)
    found.pop(canonicalize_name(package), None)
    return dict(sorted(found.items()))


def asked(program: str, versions: dict[str, str]) -> dict[str, Any] | str:
    """Return what pip-audit says of these versions, or why it says nothing."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "requirements.txt")
        file.write_text("".join(f"{name}=={version}\n" for name, version in versions.items()))
        command = [program, "--disable-pip", "--no-deps", "--progress-spinner", "off", "-f", "json", "-r", str(file)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS_MAX, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            return str(error)
    try:
        answer: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        return (done.stderr.strip() or done.stdout.strip()).rpartition("\n")[2] or f"it ended with {done.returncode}"
    return answer


def lines_of(answer: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Return a line for each weakness, and one for each package of which nothing is known."""
    weak, unknown = [], []
    for row in answer["dependencies"]:
        if "skip_reason" in row:
            unknown.append(f"{row['name']}: {row['skip_reason']}")
        for each in row.get("vulns", ()):
            repaired = ", ".join(each["fix_versions"]) or "no version yet"
            weak.append(f"{row['name']} {row['version']}: {each['id']}, repaired in {repaired}")
    return weak, unknown


def main(program: str) -> int:
    """Print what was found; return the exit code."""
    versions = installed()
    print("asking for", ", ".join(f"{name} {version}" for name, version in versions.items()))
    answer = asked(program, versions)
    if isinstance(answer, str):
        print(
            f"NOT CHECKED: pip-audit got no answer from the database of weaknesses ({answer}). It is asked at PyPI: "
            "run this where that can be reached, before a release"
        )
        return UNAVAILABLE
    weak, unknown = lines_of(answer)
    for line in (*weak, *unknown):
        print(line)
    if weak:
        print(f"{len(weak)} known weaknesses: raise the lower bounds in pyproject.toml to versions without them")
        return 1
    if unknown:
        print(f"NOT CHECKED: the database knows nothing of {len(unknown)} of {len(versions)} packages")
        return UNAVAILABLE
    print(f"no known weakness in {len(versions)} packages")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
