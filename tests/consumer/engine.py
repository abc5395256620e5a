#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The engine from Python, by ctypes: engine.py LIBSPC.SO [SENTENCE]

Translates a sentence with the pair built into the library, and prints the text as it is decoded.
"""
import ctypes as c
import os
import sys

BOOL, I32, U64, F32, STR, PTR = c.c_bool, c.c_int32, c.c_uint64, c.c_float, c.c_char_p, c.c_void_p
ON_TEXT = c.CFUNCTYPE(None, PTR, PTR, c.c_size_t)
ON_MASK = c.CFUNCTYPE(BOOL, PTR, c.POINTER(I32), I32, c.POINTER(c.c_uint32), I32)


def structure(name, *fields):
    return type(name, (c.Structure,), {"_fields_": list(fields)})


# As in spc/spc.h; tests/test_python.py compares every offset.
spc_engine_options = structure(
    "spc_engine_options", ("verifier", STR), ("drafter", STR), ("sessions", I32), ("context", I32),
    ("kv_tokens", I32), ("prefill_rows", I32), ("device", STR), ("drafter_device", STR),
    ("drafter_vocab", STR), ("tp", I32), ("drafter_tp", I32), ("nccl_comm", PTR), ("place", PTR),
    ("threads", I32), ("isa", STR), ("kv", STR), ("weights", STR), ("fast_prefill", BOOL),
    ("kernels", STR), ("plain_launches", BOOL), ("overlap", c.c_int), ("no_prefix_reuse", BOOL),
    ("log", PTR), ("progress", PTR), ("user", PTR))
spc_session_options = structure(
    "spc_session_options", ("rule", STR), ("gamma", I32), ("temperature", F32), ("top_k", I32),
    ("top_p", F32), ("min_p", F32), ("seed", U64), ("max_tokens", I32), ("verify", c.c_int),
    ("bonus", c.c_int), ("nucleus", BOOL), ("wait", BOOL), ("details", BOOL), ("logprobs", BOOL),
    ("top_logprobs", I32), ("ignore_stop", BOOL), ("stop", PTR), ("stop_count", I32),
    ("stop_token", PTR), ("stop_token_count", I32),
    ("min_tokens", I32), ("repetition_penalty", F32), ("presence_penalty", F32),
    ("frequency_penalty", F32), ("logit_bias", PTR), ("logit_bias_count", I32), ("on_mask", ON_MASK),
    ("on_token", PTR), ("on_text", ON_TEXT), ("user", PTR))
spc_error = structure("spc_error", ("status", I32), ("message", c.c_char * 512))


def load(path):
    lib = c.CDLL(os.path.abspath(path))
    lib.free = c.CDLL(None).free  # of what the library hands over
    for close in (lib.spc_session_close, lib.spc_engine_close, lib.free):
        close.argtypes, close.restype = [PTR], None
    return lib


def call(function, *arguments):
    err = spc_error()
    if function(*arguments, c.byref(err)) != 0:
        raise RuntimeError(err.message.decode())


class Engine:
    """Two models.  Options are those of spc_engine_options: strings as bytes."""

    def __init__(self, lib, **options):
        self.lib, self.handle = lib, PTR()
        o = spc_engine_options()
        lib.spc_engine_options_init(c.byref(o))
        for name, value in options.items():
            setattr(o, name, value)
        call(lib.spc_engine_open, c.byref(o), c.byref(self.handle))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.lib.spc_engine_close(self.handle)

    def encode(self, text):
        ids, count = c.POINTER(I32)(), I32()
        text = text.encode()
        call(self.lib.spc_engine_encode, self.handle, text, c.c_size_t(len(text)), BOOL(False),
             c.byref(ids), c.byref(count))
        try:
            return ids[:count.value]
        finally:
            self.lib.free(ids)

    def decode(self, prompt, on_text, **options):
        """Decode behind the ids of a prompt; on_text gets bytes as they become final."""
        o, session = spc_session_options(), PTR()
        self.lib.spc_session_options_init(c.byref(o))
        for name, value in options.items():
            setattr(o, name, value)
        o.on_text = ON_TEXT(lambda _, text, count: on_text(c.string_at(text, count)))
        call(self.lib.spc_session_open, self.handle, c.byref(o), (I32 * len(prompt))(*prompt),
             I32(len(prompt)), c.byref(session))
        try:
            call(self.lib.spc_session_run, session)
        finally:
            self.lib.spc_session_close(session)


def main():
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__.strip())
    sentence = (sys.argv[2:] or ["The children are playing in the garden."])[0]
    with Engine(load(sys.argv[1])) as engine:
        def write(text):
            sys.stdout.buffer.write(text)
            sys.stdout.buffer.flush()

        engine.decode(engine.encode(f"<s><2de>{sentence}<sep>"), write, rule=b"token-v3:alpha=0.3",
                      temperature=0.0)
    write(b"\n")


if __name__ == "__main__":
    main()
