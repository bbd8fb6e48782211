"""Fails where an import of the library points the wrong way, with the file and the line of each.

A room is a file or a folder directly in src/. It may import from the rooms below it in ORDER and not from its own row.
Inside a room, no two files (or folders) may need each other, directly or through others. `crate::Name` and `super::Name` count as
imports of the file that defines the name, wherever it is re-exported. Tests may import anything.
"""
import re
import sys
from pathlib import Path

# From the ground up. Rooms of one row do not import from each other.
ORDER = [
    ["dtype"],
    ["error"],
    ["float"],
    ["check", "defaults", "parallel", "seed"],
    ["power"],
    ["artifact", "observer"],
    ["linfa_arrays", "trainable"],
    ["kernels"],
    ["linalg", "packing"],
    ["moments"],
    ["context"],
    ["feedback", "traits"],
    ["cluster"],
    ["distill", "factorize", "prune", "quantize"],
    ["limit"],
    ["model"],
    ["onnx"],
    ["bin", "guide", "prelude"],
]

# The trait `Float` has supertraits that the kernels and the linear algebra implement for its two types, and an error names a precision.
UPWARDS = {("float", "kernels"), ("float", "linalg"), ("error", "artifact")}

SRC = Path(__file__).resolve().parent.parent / "src"
LEVEL = {room: level for level, row in enumerate(ORDER) for room in row}
NAMES_OF_TESTS = re.compile(r"(.*_)?tests\.rs$")


def blank(match):
    """Spaces in place of the text, so that lines keep their numbers."""
    return re.sub(r"[^\n]", " ", match.group())


def closing(text, start):
    """The end of the block that opened just before `start`."""
    depth = 1
    while depth > 0:
        depth += {"{": 1, "}": -1}.get(text[start], 0)
        start += 1
    return start


def code(text):
    """The text without comments, literals and what is compiled for tests only."""
    literals = r'//[^\n]*|/\*.*?\*/|b?r(#*)".*?"\1|b?"(?:\\.|[^"\\])*"|b?\'(?:\\.[^\']*|[^\'\\])\''
    text = re.sub(literals, blank, text, flags=re.S)
    text = re.sub(r"pub\s*\([^)]*\)", lambda m: "pub" + blank(m)[3:], text)
    while test := re.search(r"#\[cfg\((?:test|doctest)\)\]", text):
        end = re.compile("[{;]").search(text, test.end()).end()
        if text[end - 1] == "{":
            end = closing(text, end)
        text = text[: test.start()] + re.sub(r"[^\n]", " ", text[test.start() : end]) + text[end:]
    return text


def leaves(tree):
    """The paths of a `use` tree, each as (segments, name it gets here)."""
    return [(path, name or path[-1]) for path, name in unfold(tree)]


def unfold(tree):
    head, brace, rest = tree.strip().partition("{")
    if not brace:
        path, _, alias = re.sub(r"\s+", " ", head).strip().partition(" as ")
        segments = [segment.strip() for segment in path.split("::")]
        if segments[-1] == "self":
            segments.pop()
        return [(segments, alias)]
    prefix = [segment.strip() for segment in head.split("::")[:-1]]
    depth, item, items = 0, "", []
    for character in rest[: rest.rindex("}")]:
        depth += {"{": 1, "}": -1}.get(character, 0)
        if character == "," and depth == 0:
            items.append(item)
            item = ""
        else:
            item += character
    items.append(item)
    return [(prefix + path, name) for item in items if item.strip() for path, name in unfold(item)]


class Module:
    def __init__(self, file):
        self.file = file
        parts = list(file.relative_to(SRC).with_suffix("").parts)
        if parts[-1] in ("mod", "lib"):
            parts.pop()
        self.path = tuple(parts)
        self.exports = {}  # the name here -> the path of what it stands for
        self.imports = []  # (path, line)

    def read(self, modules):
        text = code(self.file.read_text())
        blocks = [(match.start(), closing(text, match.end())) for match in re.finditer(r"\bmod\s+\$?\w+\s*\{", text)]

        def home(match):
            # A module inside of the file has a `super` of its own.
            return self.path + ("{",) * sum(start < match.start() < end for start, end in blocks)

        for match in re.finditer(r"(\bpub\s+)?\buse\s+([^;]+);", text):
            line = text.count("\n", 0, match.start(2)) + 1
            for segments, name in leaves(match.group(2)):
                path = absolute(home(match), segments, modules)
                if path is None:
                    continue
                if home(match) == self.path:
                    self.exports[name] = path
                # A folder that re-exports what its own files define does not need them.
                if not (match.group(1) and path[: len(self.path)] == self.path):
                    self.imports.append((path, line))
        text = re.sub(r"\buse\s+[^;]+;", blank, text)
        for match in re.finditer(r"\b(?:crate|super)(?:::\w+)+", text):
            path = absolute(home(match), match.group().split("::"), modules)
            self.imports.append((path, text.count("\n", 0, match.start()) + 1))


def absolute(home, segments, modules):
    """The path from the root, or None for another crate."""
    base, rest = list(home), list(segments)
    if rest[0] == "crate":
        return tuple(rest[1:])
    while rest and rest[0] in ("self", "super"):
        if rest.pop(0) == "super":
            base.pop()
    if len(rest) == len(segments) and (*base, rest[0]) not in modules:
        return None
    return (*base, *rest)


def definer(path, modules):
    """The module that defines what `path` names."""
    depth = 0
    while depth < len(path) and path[: depth + 1] in modules:
        depth += 1
    module = modules[path[:depth]]
    if depth < len(path) and path[depth] != "*" and path[depth] in module.exports:
        target = module.exports[path[depth]]
        if target != path[: depth + 1]:
            return definer(target + path[depth + 1 :], modules)
    return module


def circles(edges):
    """The sets of nodes that reach each other."""
    reach = {node: set(targets) for node, targets in edges.items()}
    for node in [*reach, *{target for targets in edges.values() for target in targets}]:
        reach.setdefault(node, set())
    for middle in reach:
        for node in reach:
            if middle in reach[node]:
                reach[node] |= reach[middle]
    found = {frozenset(b for b in reach if b in reach[a] and a in reach[b]) for a in reach}
    return [sorted(nodes) for nodes in found if len(nodes) > 1]


def between_rooms(imports):
    """Imports from rooms that are not below, other than UPWARDS."""
    for module, target, place in imports:
        room, other = module.path[0], target.path[0]
        if room != other and LEVEL[other] >= LEVEL[room]:
            used.append((room, other))
            if (room, other) not in UPWARDS:
                yield f"{place}: {room} imports from {other}, which is not below it"


def inside_rooms(imports):
    """Circles among the files and folders of each folder."""
    folders = {}
    for module, target, place in imports:
        if module.path[0] != target.path[0]:
            continue
        shared = 0
        while (*module.path, "")[shared] == (*target.path, "")[shared]:
            shared += 1
        source, destination = [(*path, "mod")[shared] for path in (module.path, target.path)]
        edges = folders.setdefault("/".join(module.path[:shared]), {})
        edges.setdefault(source, {}).setdefault(destination, place)
    for folder, edges in sorted(folders.items()):
        for nodes in circles(edges):
            yield f"src/{folder}: {', '.join(nodes)} need each other:"
            for node in nodes:
                for other, place in sorted(edges[node].items()):
                    if other in nodes:
                        yield f"  {place}: {node} imports from {other}"


files = [file for file in sorted(SRC.rglob("*.rs")) if not NAMES_OF_TESTS.match(file.name) and "tests" not in file.parts]
modules = {module.path: module for module in map(Module, files)}
for module in modules.values():
    module.read(modules)
rooms = {path[0] for path in modules if path}
if rooms - LEVEL.keys():
    sys.exit(f"rooms without a place in the order of .ci/arrows.py: {sorted(rooms - LEVEL.keys())}")
imports = [
    (module, target, f"{module.file.relative_to(SRC.parent)}:{line}")
    for module in modules.values()
    for path, line in module.imports
    if (target := definer(path, modules)) is not module and module.path and target.path
]
used = []
problems = [*between_rooms(imports), *inside_rooms(imports)]
for exception in UPWARDS:
    if exception not in used:
        print(f"the exception {exception} of .ci/arrows.py can go")
print(f"{len(modules)} files, {len(imports)} imports from other files")
if problems:
    sys.exit("arrows that point the wrong way:\n" + "\n".join(problems))
