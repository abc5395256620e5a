# SPDX-License-Identifier: Apache-2.0
"""test_bench_scaling.py - bench/scaling.py against sums done by hand, and against bench_ranks."""
import io
import json
import math
import os
import subprocess
import sys
import tempfile
import unittest

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
sys.path.insert(0, os.path.join(ROOT, "bench"))
import scaling  # noqa: E402

FIGURES = ["--memory-gbs", "1000", "--nvlink-us", "10", "--nvlink-gbs", "100", "--ib-us", "30", "--ib-gbs", "20"]


def options(*more):
    return scaling.parse(["--shape", "llama-8b", *FIGURES, *more])


class Scaling(unittest.TestCase):
    def test_weights_are_those_of_the_model(self):
        layer = 4096 * 4096 * 2 + 4096 * 1024 * 2 + 3 * 4096 * 14336
        self.assertEqual(scaling.weights_of_rank("llama-8b", 1), 32 * layer + 128256 * 4096)
        # 16 ranks: two hold each of the 8 heads of keys and values
        kept = (2 * 4096 * 4096 + 3 * 4096 * 14336) / 16 + 2 * 4096 * 128
        self.assertEqual(scaling.weights_of_rank("llama-8b", 16), 32 * kept + 128256 * 4096 / 16)

    def test_sums_within_a_machine_and_between(self):
        o = options()
        self.assertAlmostEqual(scaling.sum_seconds(4, 1e6, o), 10e-6 + 1.5 * 1e6 / 100e9, 12)
        both = 10e-6 + 1.75 * 1e6 / 100e9 + 30e-6 + 2 * 0.75 * 1e6 / 20e9
        self.assertAlmostEqual(scaling.sum_seconds(32, 1e6, o), both, 12)
        self.assertEqual(scaling.sum_seconds(1, 1e6, o), 0)

    def test_a_round(self):
        o = options("--gamma", "1", "--accept", "0.5", "--drafter-ms", "2", "--batch", "3")
        forward, share, verify, rate = scaling.predict("llama-8b", 2, o)
        sums = 65 * (10e-6 + 3 * 2 * 4096 * 2 / 100e9)
        expected = scaling.weights_of_rank("llama-8b", 2) * 2 / 1e12 + sums
        self.assertAlmostEqual(forward, expected * 1e3, 9)
        self.assertAlmostEqual(share, sums / expected, 9)
        # 16 tiles a rank: rows of 140 bytes, two of them first, then room for one
        exchanges = 2 * 10e-6 + 3 * (280 + 144) / 100e9
        self.assertAlmostEqual(verify, exchanges * 1e3, 9)
        self.assertAlmostEqual(rate, 3 * 1.5 / (2e-3 + expected + exchanges), 6)

    def test_exchanges_of_verification(self):
        self.assertEqual(scaling.sent_bytes("llama-8b", 4, 5), [456, 80])  # rules/shard.h
        o = options()
        self.assertAlmostEqual(scaling.gather_seconds(4, 1e6, o), 10e-6 + 3e6 / 100e9, 12)
        both = 10e-6 + 7e6 / 100e9 + 30e-6 + 3 * 8e6 / 20e9
        self.assertAlmostEqual(scaling.gather_seconds(32, 1e6, o), both, 12)
        self.assertEqual(scaling.gather_seconds(1, 1e6, o), 0)

    def test_the_table_says_that_it_predicts(self):
        out = io.StringIO()
        self.assertEqual(scaling.main(["--shape", "qwen-7b", *FIGURES], out), 0)
        self.assertTrue(out.getvalue().startswith("PREDICTED, not measured: qwen-7b"))
        self.assertIn("  16 cannot be sharded over so many", out.getvalue())
        self.assertEqual(len(out.getvalue().splitlines()), 3 + len(scaling.GPUS))

    def test_figures_are_asked_for(self):
        for wrong in ([], ["--shape", "llama-8b"], ["--shape", "llama-8b", *FIGURES, "--accept", "2"]):
            with self.assertRaises(SystemExit), open(os.devnull, "w") as nothing:
                saved, sys.stderr = sys.stderr, nothing
                try:
                    scaling.main(wrong)
                finally:
                    sys.stderr = saved

    def test_a_check_by_hand(self):
        one = {"bench": "ranks", "model": "m", "way": "threads", "ranks": 1, "cores": 2, "rows": 1,
               "forward_ms": 8.0, "all_reduce_ms": 0.0, "all_reduce_share": 0.0}
        four = dict(one, ranks=4, way="processes", forward_ms=10.0, all_reduce_ms=1.0, all_reduce_share=0.1)
        with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as file:
            file.write(json.dumps(one) + "\n" + json.dumps(four) + "\n")
            file.flush()
            out = io.StringIO()
            self.assertEqual(scaling.main(["--check", file.name], out), 0)
            self.assertEqual(out.getvalue().splitlines()[1].split(),
                             ["processes", "4", "1", "10.000", "5.000", "2.00", "10.0%"])

    def test_a_file_that_cannot_be_checked_is_told_in_one_line(self):
        with self.assertRaisesRegex(SystemExit, "/nowhere: No such file"):
            scaling.main(["--check", "/nowhere"], io.StringIO())
        for text in ("[1]\n", "{\n", "\xff"):
            with tempfile.NamedTemporaryFile("w", suffix=".jsonl", encoding="latin-1") as file:
                file.write(text)
                file.flush()
                with self.assertRaisesRegex(SystemExit, "expected lines of JSON"):
                    scaling.main(["--check", file.name], io.StringIO())

    def test_bench_ranks_is_what_it_reads(self):
        with tempfile.NamedTemporaryFile("w+", suffix=".jsonl") as file:
            subprocess.run([os.path.join(os.environ["SPC_BUILD"], "bench_ranks"), "embedded:verifier", "0.02"],
                           stdout=file, check=True, timeout=120)
            file.seek(0)
            lines = [json.loads(line) for line in file]
            self.assertEqual([(line["way"], line["ranks"], line["rows"]) for line in lines],
                             [("threads", n, r) for n in (1, 2, 4) for r in (1, 6)] +
                             [("processes", n, r) for n in (2, 4) for r in (1, 6)])
            for line in lines:
                # two sums a layer and one of the embedding; the time in them is a part of the whole
                sums = 0 if line["ranks"] == 1 else 2 * line["layers"] + 1
                self.assertEqual(line["all_reduces"], sums)
                self.assertTrue(0 <= line["all_reduce_share"] < 1)
                self.assertEqual(line["all_reduce_share"] > 0, line["ranks"] > 1)
                self.assertTrue(math.isfinite(line["rows_per_second"]) and line["rows_per_second"] > 0)
            out = io.StringIO()
            self.assertEqual(scaling.main(["--check", file.name], out), 0)
            self.assertEqual(len(out.getvalue().splitlines()), 9)


if __name__ == "__main__":
    unittest.main()
