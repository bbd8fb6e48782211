"""Writes docs/benchmarks.md and its plot. All figures come from the stored results."""

import json

import numpy as np

from harness import HERE, PAIRS, RESULTS, ROOT

PAGE = ROOT / "docs" / "benchmarks.md"
PICTURE = ROOT / "docs" / "benchmarks.svg"

HEAD = """# Benchmarks

taper compared with what one would use in its place. The harness wrote this page:

    benches/peers/run

It creates a virtual environment with the peers ({versions}), writes the inputs once, and runs the two
sides alternately, each in its own process with the same number of threads: {pairs} pairs if they take at most a few seconds, otherwise
fewer. Measured on {cores} cores of an {processor} with {vectors}, {system}, Rust {rust}, with no other work running.
[benchmarks-avx512.md](benchmarks-avx512.md) has the results on a processor with AVX-512.

- **faster**: the peer's time divided by taper's: the median over the pairs, with the smallest and the largest in parentheses.
- **target**: the ratio to reach, where one was set. *missed*: the median is below it, or taper's error is more than 0.5 % above the
  peer's and more than rounding, or taper's file is not the smaller one.
- **errors**: taper's and the peer's, computed by the same function against the exact result.
- **limit**: the time that the machine needs at best, as a share of taper's time. It counts only the necessary single-precision
  multiply-adds at the peak rate, or the necessary bytes at the rate of reading a working set of that size repeatedly (from a cache
  where it fits into one), whichever takes longer. Both rates are measured in the same run. {rates}

{summary}
"""


def rounded(value, digits=3):
    """A number with this many significant digits; without an exponent between 1 and a million."""
    if value == 0 or np.isnan(value):
        return "0" if value == 0 else "none"
    text = f"{value:.{digits}g}"
    return f"{float(text):,.0f}" if "e" in text and 1 <= abs(value) < 1e6 else text


def duration(seconds):
    for unit, scale in (("s", 1), ("ms", 1e3), ("µs", 1e6)):
        if seconds * scale >= 1 or unit == "µs":
            return f"{rounded(seconds * scale)} {unit}"


def ratio_of(result):
    return float(np.median(result["ratios"]))


def missed(result):
    # If the peer's error is not a number, taper's is not compared with it.
    equal = result["equal"] or np.isnan(result["errors"][1])
    return result["target"] is not None and not (ratio_of(result) >= result["target"] and equal)


def line(result):
    ratios = result["ratios"]
    spread = f" ({rounded(min(ratios))}–{rounded(max(ratios))})" if len(ratios) > 1 else " (one pair)"
    target = ""
    if result["target"] is not None:
        target = f"≥ {result['target']:g}" + (", *missed*" if missed(result) else "")
    ours, theirs = map(duration, result["seconds"])
    errors = " / ".join(rounded(error) for error in result["errors"])
    if result.get("sizes"):
        errors += "; bytes " + " / ".join(f"{size:,.0f}" for size in result["sizes"])
    return (
        f"| {result['case']} | {result['peer']} | {result['threads']} | {ours} | {theirs}"
        f" | **{rounded(ratio_of(result))}**{spread} | {target} | {errors} | {limit(result)} |"
    )


def limit(result):
    if not result["multiply_adds"] and not result["bytes"]:
        return ""
    return f"{100 * result['share']:.0f} % ({result['by']})"


def section(row, results):
    shown = [result for result in results if not result["plot_only"]]
    if not shown:
        return []
    lines = [f"## {row.title}", "", row.text, ""]
    lines += [
        f"| work | peer | threads | taper | peer | faster | target | errors ({row.error}) | limit |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|",
        *map(line, shown),
        "",
    ]
    if row.bound and any(missed(result) for result in shown):
        lines += [row.bound, ""]
    return lines


def summary(kept):
    every = [result for _, results in kept for result in results if result["target"] is not None]
    met = [result for result in every if not missed(result)]
    return f"{len(met)} of {len(every)} comparisons with a target meet it."


def rates(kept):
    """The peak rates: medians of those measured together with the tasks."""
    lines = []
    for threads in (1, 2):
        measured = [result["rates"] for _, results in kept for result in results if result["threads"] == threads]
        far = [
            result["rates"]["bandwidth"]
            for _, results in kept
            for result in results
            if result["threads"] == threads and (result["bytes"] or 0) > 5e7
        ]
        if measured:
            fma = np.median([rate["fma"] for rate in measured]) / 1e9
            text = f"{fma:.0f}·10⁹ multiply-adds a second"
            if far:
                text += f" and, from memory, {np.median(far) / 1e9:.0f} GB/s"
            lines.append(f"{text} on {threads} thread{'s' if threads > 1 else ''}")
    return "Here they are " + "; ".join(lines) + "."


def draw(kept):
    import matplotlib

    matplotlib.use("svg")
    # Equal results give an equal file, with text stored as text.
    matplotlib.rcParams.update({"svg.hashsalt": "taper", "svg.fonttype": "none", "font.size": 9})
    import matplotlib.pyplot as plt

    panels = []
    for row, results in kept:
        first = {case.name: next(iter(case.peers)) for case in row.cases}
        curves = {}
        for result in results:
            if result["size"] is None or result["peer"] != first.get(result["case"]):
                continue
            for side, seconds in zip(("taper", result["peer"]), result["seconds"]):
                curves.setdefault((side, result["threads"]), []).append((result["size"], seconds * 1e3))
        curves = {key: sorted(points) for key, points in curves.items() if len(points) > 1}
        if curves:
            panels.append((row, curves))
    if not panels:
        return False
    columns = 3
    lines = -(-len(panels) // columns)
    figure, axes = plt.subplots(lines, columns, figsize=(4.2 * columns, 3.4 * lines), squeeze=False)
    for axis in axes.flat[len(panels) :]:
        axis.axis("off")
    for axis, (row, curves) in zip(axes.flat, panels):
        for (side, threads), points in sorted(curves.items(), key=lambda item: (item[0][0] != "taper", item[0])):
            axis.plot(
                *zip(*points),
                color="#0072b2" if side == "taper" else "#d55e00",
                linestyle="-" if threads == 2 else "--",
                marker="o",
                markersize=3,
                label=f"{side}, {threads} thread{'s' if threads > 1 else ''}",
            )
        axis.set_xscale("log", base=2)
        axis.set_yscale("log")
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.minorticks_off()
        axis.set_xticks(sorted({size for points in curves.values() for size, _ in points}))
        axis.set_title(row.title.split(":")[0] + (":" + row.title.split(":")[1] if ":" in row.title else ""), fontsize=9)
        axis.set_xlabel(row.size)
        axis.set_ylabel("ms")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(PICTURE, metadata={"Date": None, "Creator": None})
    return True


def write(rows):
    kept, machine = [], None
    for row in rows:
        path = RESULTS / f"{row.name}.json"
        if path.exists():
            content = json.loads(path.read_text())
            machine = content["machine"]
            kept.append((row, content["results"]))
    if machine is None:
        return f"no measurements yet: there are no results in {RESULTS.relative_to(ROOT)}"
    shown = {name: number for name, number in machine["versions"].items() if name != "matplotlib"}
    head = HEAD.format(
        versions=", ".join(f"{name} {number}" for name, number in shown.items()),
        pairs=PAIRS,
        summary=summary(kept),
        rates=rates(kept),
        **{name: machine.get(name, "") for name in ("cores", "processor", "vectors", "system", "rust")},
    )
    lines = [head]
    for row, results in kept:
        lines += section(row, results)
    if draw(kept):
        lines += [
            "## Growth",
            "",
            "Time over size for the first case and the first peer of each table, on one thread (dashed lines) and on two (solid lines).",
            "",
            f"![time over size]({PICTURE.name})",
            "",
        ]
    PAGE.write_text("\n".join(lines))
    return 0
