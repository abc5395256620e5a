#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Tables and figures from the JSON lines of bench_sweep.

    bench/report.py results.jsonl OUT

writes OUT/report.md, OUT/points.csv, the figures OUT/quality-*.svg and OUT/index.html, which a
browser opens without a server.  Figures need gnuplot.  (Operating points: spc tune.)
"""
import argparse
import collections
import csv
import html
import json
import pathlib
import subprocess

COLUMNS = ["rule", "gamma", "temperature", "top_p", "seed", "verify", "metric", "value", "ci_low",
           "ci_high", "relative_latency", "verifier_calls_per_token", "tokens_per_verifier_call",
           "acceptance_rate", "rejection_rate", "deferral_rate", "length_ratio", "at_limit",
           "tokens", "seconds", "examples"]
# The verifier's own law, or the drafter's: what every method is compared with.
BASELINES = ("verifier-only", "drafter-only", "strict")


def read_points(path):
    """Finished points, several seeds of one point averaged."""
    groups, failed = collections.OrderedDict(), []
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            point = json.loads(line)
            if point.get("bench") != "sweep":
                continue
            if "failed" in point:
                failed.append(point)
                continue
            key = tuple(point[k] for k in ("rule", "gamma", "temperature", "top_p", "verify"))
            groups.setdefault(key, []).append(point)
    return [average(points) for points in groups.values()], failed


def average(points):
    merged = dict(points[0], seeds=len(points))
    for name, value in points[0].items():
        if isinstance(value, float) and name not in ("temperature", "top_p"):
            values = [p[name] for p in points if p[name] is not None]
            merged[name] = sum(values) / len(values) if values else None
    return merged


def method(point):
    """The rule without its number: what one curve joins."""
    rule = point["rule"]
    name, _, keys = rule.partition(":")
    rest = [k for k in keys.split(",")[1:] if k]
    return ",".join([name] + rest)


def settings(point):
    return (point["temperature"], point["top_p"], point["verify"])


def number(value, digits):
    return "" if value is None else f"{value:.{digits}f}"


def table(header, rows):
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows]) + "\n"


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
        good = [p for p in group if p["value"] >= base["value"]]
        fast = [p for p in group if (p["relative_latency"] or 9) <= 1.0]
        quickest = min(good, key=lambda p: p["relative_latency"] or 9) if good else None
        fewest = min(good, key=lambda p: p["verifier_calls_per_token"] or 0) if good else None
        best = max(fast, key=lambda p: p["value"]) if fast else None
        rows.append([name, str(gamma) if gamma else "",
                     number(quickest["relative_latency"], 2) if quickest else "-",
                     number(fewest["verifier_calls_per_token"], 3) if fewest else "-",
                     f"`{fewest['rule']}`" if fewest else "-",
                     number(best["value"], 2) if best else "-",
                     f"`{best['rule']}`" if best else "-",
                     number(max(p["value"] for p in group), 2)])
    return table(["method", "gamma", "least latency at the verifier's quality",
                  "least calls per token there", "at", "best quality within the verifier's latency",
                  "at", "best quality"], rows)


def point_table(points):
    rows = [[f"`{p['rule']}`", str(p["gamma"]) if p["gamma"] else "",
             f"{p['value']:.2f}", f"{p['ci_low']:.2f} to {p['ci_high']:.2f}",
             number(p["relative_latency"], 2), number(p["verifier_calls_per_token"], 3),
             number(p["acceptance_rate"], 3), number(p["deferral_rate"], 3),
             number(p["length_ratio"], 2)] for p in points]
    return table(["rule", "gamma", "value", "95 % interval", "relative latency",
                  "verifier calls per token", "acceptance", "deferral", "length ratio"], rows)


def correlation(points, a, b):
    pairs = [(p[a], p[b]) for p in points if p[a] is not None and p[b] is not None]
    if len(pairs) < 3:
        return None
    mean_a, mean_b = (sum(x) / len(pairs) for x in zip(*pairs))
    cov = sum((x - mean_a) * (y - mean_b) for x, y in pairs)
    var = [sum((x - m) ** 2 for x in xs) for xs, m in zip(zip(*pairs), (mean_a, mean_b))]
    return cov / (var[0] * var[1]) ** 0.5 if var[0] > 0 and var[1] > 0 else None


def plot(points, x, label, path):
    """One curve per method, one mark per number."""
    blocks, styles = [], []
    for (name, gamma), group in curves(points).items():
        group = sorted((p for p in group if p[x] is not None), key=lambda p: p[x])
        if not group:
            continue
        blocks.append("\n".join(f"{p[x]} {p['value']}" for p in group))
        title = name + (f", gamma {gamma}" if gamma not in (0, 5) else "")
        style = "points pt 7 ps 1" if len(group) == 1 else "linespoints lw 1.5 ps 0.6"
        styles.append(f"'-' using 1:2 with {style} title '{title}'")
    if not blocks:
        return
    script = (f"set terminal svg size 900,560 font 'sans,12' background 'white'\n"
              f"set output '{path}'\nset key outside right\nset grid\n"
              f"set xlabel '{label}'\nset ylabel '{points[0]['metric']}'\n"
              f"plot {', '.join(styles)}\n" + "\n".join(b + "\ne" for b in blocks) + "\n")
    subprocess.run(["gnuplot"], input=script, text=True, check=True)


def section(points, out, index):
    """Markdown of one temperature, top-p and way to verify; its figures."""
    base = next(p for p in points if p["rule"] == "verifier-only")
    figures = [(f"quality-latency{index}.svg", "relative_latency", "latency, verifier alone = 1"),
               (f"quality-calls{index}.svg", "verifier_calls_per_token",
                "verifier calls per token"),
               (f"quality-rejection{index}.svg", "rejection_rate", "rejection rate")]
    for name, x, label in figures:
        plot(points, x, label, out / name)
    speculative = [p for p in points if p["rejection_rate"] is not None]
    related = correlation(speculative, "rejection_rate", "relative_latency")
    text = [f"## T = {base['temperature']:g}, top-p {base['top_p']:g}, verify {base['verify']}\n",
            f"{base['examples']} examples, {base['seeds']} seed(s), metric {base['metric']}; the "
            f"verifier alone: {base['value']:.2f} ({base['ci_low']:.2f} to {base['ci_high']:.2f}).\n",
            paper_table(points, base),
            "`truncate` is the verifier alone, cut to the set of token-v3 with the same alpha: the "
            "fair baseline of token-v3.\n"]
    if related is not None:
        text.append(f"Correlation of rejection rate and relative latency over "
                    f"{len(speculative)} points: {related:.2f}.\n")
    text += [f"![{label}]({name})\n" for name, _, label in figures if (out / name).exists()]
    text += ["### All points\n", point_table(points)]
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
    parser.add_argument("results", help="JSON lines of bench_sweep")
    parser.add_argument("out", type=pathlib.Path, help="folder to write to")
    args = parser.parse_args()

    points, failed = read_points(args.results)
    if not points:
        parser.error(f"{args.results} holds no finished points")
    args.out.mkdir(parents=True, exist_ok=True)
    groups = collections.OrderedDict()
    for point in points:
        groups.setdefault(settings(point), []).append(point)
    parts = ["# Quality against cost\n"]
    parts += [section(group, args.out, i or "") for i, group in enumerate(groups.values())]
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
