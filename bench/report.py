#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Tables and figures from the JSON lines of bench_sweep.

    bench/report.py RESULTS.jsonl ... OUT

writes OUT/report.md, OUT/points.csv, the figures OUT/quality-*.svg and OUT/index.html, which a
browser opens without a server.  Figures need gnuplot.  (Operating points: spc tune.)
"""
import argparse
import collections
import csv
import html
import json
import pathlib
import shutil
import subprocess
import sys

from findings import CALLS, cheapest, half_width, method, table, text_of_findings

COLUMNS = ["rule", "gamma", "temperature", "top_p", "batch", "verify", "seeds", "metric", "value",
           "ci_low", "ci_high", "seed_low", "seed_high", "relative_latency", "verifier_calls_per_token",
           "tokens_per_verifier_call", "drafter_calls_per_token", "acceptance_rate",
           "rejection_rate", "deferral_rate", "deferred_per_token", "accepted_per_drafted",
           "length_ratio", "at_limit", "discarded", "zero_residuals", "tokens", "seconds",
           "examples"]
# What tells points apart, and what it is where a line does not say.
POINT = {"rule": None, "gamma": 0, "temperature": 1, "top_p": 1, "top_k": 0, "min_p": 0,
         "verify": "token", "batch": 1, "nucleus": True, "bonus_mode": "target"}

# What all points of a report must share, as in spc tune: others are no curve of it.
COMMON = ("metric", "verifier", "drafter", "drafter_vocab", "examples", "max_tokens", "data_hash",
          "context", "chat_template", "ask", "test_seconds")
# Totals over all texts of a line, not rates.
TOTALS = ("tokens", "rounds", "verifier_calls", "drafter_calls", "prefill_calls", "bonus", "discarded",
          "zero_residuals", "tests_timed_out", "seconds", "draft_seconds", "verify_seconds")

NEEDED = ("rule", "value", "ci_low", "ci_high", "relative_latency", CALLS)


def opened(path):
    """A file to read, or an end in one line."""
    try:
        return open(path, encoding="utf-8")
    except OSError as why:
        sys.exit(f"report.py: {path}: {why.strerror}")


def check_common(first, point, where):
    """Points of other data, models or lengths are not averaged, nor compared."""
    for name in COMMON:
        if first.get(name) != point.get(name):
            sys.exit(f"report.py: {where}: {name} is {json.dumps(point.get(name))}, but "
                     f"{json.dumps(first.get(name))} in the lines before: points of one sweep only can "
                     "be compared")


def read_points(paths):
    """Finished points, lines with other seeds of one point averaged, and the failed ones."""
    groups, failed, first = collections.OrderedDict(), [], None
    for path in paths:
        with opened(path) as lines:
            for number, line in enumerate(lines, 1):
                try:
                    point = json.loads(line)
                except json.JSONDecodeError as why:
                    if not line.endswith("\n"):
                        continue  # cut by an interruption; the sweep writes it again
                    sys.exit(f"report.py: {path}: line {number}: {why}")
                if not isinstance(point, dict) or point.get("bench") != "sweep":
                    continue
                if "failed" in point:
                    failed.append(point)
                    continue
                if any(name not in point for name in NEEDED):
                    sys.exit(f"report.py: {path}: line {number}: expected a result with {', '.join(NEEDED)}")
                first = first or point
                check_common(first, point, f"{path}: line {number}")
                point = {**POINT, **point}
                point.setdefault("seeds", [point.get("seed", 0)])
                point.setdefault("value_by_seed", [point["value"]])
                group = groups.setdefault(tuple(point[k] for k in POINT), {})
                group.setdefault(tuple(point["seeds"]), point)  # several files have the baseline
    return [average(apart(list(group.values()))) for group in groups.values()], failed


def apart(points):
    """Lines that have no seed in common: none counts twice."""
    kept = []
    for point in sorted(points, key=lambda p: -len(p["seeds"])):
        known = {seed for p in kept for seed in p["seeds"]}
        if known.isdisjoint(point["seeds"]):
            kept.append(point)
        elif not known.issuperset(point["seeds"]):
            sys.exit(f"report.py: {point['rule']}: seeds {point['seeds']} are in part those of another "
                     "line: give results with other seeds, or with the same")
    return [p for p in points if any(p is k for k in kept)]


def average(points):
    """Means over seeds, and sums of what is a total.  The interval stays that over examples, which the seeds share."""
    values = [value for p in points for value in p["value_by_seed"]]
    merged = dict(points[0], seeds=len(values), seed_low=min(values), seed_high=max(values))
    for name, value in points[0].items():
        if name in TOTALS:
            merged[name] = sum(p.get(name) or 0 for p in points)
        elif isinstance(value, float) and name not in POINT:
            known = [(p[name], len(p["seeds"])) for p in points if p[name] is not None]
            weight = sum(w for _, w in known)
            merged[name] = sum(v * w for v, w in known) / weight if known else None
        if name.endswith("_by_position"):
            merged[name] = [sum(x or 0 for x in at) for at in zip(*(p[name] for p in points))]
    return merged


def settings(point):
    return tuple(point[k] for k in POINT if k not in ("rule", "gamma"))


def number(value, digits):
    return "" if value is None else f"{value:.{digits}f}"


def curves(points):
    by_method = collections.OrderedDict()
    for point in points:
        by_method.setdefault((method(point), point["gamma"]), []).append(point)
    return by_method


def paper_table(points, base):
    """The paper's Table 2: least latency at the verifier's quality, best quality at its latency."""
    rows = []
    for (name, gamma), group in curves(points).items():
        if name == "verifier-only":
            continue
        quickest = cheapest(group, base["value"], "relative_latency")
        fewest = cheapest(group, base["value"], CALLS)
        fast = [p for p in group if (p["relative_latency"] or 9) <= 1.0]
        best = max(fast, key=lambda p: p["value"]) if fast else None
        rows.append([name, str(gamma) if gamma else "",
                     number(quickest["relative_latency"], 2) if quickest else "-",
                     number(fewest[CALLS], 3) if fewest else "-",
                     f"`{fewest['rule']}`" if fewest else "-",
                     f"{best['value']:.2f} ± {half_width(best):.2f}" if best else "-",
                     f"`{best['rule']}`" if best else "-",
                     number(max(p["value"] for p in group), 2)])
    return table(["method", "gamma", "least latency at the verifier's quality",
                  "least verifier calls per token there", "at",
                  "best quality within the verifier's latency", "at", "best quality"], rows)


def point_table(points):
    rows = [[f"`{p['rule']}`", str(p["gamma"]) if p["gamma"] else "",
             f"{p['value']:.2f}", f"{p['ci_low']:.2f} to {p['ci_high']:.2f}", str(p["seeds"]),
             number(p["relative_latency"], 2), number(p[CALLS], 3),
             number(p["acceptance_rate"], 3), number(p.get("deferred_per_token"), 3),
             number(p["length_ratio"], 2), number(p["at_limit"], 4),
             number(p.get("repetition_rate"), 4)] for p in points]
    return table(["rule", "gamma", "value", "95 % interval", "seeds", "relative latency",
                  "verifier calls per token", "acceptance", "deferred per token", "length ratio",
                  "at the length limit", "repetition"], rows)


def position_table(points):
    """Acceptance by draft position, of a method's middle number."""
    rows, gamma = [], max((p["gamma"] for p in points), default=0)
    for group in curves(points).values():
        p = group[len(group) // 2]
        if not p["gamma"]:
            continue
        rates = [f"{a / v:.3f}" if v else "-" for a, v in
                 zip(p["accepted_by_position"], p["verified_by_position"])]
        rows.append([f"`{p['rule']}`", str(p["gamma"])] + rates + [""] * (gamma - len(rates)))
    return table(["rule", "gamma"] + [f"draft {i + 1}" for i in range(gamma)], rows)


def correlation(points, a, b):
    pairs = [(p[a], p[b]) for p in points if p[a] is not None and p[b] is not None]
    if len(pairs) < 3:
        return None
    mean_a, mean_b = (sum(x) / len(pairs) for x in zip(*pairs))
    cov = sum((x - mean_a) * (y - mean_b) for x, y in pairs)
    var = [sum((x - m) ** 2 for x in xs) for xs, m in zip(zip(*pairs), (mean_a, mean_b))]
    return cov / (var[0] * var[1]) ** 0.5 if var[0] > 0 and var[1] > 0 else None


def oracle(points):
    """Oracle [Diff]: diff's law where only deferred tokens cost a verifier call, as if one knew."""
    return [dict(p, rule=p["rule"].replace("diff", "oracle of diff"), gamma=0,
                 verifier_calls_per_token=p["deferred_per_token"], relative_latency=None,
                 rejection_rate=None)
            for p in points if method(p) == "diff" and p.get("deferred_per_token") is not None]


def plot(points, x, y, labels, path):
    """One curve per method, one mark per number."""
    blocks, styles = [], []
    for (name, gamma), group in curves(points).items():
        group = sorted((p for p in group if p[x] is not None and p[y] is not None),
                       key=lambda p: p[x])
        if not group:
            continue
        blocks.append("\n".join(f"{p[x]} {p[y]}" for p in group))
        title = name + (f", gamma {gamma}" if gamma not in (0, 5) else "")
        style = "points pt 7 ps 1" if len(group) == 1 else "linespoints lw 1.5 ps 0.6"
        styles.append(f"'-' using 1:2 with {style} title '{title}'")
    if not blocks:
        return
    script = (f"set terminal svg size 900,560 font 'sans,12' background 'white'\n"
              f"set output '{path}'\nset key outside right\nset grid\n"
              f"set xlabel '{labels[0]}'\nset ylabel '{labels[1]}'\n"
              f"plot {', '.join(styles)}\n" + "\n".join(b + "\ne" for b in blocks) + "\n")
    subprocess.run(["gnuplot"], input=script, text=True, check=True)


def title_of(base):
    parts = [f"T = {base['temperature']:g}", f"top-p {base['top_p']:g}"]
    parts += [f"{name} {base[key]:g}" for name, key in (("top-k", "top_k"), ("min-p", "min_p"),
                                                        ("batch", "batch"))
              if base[key] != POINT[key]]
    if base["bonus_mode"] != POINT["bonus_mode"]:
        parts.append(f"bonus {base['bonus_mode']}")
    if not base["nucleus"]:
        parts.append("token rules may leave the nucleus")
    return ", ".join(parts + [f"verify {base['verify']}"])


def section(points, out, index, draw):
    """Markdown of one way to sample and verify; its figures."""
    base = next((p for p in points if p["rule"] == "verifier-only"), None)
    if not base:
        sys.exit(f"report.py: no point verifier-only for {title_of(points[0])}: every sweep has one, "
                 "name the file that holds it too")
    metric = base["metric"]
    relative, calls = "latency, verifier alone = 1", "verifier calls per token"
    figures = [(f"quality-latency{index}.svg", points, "relative_latency", "value",
                (relative, metric)),
               (f"quality-calls{index}.svg", points + oracle(points), CALLS, "value",
                (calls, metric)),
               (f"quality-rejection{index}.svg", points, "rejection_rate", "value",
                ("rejection rate", metric)),
               (f"rejection-latency{index}.svg", points, "rejection_rate", "relative_latency",
                ("rejection rate", relative))]
    for name, which, x, y, labels in figures if draw else ():
        plot(which, x, y, labels, out / name)
    speculative = [p for p in points if p["rejection_rate"] is not None and p["gamma"] == 5]
    related = correlation(speculative, "rejection_rate", "relative_latency")
    text = [f"## {title_of(base)}\n",
            f"{base['examples']} examples, {base['seeds']} seed(s), metric {metric}; the "
            f"verifier alone: {base['value']:.2f} ({base['ci_low']:.2f} to {base['ci_high']:.2f}).\n",
            paper_table(points, base),
            "`truncate` is the verifier alone, cut to the set of token-v3 with the same alpha or to "
            "its nucleus (top-p), under strict speculation: the fair baseline of token-v3.\n"]
    text += [f"![{labels[1]} against {labels[0]}]({name})\n"
             for name, _, _, _, labels in figures if draw and (out / name).exists()]
    if any(method(p) == "diff" for p in points):
        text.append("*oracle of diff* has diff's law, and a verifier call for deferred tokens only: what a "
                    "sequential cascade would cost that knew diff's decision for nothing. It cannot "
                    "be run; its latency is not known.\n")
    if related is not None:
        text.append(f"Correlation of rejection rate and relative latency over the "
                    f"{len(speculative)} points of gamma 5: {related:.2f}.\n")
    text += ["### Acceptance by draft position\n", position_table(points),
             "### All points\n", point_table(points)]
    return "\n".join(text)


def to_html(markdown, out):
    """Just enough: headings, tables, images inlined, paragraphs."""
    body, rows = [], []

    def flush():
        if rows:
            cells = [[c.strip() for c in r.strip("|").split("|")] for r in rows if set(r) - set("|-")]
            body.append("<table>" + "".join(
                "<tr>" + "".join(f"<{tag}>{html.escape(c).replace('`', '')}</{tag}>" for c in row) +
                "</tr>" for tag, row in zip(["th"] + ["td"] * len(cells), cells)) + "</table>")
            rows.clear()

    for line in markdown.splitlines():
        if line.startswith("|"):
            rows.append(line)
            continue
        flush()
        if line.startswith("!["):
            svg = (out / line[line.index("(") + 1:-1]).read_text(encoding="utf-8")
            body.append(svg[svg.index("<svg"):])
        elif line.startswith("#"):
            level = len(line) - len(line.lstrip("#"))
            body.append(f"<h{level}>{html.escape(line.lstrip('# '))}</h{level}>")
        elif line.strip():
            body.append(f"<p>{html.escape(line).replace('`', '')}</p>")
    flush()
    return ("<!doctype html><meta charset=utf-8><title>spc: quality against cost</title><style>"
            "body{font:15px sans-serif;max-width:70em;margin:2em auto}table{border-collapse:"
            "collapse}td,th{padding:.15em .6em;border-bottom:1px solid #ddd;text-align:left}"
            "</style>" + "\n".join(body))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", nargs="+", help="JSON lines of bench_sweep")
    parser.add_argument("out", type=pathlib.Path, help="folder to write to")
    parser.add_argument("--no-figures", action="store_true", help="tables only, without gnuplot")
    args = parser.parse_args()
    if not args.no_figures and not shutil.which("gnuplot"):
        parser.error("figures need gnuplot: install it (gnuplot-nox), or give --no-figures")

    points, failed = read_points(args.results)
    if not points:
        parser.error(f"{', '.join(args.results)}: no finished points")
    args.out.mkdir(parents=True, exist_ok=True)
    groups = collections.OrderedDict()
    for point in points:
        groups.setdefault(settings(point), []).append(point)
    parts = ["# Quality against cost\n", text_of_findings(points)]
    parts += [section(group, args.out, i or "", not args.no_figures) for i, group in enumerate(groups.values())]
    if failed:
        parts.append("## Failed\n\n" + table(["rule", "why"],
                                             [[p["rule"], p["failed"]] for p in failed]))
    markdown = "\n".join(parts)
    (args.out / "report.md").write_text(markdown, encoding="utf-8")
    (args.out / "index.html").write_text(to_html(markdown, args.out), encoding="utf-8")
    with open(args.out / "points.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(points)


if __name__ == "__main__":
    main()
