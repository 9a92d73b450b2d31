"""Reads tests/mutants/broker.txt for scripts/broker_mutants.sh.

    broker_mutants.py list [NAME...]   a line `NAME TEST` for each mutant, or for those named
    broker_mutants.py copy FOLDER      a copy of the checkout in which all of them can be chosen
"""

import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
LIST = ROOT / "tests/mutants/broker.txt"

# The switch. `codec` is what all crates of the broker depend on, and itself knows it by that name.
SWITCH_FILE = "crates/codec/src/lib.rs"
SWITCH = '''
extern crate self as codec;

/// Whether this deliberate mistake is chosen.
pub fn mutant(name: &str) -> bool {
    static CHOSEN: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    CHOSEN.get_or_init(|| std::env::var("HOLDFAST_MUTANT").unwrap_or_default()) == name
}
'''


class Mutant:
    def __init__(self, name):
        self.name = name
        self.test = None
        # (path, lines that are replaced, lines that take their place)
        self.hunks = []


def fail(message):
    sys.exit(f"tests/mutants/broker.txt: {message}")


def read():
    """All mutants, in their order."""
    mutants = []
    for number, line in enumerate(LIST.read_text(encoding="utf-8").splitlines(), 1):
        if line.startswith("== "):
            mutants.append(Mutant(line[3:]))
        elif line.startswith(("#", "statement: ")) or not line or not mutants:
            continue
        elif line.startswith("test: "):
            mutants[-1].test = line.removeprefix("test: ")
        elif line.startswith("file: "):
            mutants[-1].hunks.append((line.removeprefix("file: "), [], []))
        elif line[0] in "-+":
            if not mutants[-1].hunks:
                fail(f"line {number}: {mutants[-1].name} names no file yet")
            mutants[-1].hunks[-1][1 if line[0] == "-" else 2].append(line[1:])
    names = [mutant.name for mutant in mutants]
    for mutant in mutants:
        if names.count(mutant.name) > 1:
            fail(f"{mutant.name} is there twice")
        if not mutant.test or not mutant.hunks or not all(old for _, old, _ in mutant.hunks):
            fail(f"{mutant.name} is not complete")
    return mutants


def mutated(path, text, mutants):
    """The file with the switch of each mutant that concerns it."""
    lines = text.split("\n")
    places = []
    for mutant in mutants:
        for hunk_path, old, new in mutant.hunks:
            if hunk_path != path:
                continue
            starts = range(len(lines) - len(old) + 1)
            found = [at for at in starts if lines[at : at + len(old)] == old]
            if len(found) != 1:
                fail(f"{mutant.name}: the lines it replaces occur {len(found)} times in {path}")
            if f'codec::mutant("{mutant.name}")' not in "\n".join(new):
                fail(f"{mutant.name}: a replacement in {path} is not switched by its name")
            places.append((found[0], found[0] + len(old), new, mutant.name))
    places.sort(key=lambda place: place[0])
    for (_, end, _, first), (start, _, _, second) in zip(places, places[1:]):
        if start < end:
            fail(f"{first} and {second} replace the same line of {path}")
    for start, end, new, _ in reversed(places):
        lines[start:end] = new
    return "\n".join(lines)


def copy(folder, mutants):
    """Files that are the same already keep their time: cargo builds again only what differs."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    output = subprocess.run(listed, cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout
    paths = {path for path in output.decode().split("\0") if (ROOT / path).is_file()}
    for path in {path for mutant in mutants for path, _, _ in mutant.hunks} - paths:
        fail(f"there is no {path}")
    for path in sorted(paths):
        content = (ROOT / path).read_bytes()
        if path.startswith("crates/") and path.endswith(".rs"):
            text = mutated(path, content.decode(), mutants)
            content = (text + SWITCH * (path == SWITCH_FILE)).encode()
        target = folder / path
        if not target.is_file() or target.read_bytes() != content:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
            target.chmod((ROOT / path).stat().st_mode)
    for target in [path for path in folder.rglob("*") if path.is_file()]:
        if target.relative_to(folder).as_posix() not in paths:
            target.unlink()


def main(arguments):
    mutants = read()
    if arguments[:1] == ["copy"] and len(arguments) == 2:
        copy(pathlib.Path(arguments[1]), mutants)
    elif arguments[:1] == ["list"]:
        wanted = arguments[1:] or [mutant.name for mutant in mutants]
        known = {mutant.name: mutant for mutant in mutants}
        for name in wanted:
            if name not in known:
                fail(f"there is no mutant {name}")
            print(name, known[name].test)
    else:
        sys.exit(__doc__)


main(sys.argv[1:])
