# SPDX-License-Identifier: Apache-2.0
"""What a report says before its curves: the claims made for cascades, held against the points."""
CALLS = "verifier_calls_per_token"


def table(header, rows):
    """A table of Markdown."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows]) + "\n"


def method(point):
    """The rule without its number: what one curve joins."""
    name, _, keys = point["rule"].partition(":")
    first, *rest = keys.split(",") if keys else [""]
    key = first.partition("=")[0]
    return ",".join([name if key in ("", "alpha") else f"{name}:{key}"] + rest)


def half_width(point):
    """Of the interval over examples."""
    return (point["ci_high"] - point["ci_low"]) / 2


def cheapest(points, least, cost):
    """The cheapest point of at least that quality, or None."""
    good = [p for p in points if p["value"] >= least and p[cost] is not None]
    return min(good, key=lambda p: p[cost]) if good else None


def measured(point):
    return f"{point['value']:.2f} ± {half_width(point):.2f}"


def number_of(point):
    """The rule's number as it stands in its text, or None."""
    return point["rule"].partition("=")[2].partition(",")[0] or None


def select(points, **wanted):
    return [p for p in points if all(p.get(k) == v for k, v in wanted.items())]


def by_number(points, name):
    return {number_of(p): p for p in points if method(p) == name}


def plain(points, temperature, top_p=1, nucleus=True):
    """Points of gamma 5 or none, verified token by token, one sequence at a time."""
    return [p for p in any_length(points, temperature, top_p, nucleus) if p["gamma"] in (0, 5)]


def any_length(points, temperature, top_p=1, nucleus=True):
    """The same with any draft length: what differs in nothing else."""
    return select(points, temperature=temperature, top_p=top_p, verify="token", nucleus=nucleus,
                  top_k=0, min_p=0, batch=1, bonus_mode="target")


def verifier_quality(points):
    """Who reaches the verifier's sampled quality with the fewest calls?

    strict has the verifier's law, so both measure one quality: their mean is the mark, and a point
    that falls short of it by less than the noise of a difference may still be as good."""
    group = plain(points, 1)
    same = [p for p in group if p["rule"] in ("verifier-only", "strict")]
    rows = []
    if not same:
        return ""
    mark = sum(p["value"] for p in same) / len(same)
    noise = 2 ** 0.5 * half_width(same[0])
    for name in ("strict", "lossy", "chow", "diff", "opt", "token-v1", "token-v2", "token-v3",
                 "truncate"):
        curve = [p for p in group if method(p) == name]
        cells = []
        for least in (mark, mark - noise):
            best = cheapest(curve, least, CALLS)
            cells += ([f"`{best['rule']}`", f"{best[CALLS]:.3f}", measured(best)] if best else
                      ["-", "-", "not reached"])
        if curve:
            rows.append([name] + cells)
    return (f"### The verifier's quality with fewer calls (T = 1, gamma 5)\n\nThe verifier alone and strict, "
            f"which have one law, sample {same[0]['metric']} "
            f"{' and '.join(measured(p) for p in same)} (± half of the 95 % interval over examples): "
            f"the mark is their mean, {mark:.2f}. Least verifier calls per token at the mark or above, and at the "
            f"mark less {noise:.2f}, the noise of a difference:\n\n" +
            table(["method", "at the mark", "verifier calls per token", "quality",
                   "at the mark less noise", "verifier calls per token", "quality"], rows))


def same_law(points):
    """token-chow and chow have one law and different costs."""
    group = plain(points, 1)
    chow, sequential = by_number(group, "chow"), by_number(group, "token-chow")
    rows = []
    for alpha in chow:
        if alpha not in sequential:
            continue
        a, b = chow[alpha], sequential[alpha]
        noise = (half_width(a) ** 2 + half_width(b) ** 2) ** 0.5
        rows.append([alpha, measured(a), measured(b), f"{a['value'] - b['value']:+.2f}",
                     "yes" if abs(a["value"] - b["value"]) <= noise else "**no**",
                     f"{a[CALLS]:.3f}", f"{b[CALLS]:.3f}", f"{a['relative_latency']:.2f}",
                     f"{b['relative_latency']:.2f}"])
    if not rows:
        return ""
    return ("### SpecCascade [Chow] and TokenCascade [Chow]: one law, two costs\n\n" +
            table(["alpha", "chow", "token-chow", "difference", "within noise", "calls, chow",
                   "calls, token-chow", "latency, chow", "latency, token-chow"], rows))


def greedy_twins(points):
    """token-v3 is lossy-greedy at T = 0."""
    group = plain(points, 0)
    token, lossy = by_number(group, "token-v3"), by_number(group, "lossy-greedy")
    counted = ("value", "tokens", "rounds", "verifier_calls", "drafter_calls",
               "accepted_by_position", "output_hash")
    rows = [[alpha, f"{token[alpha]['value']:.4f}", f"{lossy[alpha]['value']:.4f}",
             "yes" if all(token[alpha].get(k) == lossy[alpha].get(k) for k in counted) else "**no**"]
            for alpha in token if alpha in lossy]
    if not rows:
        return ""
    return ("### token-v3 at T = 0 is lossy-greedy\n\n" +
            table(["alpha", "token-v3", "lossy-greedy",
                   "same texts, quality, tokens, rounds, calls and acceptances"], rows))


def distinct(points):
    """How many operating points a method really has."""
    return len({(round(p["value"], 2), round(p[CALLS], 3)) for p in points})


def collapse(points):
    """The rules under nuclei of different sizes."""
    rows = []
    for top_p, nucleus in sorted({(p["top_p"], p["nucleus"]) for p in points}):
        group = plain(points, 1, top_p, nucleus)
        base = select(group, rule="verifier-only")
        for name in ("lossy", "token-v3"):
            curve = [p for p in group if method(p) == name]
            if len(curve) < 3 or not base:
                continue
            reached = cheapest(curve, base[0]["value"], CALLS)
            fast = cheapest(curve, base[0]["value"], "relative_latency")
            within = [p for p in curve if (p["relative_latency"] or 9) <= 1]
            best = max(within, key=lambda p: p["value"]) if within else None
            rows.append([f"{top_p:g}", "kept" if nucleus else "may be left", measured(base[0]),
                         name, str(len(curve)),
                         str(distinct(curve)),
                         f"{min(p[CALLS] for p in curve):.3f} to {max(p[CALLS] for p in curve):.3f}",
                         f"{reached[CALLS]:.3f}" if reached else "-",
                         f"{fast['relative_latency']:.2f}" if fast else "-",
                         measured(best) if best else "-"])
    if not rows:
        return ""
    return ("### Nuclei (T = 1, gamma 5): how far a rule can be tuned\n\n" +
            table(["top-p", "nucleus", "verifier alone", "method", "points", "distinct points",
                   "verifier calls per token", "least at the verifier's quality",
                   "least latency there", "best quality within the verifier's latency"], rows))


def draft_lengths(points):
    """Rules by draft length."""
    group = any_length(points, 1)
    lengths = sorted({p["gamma"] for p in group if p["gamma"]})
    rules = [r for r in dict.fromkeys(p["rule"] for p in group)
             if all(select(group, rule=r, gamma=g) for g in lengths)]
    if len(lengths) < 2 or not rules:
        return ""
    rows = []
    for rule in rules:
        at = [select(group, rule=rule, gamma=g)[0] for g in lengths]
        rows.append([f"`{rule}`"] + [cell for p in at for cell in
                                     (f"{p['value']:.2f}", f"{p[CALLS]:.3f}",
                                      f"{p['relative_latency']:.2f}")])
    return ("### Draft lengths (T = 1)\n\n" +
            table(["rule"] + [f"{what}, gamma {g}" for g in lengths
                              for what in ("quality", "calls per token", "latency")], rows))


def text_of_findings(points):
    """Markdown; empty where no claim can be tried on these points."""
    parts = [part for part in (verifier_quality(points), same_law(points), greedy_twins(points),
                               collapse(points), draft_lengths(points)) if part]
    return "## Claims, and what was measured\n\n" + "\n".join(parts) if parts else ""
