"""Reads `cargo metadata` and fails where a dependency of the library asks for a newer Rust than the library.

Development dependencies are left out: they bind only who works on taper.
"""
import json
import sys

metadata = json.load(sys.stdin)
packages = {package["id"]: package for package in metadata["packages"]}
nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
root = next(id for id, package in packages.items() if package["name"] == "taper")


def version(text):
    numbers = [int(number) for number in text.split(".")]
    return tuple(numbers + [0] * (3 - len(numbers)))


limit = packages[root]["rust_version"]
seen, queue, newer = {root}, [root], []
while queue:
    for dependency in nodes[queue.pop()]["deps"]:
        id = dependency["pkg"]
        if id in seen or all(kind["kind"] == "dev" for kind in dependency["dep_kinds"]):
            continue
        seen.add(id)
        queue.append(id)
        asks = packages[id]["rust_version"]
        if asks and version(asks) > version(limit):
            newer.append(f"{packages[id]['name']} {packages[id]['version']} asks for Rust {asks}")

print(f"{len(seen) - 1} dependencies, at most Rust {limit}")
if newer:
    sys.exit("newer than the library's own:\n  " + "\n  ".join(sorted(newer)))
