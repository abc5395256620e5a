#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""bench/peers/samplers.py, assisted.py, bench/spec_bench.py: test_bench_peers.py LIBSPC_VERIFY.SO SPC

What needs PyTorch is skipped where there is none.  FlashInfer and vLLM are stood in for by their
documented meaning: that shows how they are called, not that the packages still mean it.
"""
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import types
import unittest
from unittest import mock

PEERS = pathlib.Path(__file__).resolve().parent.parent / "bench" / "peers"
sys.path.insert(0, str(PEERS))
import assisted  # noqa: E402
import samplers  # noqa: E402

LIBRARY, SPC = sys.argv[1:3]
try:
    import torch
except ImportError:
    torch = None


def run(*options, **environment):
    return subprocess.run([sys.executable, str(PEERS / "samplers.py"), *options], text=True,
                          capture_output=True, check=False, env={**os.environ, **environment})


class Misuse(unittest.TestCase):
    def test_options_that_cannot_be(self):
        for options, message in ((("--shape", "1,2"), "expected B,G,V"),
                                 (("--shape", "1,0,8"), "expected B,G,V"),
                                 (("--shape", "a,b,c"), "expected B,G,V"),
                                 (("--temperature", "0"), "above 0"),
                                 (("--temperature", "nan"), "above 0"),
                                 (("--runs", "2"), "3 or more"),
                                 (("--samplers", "nobody"), "invalid choice")):
            done = run(*options)
            self.assertEqual(done.returncode, 2, options)
            self.assertIn(message, done.stderr)

    def test_without_pytorch_one_line(self):
        with tempfile.TemporaryDirectory() as folder:
            (pathlib.Path(folder) / "torch.py").write_text("raise ImportError\n", encoding="utf-8")
            done = run(PYTHONPATH=folder)
        self.assertEqual((done.returncode, done.stdout, len(done.stderr.splitlines())), (1, "", 1))
        self.assertIn("torch is not installed", done.stderr)


class Assisted(unittest.TestCase):
    """bench/peers/assisted.py, as far as it goes without transformers."""

    def call(self, *options, **environment):
        return subprocess.run([sys.executable, str(PEERS / "assisted.py"), "spc", "v", "d",
                               *options], text=True, capture_output=True, check=False,
                              env={**os.environ, **environment})

    def test_what_cannot_be_is_said_in_one_line(self):
        done = self.call("--tokens", "1")
        self.assertEqual(done.returncode, 2)
        self.assertIn("--tokens: expected 2 or more, found 1", done.stderr)
        for missing in ("torch", "transformers"):
            with tempfile.TemporaryDirectory() as folder:
                for name in ("torch", "transformers"):
                    text = f"raise ImportError(name='{name}')\n" if name == missing else ""
                    (pathlib.Path(folder) / f"{name}.py").write_text(text, encoding="utf-8")
                done = self.call(PYTHONPATH=folder)
            self.assertEqual((done.returncode, len(done.stderr.splitlines())), (1, 1))
            self.assertIn(f"{missing} is not installed", done.stderr)

    def test_prompts_that_begin_alike(self):
        """bench/prefix.py: the same ids, and what two of three prompts take over."""
        demo = PEERS.parent.parent / "weights" / "demo"
        done = subprocess.run([sys.executable, str(PEERS.parent / "prefix.py"), SPC,
                               str(demo / "verifier"), str(demo / "drafter"), "--common", "80",
                               "--own", "5", "--batch", "3", "--tokens", "4", "--repeats", "1"],
                              text=True, capture_output=True, check=True)
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        self.assertEqual([(l["shared"], l["ids_agree"], l["reused_tokens"]) for l in lines],
                         [(False, 3, 0), (True, 3, 160)])

    def test_prompts_are_lines_of_json_strings(self):
        self.assertGreater(len(assisted.texts(PEERS / "edits.jsonl")), 4)
        with tempfile.TemporaryDirectory() as folder:
            file = pathlib.Path(folder) / "p.jsonl"
            for text in ("", "[1]\n", "no JSON\n"):
                file.write_text(text, encoding="utf-8")
                done = self.call("--prompts", str(file))
                self.assertEqual(done.returncode, 2)
                self.assertIn(f"--prompts: {file}", done.stderr)

    def test_prompts_come_from_one_place(self):
        done = self.call("--ids", "5", "--prompts", str(PEERS / "edits.jsonl"))
        self.assertEqual(done.returncode, 2)
        self.assertIn("--ids: prompts are ids or those of --prompts", done.stderr)

    def test_what_spc_says_is_read(self):
        """A drafter that is the verifier: rounds of gamma + 1 tokens, the ids of plain decoding."""
        model = str(PEERS.parent.parent / "tests" / "vectors" / "llama")
        args = types.SimpleNamespace(spc=SPC, verifier=model, drafter=model, gamma=3, tokens=12,
                                     context=0, device="cpu", threads=1)
        prompts = assisted.prompts_of(None, types.SimpleNamespace(ids=5), 389)
        plain = [assisted.run_spc(args, prompts, False) for _ in range(2)]
        drafted = [assisted.run_spc(args, prompts, True)]
        line = assisted.line_of("spc", False, plain, None, plain[0][0])
        self.assertEqual((line["mode"], line["tokens"], line["tokens_per_verifier_call"]),
                         ("plain", 96, 1))
        self.assertGreater(line["tokens_per_s"], 0)
        faster = assisted.line_of("spc", True, drafted, line["tokens_per_s"], plain[0][0])
        self.assertEqual((faster["tokens_per_verifier_call"], faster["ids_as_plain"]), (4, 8))
        self.assertAlmostEqual(faster["speedup_over_plain"],
                               faster["tokens_per_s"] / line["tokens_per_s"], 2)

    def test_a_gpu_is_told_of_no_threads(self):
        """Which spc refuses there."""
        for device, told in (("cpu", True), ("cuda", False)):
            args = types.SimpleNamespace(spc="spc", verifier="v", drafter="d", gamma=3, tokens=12,
                                         context=0, device=device, threads=1)
            done = subprocess.CompletedProcess([], 0, stdout="", stderr="")
            with mock.patch.object(assisted.subprocess, "run", return_value=done) as started:
                assisted.run_spc(args, [[1]], True)
            command = started.call_args.args[0]
            self.assertEqual("--threads" in command, told)
            self.assertEqual(command[command.index("--device") + 1], device)

    def test_spc_alone_needs_nothing_else(self):
        model = str(PEERS.parent.parent / "tests" / "vectors" / "llama")
        done = subprocess.run([sys.executable, str(PEERS / "assisted.py"), SPC, model, model,
                               "--alone", "--gamma", "auto", "--ids", "5", "--tokens", "6",
                               "--repeats", "1", "--drafter-vocab", "9"], text=True,
                              capture_output=True, check=True)
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        self.assertEqual([(l["mode"], l["gamma"], l["ids_as_plain"], l.get("drafter_vocab"))
                          for l in lines],
                         [("plain", "auto", 8, None), ("assisted", "auto", 8, None),
                          ("assisted", "auto", 8, "9")])
        done = self.call("--gamma", "auto")
        self.assertEqual(done.returncode, 2)
        self.assertIn("--alone only", done.stderr)


LONG = "I would have told you the truth if I had known that you were coming."  # the two models disagree on it


class SpecBench(unittest.TestCase):
    """bench/spec_bench.py, by the demo pair in a chat template (as in chat_pair.h)."""
    QUESTIONS = [{"category": "writing", "turns": ["The cat sleeps.", "It is late."]},
                 {"category": "qa", "turns": ["Where is it?"], "question_id": 5},
                 {"category": "math", "turns": ["I have two sisters."]}]

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        root = PEERS.parent.parent
        for name in ("verifier", "drafter"):
            demo, here = root / "weights" / "demo" / name, self.folder / name
            here.mkdir()
            for file, changes in (
                    ("config.json", (("512", "4000"), ('"eos_token_id": 2', '"eos_token_id": 0'))),
                    ("tokenizer.json", (("<2de>", "[INST]"), ("<sep>", "[/INST]")))):
                text = (demo / file).read_text("utf-8")
                for before, behind in changes:
                    text = text.replace(before, behind)
                (here / file).write_text(text, "utf-8")
            (here / "model.safetensors").symlink_to(demo / "model.safetensors")
            (here / "chat_template.jinja").symlink_to(
                root / "tests" / "vectors" / "chat" / "mistral-nemo.jinja")

    def call(self, *options, questions=None):
        file = self.folder / "questions.jsonl"
        file.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in
                                (self.QUESTIONS if questions is None else questions)), "utf-8")
        return subprocess.run([sys.executable, str(PEERS.parent / "spec_bench.py"), SPC, str(file),
                               str(self.folder / "verifier"), str(self.folder / "drafter"),
                               *options], text=True, capture_output=True, check=False)

    def test_lines_of_every_category_and_method(self):
        done = self.call("--method", "strict=--gamma 2", "--method", "same=--gamma 2 --drafter " +
                         str(self.folder / "verifier"), "--method", "sampled=--seed 3",
                         "--tokens", "24", "--clock", "cpu", "--", "--threads", "1")
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        self.assertEqual([(l["category"], l["method"]) for l in lines],
                         [(c, m) for c in ("mt_bench", "qa", "all")
                          for m in ("verifier", "strict", "same", "sampled")])
        self.assertEqual([(l["questions"], l["turns"]) for l in lines[::4]],
                         [(2, 3), (1, 1), (3, 4)])
        plain, strict, same, _ = lines[8:]
        self.assertEqual((plain["tokens_per_verifier_call"], plain["speedup"]), (1, 1))
        self.assertGreater(strict["tokens_per_verifier_call"], 1)
        self.assertGreater(same["tokens_per_verifier_call"], strict["tokens_per_verifier_call"])
        for line in (strict, same):  # greedy strict writes what the verifier writes
            self.assertEqual((line["tokens"], line["replies_as_verifier"], line["of_replies"]),
                             (plain["tokens"], 4, 4))
            self.assertLessEqual(line["speedup_low"], line["speedup"])
            self.assertLessEqual(line["speedup"], line["speedup_high"])
            self.assertAlmostEqual(line["speedup"], line["tokens_per_s"] / plain["tokens_per_s"], 1)
        for key in ("tokens", "prompt_tokens"):
            self.assertEqual(plain[key], lines[0][key] + lines[4][key])

    def test_another_text_is_another_conversation(self):
        """Behind a reply that is not the verifier's, later ones are not counted as ones that could
        have been."""
        done = self.call("--method", "drafter=--rule drafter-only", "--tokens", "24",
                         questions=[{"category": "qa", "turns": [LONG, "It is late."]}] * 2)
        line = json.loads(done.stdout.splitlines()[-1])
        self.assertEqual((line["turns"], line["replies_as_verifier"]), (4, 0), done.stderr)
        self.assertEqual(line["of_replies"], 2)

    def test_what_cannot_be_is_said(self):
        for options, message in ((("--method", "strict"), "expected NAME=OPTIONS"),
                                 (("--method", "verifier=--seed 1"), "is always there"),
                                 (("--every", "0"), "--every: expected 1 or more, found 0"),
                                 (("--tokens", "0"), "--tokens: expected 1 or more, found 0")):
            done = self.call(*options)
            self.assertEqual(done.returncode, 2, options)
            self.assertIn(message, done.stderr)
        for row in ("[1]", "no JSON", '{"turns": ["a"]}', '{"category": "qa", "turns": "a"}',
                    '{"category": "qa", "turns": []}'):
            done = self.call(questions=[*self.QUESTIONS, row])
            self.assertEqual((done.returncode, done.stdout), (2, ""))
            self.assertIn("questions.jsonl: line 4: expected an object", done.stderr)
        self.assertIn("found none", self.call(questions=[]).stderr)

    def test_the_loading_of_models_is_in_no_turn(self):
        """Which would be in the first one, of the verifier alone, and make all others look faster."""
        slow = self.folder / "slow"
        slow.write_text(f"#!{sys.executable}\n" + "import json, sys, time\n"
                        "while time.process_time() < 0.8: pass\n"
                        "for line in sys.stdin:\n"
                        "    print(json.dumps(dict(ids=[1], tokens=1, verifier_calls=1, prompt_tokens=1,\n"
                        "                          drafter_ms=0, verifier_ms=1, other_ms=0)), flush=True)\n",
                        "utf-8")
        slow.chmod(0o755)
        with mock.patch(f"{__name__}.SPC", str(slow)):
            done = self.call("--method", "same=--seed 1", "--clock", "cpu")
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        self.assertEqual([l["turns"] for l in lines[-2:]], [4, 4], done.stderr)
        for line in lines[-2:]:
            self.assertGreater(line["tokens_per_s"], 10)

    def test_a_program_that_ends_is_said_by_name(self):
        done = self.call("--method", "wrong=--rule nonsense", "--tokens", "2")
        self.assertEqual((done.returncode, done.stdout), (1, ""))
        self.assertIn("spec_bench.py: wrong: ended with exit code 2", done.stderr)
        self.assertIn("nonsense", done.stderr)


def chain(draft_probs, draft_token_ids, target_probs, seed=None, offset=None):
    """Chain sampling as FlashInfer's manual defines it: tokens, and two counts nobody asks for."""
    assert seed is not None and offset is not None
    sequences, drafts, vocab = draft_probs.shape
    assert target_probs.shape == (sequences, drafts + 1, vocab)
    tokens = torch.full((sequences, drafts + 1), -1, dtype=torch.int32)
    for s in range(sequences):
        for i in range(drafts + 1):
            rest = target_probs[s, i]
            if i < drafts:
                d = int(draft_token_ids[s, i])
                if torch.rand(()) * draft_probs[s, i, d] < rest[d]:
                    tokens[s, i] = d
                    continue
                rest = (rest - draft_probs[s, i]).clamp(min=0)
            tokens[s, i] = int(rest.multinomial(1))
            break
    return tokens, None, None


def flashinfer():
    package = types.ModuleType("flashinfer")
    package.sampling = types.ModuleType("flashinfer.sampling")
    package.sampling.softmax = (
        lambda logits, temperature: (logits.float() / temperature).softmax(-1))
    package.sampling.chain_speculative_sampling = chain
    return {"flashinfer": package, "flashinfer.sampling": package.sampling}


def vllm(takes):
    """rejection_sample as vLLM's source documents it; what it takes has changed its name once."""
    def sample(draft_token_ids, num_draft_tokens, max_spec_len, cu_num_draft_tokens, draft_probs,
               target, bonus_token_ids, sampling_metadata):
        sequences = len(num_draft_tokens)
        assert sampling_metadata.all_random and not sampling_metadata.generators
        assert draft_token_ids.shape == (sequences * max_spec_len,) and target.ndim == 2
        assert cu_num_draft_tokens.tolist() == [sum(num_draft_tokens[:i + 1])
                                                for i in range(sequences)]
        probs = target.softmax(-1) if takes == "target_logits" else target
        probs = probs.view(sequences, max_spec_len, -1)
        bonus = torch.zeros(sequences, 1, probs.shape[-1])
        bonus.scatter_(2, bonus_token_ids.long()[..., None], 1)
        return chain(draft_probs.view(probs.shape), draft_token_ids.view(sequences, -1),
                     torch.cat([probs, bonus], 1), 1, 0)[0]

    names = ["draft_token_ids", "num_draft_tokens", "max_spec_len", "cu_num_draft_tokens",
             "draft_probs", takes, "bonus_token_ids", "sampling_metadata"]
    sample.__signature__ = samplers.inspect.Signature(
        [samplers.inspect.Parameter(n, samplers.inspect.Parameter.POSITIONAL_OR_KEYWORD)
         for n in names])
    package = {name: types.ModuleType(name) for name in
               ("vllm", "vllm.v1", "vllm.v1.sample", "vllm.v1.sample.rejection_sampler")}
    package["vllm.v1.sample.rejection_sampler"].rejection_sample = sample
    package["vllm.v1.sample"].rejection_sampler = package["vllm.v1.sample.rejection_sampler"]
    return package


@unittest.skipUnless(torch, "PyTorch is not installed")
class Law(unittest.TestCase):
    def check(self, make):
        torch.manual_seed(3)
        samplers.check_law(torch, "cpu", make, LIBRARY, 0.7)

    def test_samplers_draw_what_they_should(self):
        self.check(samplers.plain)
        self.check(samplers.spc)
        with mock.patch.dict(sys.modules, flashinfer()):
            self.check(samplers.flashinfer)
        for takes in ("target_probs", "target_logits"):
            with mock.patch.dict(sys.modules, vllm(takes)):
                self.check(samplers.vllm)

    def test_samplers_that_draw_wrongly_are_found(self):
        def all_kept(rows, _):
            return lambda: torch.cat([rows.draft.long(), rows.draft[:, :1].long()], 1)

        def from_the_verifier_after_a_rejection(rows, _):
            right = samplers.plain(rows, None)

            def sample():
                tokens, p = right(), rows.softmax(rows.verifier)
                count = (tokens >= 0).sum(1)
                each = torch.arange(len(count))
                tokens[each, count - 1] = rows.race(p[each, count - 1])
                return tokens
            return sample

        def at_temperature_one(rows, _):
            rows = types.SimpleNamespace(
                torch=torch, shape=rows.shape, draft=rows.draft, race=rows.race,
                verifier=rows.verifier, drafter=rows.drafter,
                softmax=lambda logits: logits.float().softmax(-1))
            return samplers.plain(rows, None)

        def no_end(rows, _):
            return lambda: samplers.plain(rows, None)().clamp(min=0)

        for make, why in ((all_kept, "does not follow"),
                          (from_the_verifier_after_a_rejection, "does not follow"),
                          (at_temperature_one, "does not follow"), (no_end, "-1 behind")):
            with self.subTest(make.__name__), self.assertRaisesRegex(samplers.Unfit, why):
                self.check(make)

    def test_another_version_is_refused_by_name(self):
        with mock.patch.dict(sys.modules, vllm("something_else")):
            with self.assertRaisesRegex(samplers.Unfit, "takes .*something_else"):
                self.check(samplers.vllm)

    def test_lines_of_those_that_are_there(self):
        done = run("--device", "cpu", "--library", LIBRARY, "--shape", "2,3,1000",
                   "--shape", "1,1,7", "--runs", "3", "--samplers", "torch", "spc")
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        self.assertEqual([(line["sampler"], line["vocab"]) for line in lines],
                         [("torch", 1000), ("spc", 1000), ("torch", 7), ("spc", 7)])
        for line in lines:
            self.assertGreater(line["us"], 0)
            self.assertTrue(0 <= line["accepted"] <= line["drafts"])

    def test_without_a_library_the_others_go_on(self):
        done = run("--device", "cpu", "--shape", "1,1,9", "--runs", "3",
                   "--samplers", "spc", "torch")
        self.assertEqual(done.returncode, 0)
        self.assertEqual(done.stderr, "samplers.py: spc: no --library was given\n")
        self.assertEqual(json.loads(done.stdout)["sampler"], "torch")


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
