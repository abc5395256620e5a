#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""bench/report.py and bench/findings.py on points whose answers are known; bench/record."""
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest

BENCH = pathlib.Path(__file__).resolve().parent.parent / "bench"
sys.path.insert(0, str(BENCH))

import findings  # noqa: E402
import report  # noqa: E402


def point(rule, value, calls, latency=1.0, **more):
    """A line of a sweep."""
    line = {"bench": "sweep", "rule": rule, "gamma": 5, "temperature": 1.0, "top_p": 1.0,
            "top_k": 0, "min_p": 0.0, "batch": 1, "nucleus": True, "bonus_mode": "target", "seeds": [0],
            "value_by_seed": [float(value)], "verify": "token", "metric": "bleu", "examples": 10, "value": float(value),
            "ci_low": value - 1.0, "ci_high": value + 1.0, "verifier_calls_per_token": calls,
            "relative_latency": latency, "acceptance_rate": 0.5, "rejection_rate": 0.5,
            "deferral_rate": 0.25, "deferred_per_token": 0.25, "length_ratio": 1.0,
            "at_limit": 0.0, "tokens": 100, "rounds": 30, "verifier_calls": 30,
            "drafter_calls": 150, "verified_by_position": [20, 10, 5, 2, 1],
            "accepted_by_position": [10, 5, 2, 1, 0]}
    if rule in ("verifier-only", "drafter-only") or rule.startswith(("token-chow", "seq-chow")):
        line.update(gamma=0, rejection_rate=None, verified_by_position=[],
                    accepted_by_position=[])
    line.update(more)
    return line


def rows_of(text, title):
    """Cells of the table below a heading."""
    part = text[text.index(title):]
    end = part.find("\n\n", part.index("|---"))
    lines = [line for line in part[:end if end > 0 else None].splitlines()
             if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[1:]]


BASE = [point("verifier-only", 30, 1.0), point("strict", 30.5, 0.4, 1.2)]


class Reading(unittest.TestCase):
    def read(self, *lines):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "sweep.jsonl"
            path.write_text("".join(line if isinstance(line, str) else json.dumps(line) + "\n"
                                    for line in lines), encoding="utf-8")
            return report.read_points([path])

    def test_seeds_are_averaged_and_kept_apart_from_other_settings(self):
        points, failed = self.read(
            {"date": "the header of a recorded run"}, *BASE,
            point("strict", 32.5, 0.5, seeds=[1, 2], value_by_seed=[32.0, 33.0]),
            point("strict", 20, 0.3, top_p=0.5),
            {"bench": "sweep", "rule": "chow:alpha=2", "failed": "why"})
        strict = [p for p in points if p["rule"] == "strict"]
        self.assertEqual([p["seeds"] for p in strict], [3, 1])
        self.assertAlmostEqual(strict[0]["value"], (30.5 + 2 * 32.5) / 3)
        self.assertAlmostEqual(strict[0]["verifier_calls_per_token"], (0.4 + 2 * 0.5) / 3)
        self.assertEqual((strict[0]["seed_low"], strict[0]["seed_high"]), (30.5, 33.0))
        self.assertEqual(strict[0]["accepted_by_position"], [20, 10, 4, 2, 0])
        self.assertEqual([p["rule"] for p in failed], ["chow:alpha=2"])

    def test_no_seed_counts_twice(self):
        """A sweep of three seeds beside one of the first of them, as two grids overlap."""
        three = point("strict", 32, 0.5, seeds=[0, 1, 2], value_by_seed=[30.0, 32.0, 34.0])
        for lines in ((BASE[1], three), (three, BASE[1])):
            points, _ = self.read(*lines)
            self.assertEqual([(p["seeds"], p["value"]) for p in points], [(3, 32.0)])
        with self.assertRaisesRegex(SystemExit, "strict: seeds .* in part"):
            self.read(three, point("strict", 31, 0.4, seeds=[2, 3], value_by_seed=[31.0, 31.0]))

    def test_totals_are_of_all_seeds(self):
        points, _ = self.read(point("strict", 30, 0.4, seconds=1.5, tokens=100),
                              point("strict", 30, 0.4, seconds=3.5, tokens=210, seeds=[1, 2],
                                    value_by_seed=[30.0, 30.0]))
        self.assertEqual([(p["seeds"], p["seconds"], p["tokens"]) for p in points], [(3, 5.0, 310)])

    def test_points_of_other_data_or_models_are_refused(self):
        for other in ({"data_hash": "b"}, {"verifier": "b"}, {"metric": "chrf"}, {"examples": 11},
                      {"max_tokens": 9}, {"chat_template": "b"}, {"ask": "b"}):
            (name, _), = other.items()
            with self.assertRaisesRegex(SystemExit, f"line 2: {name} is .*points of one sweep only"):
                self.read(point("strict", 30, 0.4, data_hash="a", verifier="a"),
                          point("strict", 30, 0.4, seeds=[1], **{"data_hash": "a", "verifier": "a", **other}))

    def test_a_line_cut_by_an_interruption_is_passed_over_and_others_are_not(self):
        points, _ = self.read(*BASE, '{"bench": "swe')
        self.assertEqual(len(points), 2)
        with self.assertRaisesRegex(SystemExit, "line 3"):
            self.read(*BASE, '{"bench": "swe\n')

    def test_what_a_line_does_not_say_is_the_default(self):
        old = {k: v for k, v in point("strict", 30, 0.4).items()
               if k not in ("top_k", "min_p", "batch", "nucleus", "bonus_mode", "seeds",
                            "value_by_seed")}
        points, _ = self.read({**old, "seed": 7}, point("strict", 32, 0.4))
        self.assertEqual([(p["seeds"], p["value"]) for p in points], [(2, 31.0)])

    def test_methods_are_rules_without_their_number(self):
        for rule, name in (("token-v3:alpha=0.5", "token-v3"), ("strict", "strict"),
                           ("lossy:alpha=0.3,beta=solve", "lossy,beta=solve"),
                           ("truncate:top-p=0.5", "truncate:top-p")):
            self.assertEqual(findings.method({"rule": rule}), name)


class Findings(unittest.TestCase):
    def test_the_verifiers_quality_is_reached_at_the_cheapest_point_that_is_good_enough(self):
        text = findings.verifier_quality(BASE + [
            point("token-v3:alpha=0.1", 33, 0.35), point("token-v3:alpha=0.5", 31, 0.2),
            point("token-v3:alpha=0.9", 29, 0.1), point("chow:alpha=0.5", 25, 0.1)])
        rows = {row[0]: row for row in rows_of(text, "###")}
        self.assertIn("30.25", text, "the mean of the two with one law")
        self.assertEqual(rows["token-v3"][1:3], ["`token-v3:alpha=0.5`", "0.200"])
        self.assertEqual(rows["token-v3"][4:6], ["`token-v3:alpha=0.9`", "0.100"], "within noise")
        self.assertEqual(rows["strict"][2], "0.400")
        self.assertEqual((rows["chow"][3], rows["chow"][6]), ("not reached", "not reached"))

    def test_one_law_is_compared_alpha_by_alpha(self):
        rows = rows_of(findings.same_law(BASE + [
            point("chow:alpha=0.5", 25, 0.3), point("token-chow:alpha=0.5", 25.9, 0.2),
            point("chow:alpha=0.7", 25, 0.3), point("token-chow:alpha=0.7", 27, 0.2),
            point("chow:alpha=0.9", 25, 0.3)]), "###")
        self.assertEqual([(row[0], row[4]) for row in rows], [("0.5", "yes"), ("0.7", "**no**")])

    def test_greedy_twins_must_agree_in_everything_counted(self):
        points = [point("token-v3:alpha=0.5", 40, 0.3, temperature=0.0),
                  point("lossy-greedy:alpha=0.5", 40, 0.3, temperature=0.0),
                  point("token-v3:alpha=0.9", 40, 0.3, temperature=0.0),
                  point("lossy-greedy:alpha=0.9", 40, 0.3, temperature=0.0, rounds=31)]
        rows = rows_of(findings.greedy_twins(points), "###")
        self.assertEqual([row[3] for row in rows], ["yes", "**no**"])

    def test_equal_points_are_counted_once(self):
        points = [point("verifier-only", 30, 1.0, top_p=0.1)]
        points += [point(f"lossy:alpha={a}", 30, 0.4, top_p=0.1) for a in (0.1, 0.3, 0.5)]
        points += [point(f"token-v3:alpha={a}", 30 - a, 0.4 - a / 9, top_p=0.1)
                   for a in (0.1, 0.3, 0.5)]
        rows = rows_of(findings.collapse(points), "###")
        self.assertEqual([(row[3], row[5]) for row in rows], [("lossy", "1"), ("token-v3", "3")])

    def test_draft_lengths_stand_side_by_side(self):
        points = BASE + [point("strict", 30, 0.5, gamma=3), point("opt:alpha=0", 30, 0.5, gamma=3)]
        rows = rows_of(findings.draft_lengths(points), "###")
        self.assertEqual([row[0] for row in rows], ["`strict`"], "opt has one length only")
        self.assertEqual(rows[0][1:3] + rows[0][4:6], ["30.00", "0.500", "30.50", "0.400"])

    def test_other_ways_to_decode_have_no_part_in_a_claim(self):
        """Batches, truncation, and a bonus from the verifier, which is another law."""
        for other in ({"batch": 16}, {"top_k": 5}, {"min_p": 0.1}, {"nucleus": False},
                      {"bonus_mode": "verifier"}):
            points = [point("strict", 20, 0.9, gamma=3, **other), point("strict", 20, 0.9, **other)]
            points += BASE + [point("strict", 30, 0.5, gamma=3)]
            rows = rows_of(findings.draft_lengths(points), "###")
            self.assertEqual(rows[0][1:3] + rows[0][4:6], ["30.00", "0.500", "30.50", "0.400"], other)
            self.assertEqual(len(findings.plain(points, 1)), 2, other)

    def test_points_without_a_claim_say_nothing(self):
        self.assertEqual(findings.text_of_findings([]), "")


class Tables(unittest.TestCase):
    def test_the_papers_table_has_the_least_latency_and_the_best_quality(self):
        points = BASE + [point("token-v3:alpha=0.1", 33, 0.35, 1.3),
                         point("token-v3:alpha=0.5", 31, 0.2, 0.9),
                         point("token-v3:alpha=0.9", 29, 0.1, 0.5)]
        rows = {row[0]: row for row in rows_of(report.paper_table(points, BASE[0]), "")}
        self.assertEqual(rows["token-v3"][2:], ["0.90", "0.200", "`token-v3:alpha=0.5`",
                                                "31.00 ± 1.00", "`token-v3:alpha=0.5`", "33.00"])
        self.assertEqual(rows["strict"][5], "-", "no point is as fast as the verifier")

    def test_the_oracle_pays_for_deferred_tokens_only(self):
        twin, = report.oracle([point("diff:alpha=0.1", 30, 0.3), point("opt:alpha=0", 30, 0.3)])
        self.assertEqual(twin["verifier_calls_per_token"], 0.25)
        self.assertEqual(report.method(twin), "oracle of diff")

    def test_correlation_of_a_line_is_one(self):
        points = [{"a": x, "b": 3 - 2 * x} for x in range(4)] + [{"a": None, "b": 9}]
        self.assertAlmostEqual(report.correlation(points, "a", "b"), -1)


class Program(unittest.TestCase):
    def run_report(self, *arguments):
        return subprocess.run([sys.executable, BENCH / "report.py", *arguments], text=True,
                              capture_output=True, check=False)

    def test_a_report_is_written(self):
        with tempfile.TemporaryDirectory() as folder:
            source, out = pathlib.Path(folder) / "a.jsonl", pathlib.Path(folder) / "out"
            source.write_text("".join(json.dumps(p) + "\n" for p in BASE), encoding="utf-8")
            ran = self.run_report("--no-figures", source, out)
            self.assertEqual(ran.returncode, 0, ran.stderr)
            self.assertIn("| strict |", (out / "report.md").read_text(encoding="utf-8"))
            self.assertIn("<td>strict</td>", (out / "index.html").read_text(encoding="utf-8"))
            self.assertEqual(len((out / "points.csv").read_text().splitlines()), 3)

    def test_a_sweep_without_the_verifier_alone_is_refused(self):
        with tempfile.TemporaryDirectory() as folder:
            source = pathlib.Path(folder) / "a.jsonl"
            source.write_text(json.dumps(BASE[1]) + "\n", encoding="utf-8")
            ran = self.run_report("--no-figures", source, pathlib.Path(folder) / "out")
            self.assertEqual(ran.returncode, 1)
            self.assertIn("verifier-only", ran.stderr)
            self.assertEqual(ran.stderr.count("\n"), 1)


class Sweeps(unittest.TestCase):
    def test_all_of_them_run_and_end_in_a_report(self):
        with tempfile.TemporaryDirectory() as folder:
            data, out = pathlib.Path(folder) / "data.tsv", pathlib.Path(folder) / "out"
            data.write_text("de\tThe cat sleeps.\tDie Katze schläft.\n"
                            "fr\tI am cold.\tJ'ai froid.\n", encoding="utf-8")
            ran = subprocess.run([BENCH / "sweeps", data, out, "--max-tokens", "6"], text=True,
                                 capture_output=True, check=False)
            self.assertEqual(ran.returncode, 0, ran.stderr)
            names = ["methods", "greedy", "nuclei", "comparators", "draft-lengths", "batched",
                     "seeds"]
            lines = [json.loads(line) for name in names
                     for line in (out / f"{name}.jsonl").read_text().splitlines()]
            self.assertEqual([line for line in lines if "failed" in line], [])
            rules = {findings.method(line) for line in lines}
            self.assertLessEqual({"drafter-only", "verifier-only", "strict", "lossy", "chow",
                                  "diff", "opt", "token-v1", "token-v2", "token-v3", "bild",
                                  "token-chow", "seq-chow", "lossy-greedy", "truncate"}, rules)
            self.assertEqual({line["batch"] for line in lines}, {1, 16})
            self.assertEqual({line["gamma"] for line in lines}, {0, 3, 5, 7})
            self.assertIn("with fewer calls", (out / "report.md").read_text(encoding="utf-8"))
            self.assertTrue((out / "index.html").exists())
            front = json.loads((out / "operating-points.json").read_text(encoding="utf-8"))
            self.assertTrue(all("relative_latency" in chosen for chosen in front) and front)


class Misuse(unittest.TestCase):
    def test_what_is_no_sweep_is_said_in_one_line(self):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "sweep.jsonl"
            for text, why in ((None, "No such file"), ('5\n{"bench": "sweep"}\n', "line 2: expected a result with"),
                              ('{"bench": \n', "line 1: ")):
                if text:
                    path.write_text(text, encoding="utf-8")
                done = subprocess.run([sys.executable, BENCH / "report.py", "--no-figures", path, folder],
                                      text=True, capture_output=True, check=False)
                self.assertEqual((done.returncode, done.stderr.count("\n")), (1, 1), done.stderr)
                self.assertIn(why, done.stderr)


class Record(unittest.TestCase):
    def call(self, *arguments):
        with tempfile.TemporaryDirectory() as folder:
            root = pathlib.Path(folder)
            (root / "bench" / "results").mkdir(parents=True)
            script = shutil.copy(BENCH / "record", root / "bench")
            done = subprocess.run(["bash", script, *arguments], text=True, capture_output=True, check=False)
            files = [file.read_text(encoding="utf-8") for file in (root / "bench" / "results").iterdir()]
            return done, files

    def test_the_command_is_kept_as_json(self):
        command = ["printf", "%s", '{"a": 1}', "--ask", 'say "no"\tor\\n', "two\nlines"]
        done, files = self.call("name", *command)
        self.assertEqual((done.returncode, len(files)), (0, 1), done.stderr)
        first, result = files[0].split("\n", 1)
        self.assertEqual(json.loads(first)["command"], " ".join(command))
        self.assertTrue(result.startswith('{"a": 1}'))

    def test_without_a_command_nothing_is_recorded(self):
        for arguments in ([], ["name"], ["--help"], ["--help", "true"]):
            done, files = self.call(*arguments)
            self.assertEqual((done.returncode, files), (2, []), arguments)
            self.assertIn("bench/record NAME COMMAND", done.stderr)


if __name__ == "__main__":
    unittest.main()
