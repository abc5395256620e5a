#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""tests/consumer/verify.py, engine.py and choice.py against the libraries they load: test_python.py LIBSPC_VERIFY.SO
LIBSPC.SO LAYOUT NM CC LIBRARY.A ..."""
import ctypes
import pathlib
import platform
import re
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent / "consumer"))
import choice  # noqa: E402
import engine  # noqa: E402
import verify  # noqa: E402

LIBRARY, ENGINE, LAYOUT, NM, CC, *ARCHIVES = sys.argv[1:]
ROOT = pathlib.Path(__file__).resolve().parent.parent


def exported(library):
    """The names that a shared object defines for others."""
    return subprocess.run([NM, "-D", "--defined-only", library], text=True, capture_output=True,
                          check=True).stdout.split()[2::3]


def declared():
    """The functions that the public headers mark as the interface."""
    return {name for folder in ("host/include/spc", "rules") for header in (ROOT / folder).glob("*.h")
            for name in re.findall(r"^SPC_(?:RULE_)?API [^(;]*?(\w+)\(", header.read_text(), re.M)}


class Library(unittest.TestCase):
    def test_structs_lie_as_in_c(self):
        lines = subprocess.run([LAYOUT], text=True, capture_output=True, check=True).stdout
        for line in lines.splitlines():
            name, number = line.split()
            struct, _, field = name.partition(".")
            kind = getattr(verify, struct, None) or getattr(engine, struct)
            self.assertEqual(getattr(kind, field).offset if field else ctypes.sizeof(kind),
                             int(number), name)

    def test_the_batch_is_decided(self):
        lib = verify.load(LIBRARY)
        self.assertEqual(verify.on_cpu(lib), ([[0, 3], [2, -1]], [2, 1], [0, 0]))

    def test_parameters_begin_as_those_of_a_session(self):
        lib, p = verify.load(LIBRARY), verify.spc_row_params(seed=5, verify=1)
        lib.spc_row_params_init(ctypes.byref(p))
        self.assertEqual(lib.spc_params_check(ctypes.byref(p), None), 0)
        self.assertEqual((p.sampling.temperature, p.sampling.top_k, p.sampling.top_p, p.sampling.min_p,
                          p.seed, p.verify, p.bonus, p.nucleus), (1, 0, 1, 0, 0, 0, 0, 1))

    def test_misuse_is_a_message(self):
        lib = verify.load(LIBRARY)
        with self.assertRaisesRegex(RuntimeError, "sequences: expected 1"):
            verify.call(lib.spc_cpu_verify_batch, verify.spc_verify_batch())
        with self.assertRaisesRegex(ValueError, "nothing"):
            verify.params_of(lib, "nothing", 1.0, [0])
        with self.assertRaisesRegex(ValueError, "unknown rule"):  # cut inside a letter
            verify.params_of(lib, "n" * 39 + "\u00e9", 1.0, [0])

    def test_a_library_says_which_it_is(self):
        for path, name in ((LIBRARY, "libspc_verify.so"), (ENGINE, "libspc.so")):
            lib = ctypes.CDLL(path)
            lib.spc_version.restype = ctypes.c_char_p
            self.assertRegex(lib.spc_version().decode(), r"^\d+\.\d+\.\d+$")
            major, minor, _ = lib.spc_version().decode().split(".")
            self.assertTrue(pathlib.Path(path).resolve().name.startswith(f"{name}.{major}.{minor}."))

    def test_the_engine_decodes(self):
        said = []
        with engine.Engine(engine.load(ENGINE), threads=1, context=64) as e:
            prompt = e.encode("<s><2de>The cat sleeps on the old chair.<sep>")
            e.decode(prompt, said.append, rule=b"token-v3:alpha=0.3", temperature=0.0)
            text = b"".join(said).decode()
            self.assertRegex(text, "Katze.*Stuhl")
            self.assertGreater(len(said), 1)
            said.clear()
            e.decode(prompt, said.append, temperature=0.0, max_tokens=2)
            self.assertTrue(text.startswith(b"".join(said).decode()) and len(said) <= 2)

    def test_a_mask_leaves_some_answers(self):
        sentence, fit = "The children are playing in the garden.", "Die Kinder essen."
        answers = ["Die Katze schläft.", fit, "Kinder gern."]
        with engine.Engine(engine.load(ENGINE), threads=1, context=64) as e:
            for rule in (b"strict", b"token-v3:alpha=0.3", b"verifier-only", b"drafter-only"):
                self.assertEqual(choice.choose(e, sentence, answers, rule=rule, temperature=0.0), fit)
            said = {choice.choose(e, sentence, answers, temperature=20.0, seed=s) for s in range(20)}
        self.assertEqual(said, set(answers))

    def test_misuse_of_the_engine_is_a_message(self):
        lib = engine.load(ENGINE)
        with self.assertRaisesRegex(RuntimeError, "/no/such/model"):
            engine.Engine(lib, verifier=b"/no/such/model")
        with engine.Engine(lib, threads=1, context=64) as e:
            with self.assertRaisesRegex(RuntimeError, "stricter"):
                e.decode([1], print, rule=b"stricter")

    def test_nothing_is_exported_but_the_interface(self):
        names = exported(LIBRARY)
        self.assertEqual([name for name in names if name not in declared()], [])
        for name in ("spc_rule_parse", "spc_row_params_init", "spc_params_check", "spc_draft_sample", "spc_verify",
                     "spc_cpu_draw_batch", "spc_cuda_verify_batch", "spc_workspace_bytes"):
            self.assertIn(name, names)
        for name in ("spc_round_run", "spc_view_sample", "spc_launch_verify"):
            self.assertNotIn(name, names)
        names = exported(ENGINE)
        self.assertEqual(sorted(set(names)), sorted(declared()))

    def test_archives_in_a_shared_object_export_nothing_but_the_interface(self):
        with tempfile.TemporaryDirectory() as folder:
            library = pathlib.Path(folder) / "all.so"
            subprocess.run([CC, "-shared", "-o", library, "-Wl,--whole-archive", *ARCHIVES,
                            "-Wl,--no-whole-archive"], check=True)
            names = exported(library)
        self.assertEqual([name for name in names if name not in declared()], [])
        for name in ("spc_engine_open", "spc_session_step", "spc_verify"):
            self.assertIn(name, names)

    @unittest.skipUnless(platform.machine() == "x86_64", "what -fcf-protection protects")
    def test_assembler_is_marked_as_protected(self):
        with tempfile.TemporaryDirectory() as folder:
            path, demo = pathlib.Path(folder) / "embed.o", ROOT / "weights/demo"
            subprocess.run([CC, "-fcf-protection", f"-I{demo}", "-c", demo / "embed.S", "-o", path], check=True)
            self.assertIn(b".note.gnu.property", path.read_bytes())


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
