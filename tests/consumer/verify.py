#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The verification library from Python, by ctypes: verify.py LIBSPC_VERIFY.SO

With PyTorch and a GPU, rows are tensors and the call is enqueued on the current stream; without,
the same batch goes through the calls for the CPU over arrays of ctypes.
"""
import ctypes as c
import os
import sys

I32, U32, I64, F32, F64, PTR = c.c_int32, c.c_uint32, c.c_int64, c.c_float, c.c_double, c.c_void_p


def structure(name, *fields):
    return type(name, (c.Structure,), {"_fields_": list(fields)})


# As in rules/rule.h and types.h; tests/test_python.py compares every offset.
spc_rule = structure(
    "spc_rule", ("kind", I32), ("path", I32), ("gate", I32), ("solve", I32), ("kl", I32),
    ("window", I32), ("alpha", F64), ("rollback", F64), ("keep", F64), ("log_keep", F64),
    ("inverse", F64))
spc_sampling = structure("spc_sampling", ("temperature", F32), ("top_k", I32), ("top_p", F32),
                         ("min_p", F32))
spc_row_params = structure(
    "spc_row_params", ("rule", spc_rule), ("sampling", spc_sampling), ("seed", c.c_uint64),
    ("verify", I32), ("bonus", I32), ("nucleus", I32))
spc_row_stats = structure("spc_row_stats", ("max", F32), ("top", I32), ("sum", F32),
                          ("sum_one", F32), ("moment", F32), ("cut", F32), ("bad", I32))
spc_logits = structure("spc_logits", ("data", PTR), ("type", I32))
spc_logit_rows = structure("spc_logit_rows", ("logits", spc_logits), ("stride", I64),
                           ("width", I32), ("subset", PTR))
spc_subset = structure("spc_subset", ("tokens", U32), ("before", I32))
spc_edits = structure("spc_edits", ("allowed", PTR), ("allowed_stride", I64), ("edit_first", PTR),
                      ("edit_token", PTR), ("edit_value", PTR))
spc_draw_batch = structure(
    "spc_draw_batch", ("sequences", I32), ("live", PTR), ("vocab", I32), ("params", PTR),
    ("logits", spc_logit_rows), ("row", PTR), ("edits", spc_edits), ("position", PTR),
    ("salt", PTR), ("plain", I32), ("token", PTR), ("stats", PTR), ("log_probability", PTR),
    ("out_stride", I32), ("workspace", PTR), ("workspace_bytes", c.c_size_t))
spc_verify_batch = structure(
    "spc_verify_batch", ("sequences", I32), ("live", PTR), ("vocab", I32), ("max_drafts", I32),
    ("params", PTR), ("drafter", spc_logit_rows), ("drafter_row", PTR),
    ("verifier", spc_logit_rows), ("verifier_row", PTR), ("edits", spc_edits), ("drafts", PTR),
    ("draft", PTR), ("stats", PTR), ("position", PTR), ("salt", PTR), ("bonus", PTR),
    ("token", PTR), ("count", PTR), ("status", PTR), ("accepted", PTR), ("verdict", PTR),
    ("detail", PTR), ("workspace", PTR), ("workspace_bytes", c.c_size_t))
spc_error = structure("spc_error", ("status", I32), ("message", c.c_char * 512))
F32_ROWS, BF16_ROWS, F16_ROWS = 0, 1, 2


def load(path):
    lib = c.CDLL(os.path.abspath(path))
    lib.spc_rule_parse.restype = c.c_bool
    lib.spc_workspace_bytes.restype = c.c_size_t
    return lib


def params_of(lib, rule, temperature, seeds):
    """One spc_row_params per seed."""
    out = (spc_row_params * len(seeds))()
    message = c.create_string_buffer(320)
    for p, seed in zip(out, seeds):
        if not lib.spc_rule_parse(rule.encode(), c.byref(p.rule), message):
            raise ValueError(message.value.decode())
        p.sampling.temperature, p.sampling.top_p, p.seed, p.nucleus = temperature, 1, seed, 1
    return out


def call(function, batch, stream=None):
    err = spc_error()
    if function(c.byref(batch), PTR(stream), c.byref(err)) != 0:
        raise RuntimeError(err.message.decode())


def prepare(lib, batch, stream):
    """Its workspace, once, before the first call that uses it."""
    err = spc_error()
    if lib.spc_cuda_workspace_init(PTR(batch.workspace), c.c_size_t(batch.workspace_bytes),
                                   PTR(stream), c.byref(err)) != 0:
        raise RuntimeError(err.message.decode())


# Two sequences, one draft each, four tokens; the rows of the draft and of what follows it.
DRAFTER = [[9, 0, 0, 0], [0, 9, 0, 0], [9, 0, 0, 0], [0, 9, 0, 0]]
VERIFIER = [[9, 0, 0, 0], [0, 0, 0, 40], [-40, 0, 40, 0], [0, 9, 0, 0]]


def on_cpu(lib):
    def array(kind, values):
        return (kind * len(values))(*values)

    rows = [array(F32, [float(x) for row in table for x in row]) for table in (DRAFTER, VERIFIER)]
    params = params_of(lib, "token-v3:alpha=0.1", 1.0, [0, 1])
    row, position = array(I64, [0, 2]), array(I64, [7, 7])
    drafts, draft = array(I32, [1, 1]), array(I32, [0, 0])
    token, count, status = (I32 * 4)(), (I32 * 2)(), (U32 * 2)()
    batch = spc_verify_batch(sequences=2, vocab=4, max_drafts=1)
    for name, table in (("drafter", rows[0]), ("verifier", rows[1])):
        setattr(batch, name, spc_logit_rows(spc_logits(c.addressof(table), F32_ROWS), 4, 4))
    for name, value in (("params", params), ("drafter_row", row), ("verifier_row", row),
                        ("drafts", drafts), ("draft", draft), ("position", position),
                        ("token", token), ("count", count), ("status", status)):
        setattr(batch, name, c.addressof(value))
    call(lib.spc_cpu_verify_batch, batch)
    return [list(token[2 * s:2 * s + 2]) for s in range(2)], list(count), list(status)


def on_gpu(lib, torch):
    def tensor(values, kind):
        return torch.tensor(values, dtype=kind, device="cuda")

    rows = [tensor(table, torch.bfloat16) for table in (DRAFTER, VERIFIER)]
    params = params_of(lib, "token-v3:alpha=0.1", 1.0, [0, 1])
    params = torch.frombuffer(bytearray(bytes(params)), dtype=torch.uint8).cuda()
    row, position = tensor([0, 2], torch.int64), tensor([7, 7], torch.int64)
    drafts, draft = tensor([1, 1], torch.int32), tensor([0, 0], torch.int32)
    token, count, status = (torch.empty(n, dtype=torch.int32, device="cuda") for n in (4, 2, 2))
    space = torch.empty(lib.spc_workspace_bytes(2, 1, 4), dtype=torch.uint8, device="cuda")
    batch = spc_verify_batch(sequences=2, vocab=4, max_drafts=1, workspace=space.data_ptr(),
                             workspace_bytes=space.numel())
    for name, table in (("drafter", rows[0]), ("verifier", rows[1])):
        view = spc_logits(table.data_ptr(), BF16_ROWS)
        setattr(batch, name, spc_logit_rows(view, table.stride(0), table.shape[1]))
    for name, value in (("params", params), ("drafter_row", row), ("verifier_row", row),
                        ("drafts", drafts), ("draft", draft), ("position", position),
                        ("token", token), ("count", count), ("status", status)):
        setattr(batch, name, value.data_ptr())
    with torch.cuda.stream(torch.cuda.Stream()) as _:
        stream = torch.cuda.current_stream()
        stream.wait_stream(torch.cuda.default_stream())
        prepare(lib, batch, stream.cuda_stream)
        call(lib.spc_cuda_verify_batch, batch, stream.cuda_stream)
        stream.synchronize()
    return token.view(2, 2).tolist(), count.tolist(), status.tolist()


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__.strip())
    lib = load(sys.argv[1])
    try:
        import torch
    except ImportError:
        torch = None
    results = {"cpu": on_cpu(lib)}
    if torch and torch.cuda.is_available():
        results["gpu"] = on_gpu(lib, torch)
    for place, (token, count, status) in results.items():
        print(f"{place}: tokens {token}, counts {count}, status {status}")
        # the first draft is kept and 3 follows; the second cannot be kept: 2 stands in its place
        if (token, count, status) != ([[0, 3], [2, -1]], [2, 1], [0, 0]):
            sys.exit("verify.py: that is not what the rows say")


if __name__ == "__main__":
    main()
