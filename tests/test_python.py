#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""tests/consumer/verify.py against the library it loads: test_python.py LIBSPC_VERIFY.SO LAYOUT NM"""
import ctypes
import pathlib
import subprocess
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent / "consumer"))
import verify  # noqa: E402

LIBRARY, LAYOUT, NM = sys.argv[1:4]


class Library(unittest.TestCase):
    def test_structs_lie_as_in_c(self):
        lines = subprocess.run([LAYOUT], text=True, capture_output=True, check=True).stdout
        for line in lines.splitlines():
            name, number = line.split()
            struct, _, field = name.partition(".")
            kind = getattr(verify, struct)
            self.assertEqual(getattr(kind, field).offset if field else ctypes.sizeof(kind),
                             int(number), name)

    def test_the_batch_is_decided(self):
        lib = verify.load(LIBRARY)
        self.assertEqual(verify.on_cpu(lib), ([[0, 3], [2, -1]], [2, 1], [0, 0]))

    def test_misuse_is_a_message(self):
        lib = verify.load(LIBRARY)
        with self.assertRaisesRegex(RuntimeError, "sequences: expected 1"):
            verify.call(lib.spc_cpu_verify_batch, verify.spc_verify_batch())
        with self.assertRaisesRegex(ValueError, "nothing"):
            verify.params_of(lib, "nothing", 1.0, [0])

    def test_the_library_says_which_it_is(self):
        lib = ctypes.CDLL(LIBRARY)
        lib.spc_version.restype = ctypes.c_char_p
        self.assertRegex(lib.spc_version().decode(), r"^\d+\.\d+\.\d+$")
        major, minor, _ = lib.spc_version().decode().split(".")
        self.assertTrue(pathlib.Path(LIBRARY).resolve().name.startswith(
            f"libspc_verify.so.{major}.{minor}."))

    def test_nothing_is_exported_but_the_interface(self):
        names = subprocess.run([NM, "-D", "--defined-only", LIBRARY], text=True,
                               capture_output=True, check=True).stdout.split()[2::3]
        self.assertEqual([name for name in names if not name.startswith("spc_")], [])
        for name in ("spc_rule_parse", "spc_params_check", "spc_draft_sample", "spc_verify",
                     "spc_cpu_draw_batch", "spc_cuda_verify_batch", "spc_workspace_bytes"):
            self.assertIn(name, names)
        for name in ("spc_round_run", "spc_view_sample", "spc_launch_verify"):
            self.assertNotIn(name, names)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
