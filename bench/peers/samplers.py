#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Speculative sampling by FlashInfer, vLLM, plain PyTorch and spc on the same rows, in one run.

    bench/peers/samplers.py [--library build/libspc_verify.so] [--shape B,G,V ...] [--device cpu]

Rows are made as in bench_verify: a peak with 10 to 99 % of the mass on a Gaussian tail, the
drafter's with noise of 0.35; bf16.  Every sampler gets logits and drafts and returns tokens.  On a
GPU a run is the replay of a CUDA graph between two events, launched while the GPU is still busy so
that launch latency is not timed; for `us`, runs rotate through at least 3 sets of inputs and 400 MB
of them, each run after a read of four times the L2 cache, for `warm_us` they repeat one set;
`eager_us` times plain calls.  Before a sampler is timed, the distribution of what it draws is
checked.  One that is not installed, refuses the inputs or draws wrongly is named on stderr and
skipped.  JSON lines.  spc is here for the ratio; its own limit, a plain read of the bytes, is
measured by bench_verify.
"""
import argparse
import inspect
import json
import math
import pathlib
import statistics
import sys
import time
import types

SHAPES = [(64, 5, 32000), (64, 5, 128256), (64, 5, 152064), (16, 5, 256128)]
ROTATED_BYTES, SETS_MAX = 4e8, 256


class Unfit(Exception):
    """Why a sampler takes no part."""


class Rows:
    """Logits of both models, bf16, [B, G, V] and [B, G + 1, V], and drafts [B, G], int32."""

    def __init__(self, torch, device, shape, temperature, seed, kinds=None):
        sequences, drafts, vocab = self.shape = shape
        self.torch, self.temperature = torch, temperature
        make = torch.Generator(device).manual_seed(seed)
        count = kinds or sequences  # kinds: sequence s has the rows of sequence s mod kinds
        tail = torch.randn(count, drafts + 1, vocab, generator=make, device=device)
        share = 0.1 + 0.89 * torch.rand(count, drafts + 1, 1, generator=make, device=device)
        peak = torch.randint(vocab, share.shape, generator=make, device=device)
        tail.scatter_(2, peak, (share / (1 - share)).log() + math.log(vocab) + 0.5)
        noise = torch.randn(count, drafts, vocab, generator=make, device=device)
        self.verifier = tail.bfloat16().repeat(sequences // count, 1, 1)
        self.drafter = (tail[:, :drafts] + 0.35 * noise).bfloat16().repeat(
            sequences // count, 1, 1)
        del tail, noise
        self.draft = torch.stack([self.race(self.softmax(self.drafter[:, i]), make)
                                  for i in range(drafts)], 1).int()

    def softmax(self, logits):
        return (logits.float() / self.temperature).softmax(-1)

    def race(self, weights, generator=None):
        """One token per row, with probabilities in proportion to its weights."""
        times = self.torch.empty_like(weights).exponential_(generator=generator)
        return (weights / times).argmax(-1)


# A sampler is made once for a set of rows and returns what is timed: a function without arguments
# that gives tokens [B, G + 1], -1 behind the last.

def plain(rows, _):
    """As one writes it in PyTorch: float32 probabilities of all rows, then the definition."""
    torch = rows.torch
    sequences, drafts, _ = rows.shape
    each = torch.arange(sequences, device=rows.draft.device)
    place = torch.arange(drafts + 1, device=rows.draft.device)

    def run():
        p, q = rows.softmax(rows.verifier), rows.softmax(rows.drafter)
        at = rows.draft.long()[..., None]
        coin = torch.rand(rows.draft.shape, device=at.device)
        kept = coin * q.gather(2, at)[..., 0] < p[:, :drafts].gather(2, at)[..., 0]
        count = kept.int().cumprod(1).sum(1)
        rejected = q[each, count.clamp(max=drafts - 1)] * (count < drafts)[:, None]
        drawn = rows.race((p[each, count] - rejected).clamp(min=0))[:, None]
        drafted = torch.nn.functional.pad(rows.draft, (0, 1))
        tokens = torch.where(place < count[:, None], drafted.long(), drawn)
        return torch.where(place > count[:, None], -1, tokens)
    return run


def flashinfer(rows, _):
    """Its softmax with temperature over both models' rows, then its chain kernel."""
    try:
        from flashinfer import sampling
    except ImportError as why:
        raise Unfit(f"the package flashinfer cannot be imported ({why})") from why
    sequences, drafts, vocab = rows.shape
    known = inspect.signature(sampling.chain_speculative_sampling).parameters
    if not hasattr(sampling, "softmax") or not {"seed", "offset"} <= set(known):
        raise Unfit("this version of flashinfer has no softmax, or no seed of the chain kernel")

    def run():
        p = sampling.softmax(rows.verifier.view(-1, vocab), temperature=rows.temperature)
        q = sampling.softmax(rows.drafter.view(-1, vocab), temperature=rows.temperature)
        return sampling.chain_speculative_sampling(
            q.view(sequences, drafts, vocab), rows.draft, p.view(sequences, drafts + 1, vocab),
            seed=1, offset=0)[0]  # given: no generator can be asked while a graph is recorded
    return run


def vllm(rows, _):
    """The steps of its V1 rejection sampler and of the bonus token: float32 copies scaled in place,
    probabilities, coins and recovered tokens of every position, then its kernel."""
    try:
        from vllm.v1.sample import rejection_sampler
    except ImportError as why:
        raise Unfit(f"vllm.v1.sample.rejection_sampler cannot be imported ({why})") from why
    torch = rows.torch
    sequences, drafts, vocab = rows.shape
    device = rows.draft.device
    known = list(inspect.signature(rejection_sampler.rejection_sample).parameters)
    expected = ["draft_token_ids", "num_draft_tokens", "max_spec_len", "cu_num_draft_tokens",
                "draft_probs", "", "bonus_token_ids", "sampling_metadata"]
    takes = known[5] if len(known) > 5 else ""
    expected[5] = takes
    if known[:8] != expected or takes not in ("target_probs", "target_logits"):
        raise Unfit(f"this version of vllm's rejection_sample takes {', '.join(known)}")
    lengths = [drafts] * sequences
    ends = torch.arange(drafts, (sequences + 1) * drafts, drafts, dtype=torch.int32, device=device)
    metadata = types.SimpleNamespace(
        all_greedy=False, all_random=True, generators={}, top_k=None, top_p=None,
        temperature=torch.full((sequences,), rows.temperature, device=device))

    def scaled(logits):
        return logits.reshape(-1, vocab).to(torch.float32, copy=True).div_(rows.temperature)

    def run():
        target, q = scaled(rows.verifier[:, :drafts]), scaled(rows.drafter).softmax(-1)
        if takes == "target_probs":
            target = target.softmax(-1)
        bonus = rows.race(scaled(rows.verifier[:, drafts]).softmax(-1)).int()[:, None]
        return rejection_sampler.rejection_sample(
            rows.draft.view(-1), lengths, drafts, ends, q, target, bonus, metadata)
    return run


def spc(rows, library):
    """One spc_*_verify_batch under `strict`; the drafter's statistics are there, as its draft
    sampler leaves them."""
    if not library:
        raise Unfit("no --library was given")
    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "tests" / "consumer"))
    import verify as abi
    lib, torch, device = abi.load(library), rows.torch, rows.draft.device
    sequences, drafts, vocab = rows.shape
    gpu = device.type == "cuda"
    verify_call, draw_call = ((lib.spc_cuda_verify_batch, lib.spc_cuda_draw_batch) if gpu else
                              (lib.spc_cpu_verify_batch, lib.spc_cpu_draw_batch))
    held = []  # memory that the batches point to

    def number(values, kind):
        held.append(torch.as_tensor(values, dtype=kind).to(device))
        return held[-1].data_ptr()

    def space(count, kind):
        held.append(torch.zeros(count, dtype=kind, device=device))
        return held[-1]

    def params(count):
        made = abi.params_of(lib, "strict", rows.temperature, range(1, count + 1))
        return number(torch.frombuffer(bytearray(made), dtype=torch.uint8), torch.uint8)

    def logits(tensor):
        return abi.spc_logit_rows(abi.spc_logits(tensor.data_ptr(), abi.BF16_ROWS), vocab, vocab)

    def call(function, batch):
        abi.call(function, batch, torch.cuda.current_stream().cuda_stream if gpu else None)

    cells, each = sequences * drafts, torch.arange(sequences)
    scratch = space(lib.spc_workspace_bytes(cells, drafts, vocab), torch.uint8)
    if gpu:
        wrong = abi.spc_error()
        if lib.spc_cuda_workspace_init(
                abi.PTR(scratch.data_ptr()), abi.c.c_size_t(scratch.numel()),
                abi.PTR(torch.cuda.current_stream().cuda_stream), abi.c.byref(wrong)):
            raise Unfit(wrong.message.decode())
    stats = space(cells * abi.c.sizeof(abi.spc_row_stats), torch.uint8)
    taken = abi.spc_draw_batch(
        sequences=cells, vocab=vocab, params=params(cells), logits=logits(rows.drafter),
        position=number([1] * cells, torch.int64), stats=stats.data_ptr(),
        workspace=scratch.data_ptr(), workspace_bytes=scratch.numel())
    call(draw_call, taken)
    token = space((sequences, drafts + 1), torch.int32)
    batch = abi.spc_verify_batch(
        sequences=sequences, vocab=vocab, max_drafts=drafts, params=params(sequences),
        drafter=logits(rows.drafter), drafter_row=number(each * drafts, torch.int64),
        verifier=logits(rows.verifier), verifier_row=number(each * (drafts + 1), torch.int64),
        drafts=number([drafts] * sequences, torch.int32), draft=rows.draft.data_ptr(),
        stats=stats.data_ptr(), position=number([1] * sequences, torch.int64),
        token=token.data_ptr(), count=space(sequences, torch.int32).data_ptr(),
        status=space(sequences, torch.int32).data_ptr(), workspace=scratch.data_ptr(),
        workspace_bytes=scratch.numel())

    def run():
        call(verify_call, batch)
        return token
    run.held = held
    return run


SAMPLERS = {"torch": plain, "flashinfer": flashinfer, "vllm-v1": vllm, "spc": spc}


def kept_of(tokens, draft):
    """Drafts kept per sequence; Unfit when the tokens cannot be an answer to the drafts."""
    count = (tokens >= 0).sum(1)
    behind = tokens.new_tensor(range(tokens.shape[1])) >= count[:, None]
    kept = count - 1
    same = (tokens[:, :-1] == draft) | behind[:, 1:]
    if bool((count < 1).any() or ((tokens == -1) != behind).any() or not same.all()):
        raise Unfit("its tokens are no kept drafts, one token and -1 behind it")
    return kept


def check_law(torch, device, make, library, temperature):
    """Unfit unless 20,000 sequences, in turn of two kinds of rows, follow the verifier: chi-squared
    of every token where the drafts before it were kept; share of first drafts kept."""
    rows = Rows(torch, device, (20000, 2, 16), temperature, 7, kinds=2)
    tokens = make(rows, library)().long()
    kept = kept_of(tokens, rows.draft)
    for kind in range(2):
        p, q = (rows.softmax(x[kind]).double() for x in (rows.verifier, rows.drafter))
        own, own_kept = tokens[kind::2], kept[kind::2]
        for place in range(3):  # the last is the bonus
            seen = own[own_kept >= place, place]
            want = p[place] * len(seen)
            got = torch.bincount(seen, minlength=16).double()
            rare = want < 5
            want, got = (torch.cat([x[~rare], x[rare].sum()[None]]) for x in (want, got))
            off = ((got - want) ** 2 / want.clamp(min=1)).sum().item()
            most = len(want) - 1 + 10 * math.sqrt(2 * (len(want) - 1))
            if not off <= most:
                raise Unfit(f"its token {place} does not follow the verifier: chi-squared "
                            f"{off:.0f}, at most {most:.0f} expected")
        share = (own_kept >= 1).double().mean().item()
        want = torch.minimum(p[0], q[0]).sum().item()
        if abs(share - want) > 0.025:
            raise Unfit(f"it keeps {share:.3f} of the first drafts, expected {want:.3f}")


def leader(torch, cold):
    """What a run begins behind: a read of other memory, then 0.1 ms or so of nothing."""
    cache = getattr(torch.cuda.get_device_properties(0), "L2_cache_size", 64 << 20)
    other = torch.ones(cache, dtype=torch.int32, device="cuda") if cold else None

    def lead():
        if cold:
            other.sum()
        torch.cuda._sleep(200_000)  # cycles
    return lead


def time_gpu(torch, calls, runs, way):
    """Microseconds of each of `runs` calls, taken in turn; way: cold, warm or eager."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    taken = []
    with torch.cuda.stream(stream):
        calls[0]()  # compile and reserve before a graph is recorded
        stream.synchronize()
        replays, lead = calls, None
        if way != "eager":
            lead = leader(torch, way == "cold")
            replays, pool, recorded = [], torch.cuda.graph_pool_handle(), []
            for call in calls:  # one pool: what a set leaves is the next one's scratch
                recorded.append(torch.cuda.CUDAGraph())
                with torch.cuda.graph(recorded[-1], pool=pool, stream=stream):
                    call()
                replays.append(recorded[-1].replay)
                replays[-1]()  # its first launch takes longer
        for i in range(-(runs // 10) - 1, runs):
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            if lead:
                lead()
            begin.record(stream)
            replays[i % len(replays)]()
            end.record(stream)
            end.synchronize()
            if i >= 0:
                taken.append(begin.elapsed_time(end) * 1e3)
    return taken


def time_cpu(calls, runs):
    taken = []
    for i in range(-1, runs):
        start = time.perf_counter()
        calls[i % len(calls)]()
        if i >= 0:
            taken.append((time.perf_counter() - start) * 1e6)
    return taken


def spread(name, taken):
    taken = sorted(taken)
    return {name: round(statistics.median(taken), 2),
            name + "_p10": round(taken[len(taken) // 10], 2),
            name + "_p90": round(taken[len(taken) * 9 // 10], 2)}


def measure(torch, args, name, sets):
    calls = [SAMPLERS[name](rows, args.library) for rows in sets]
    kept = [kept_of(call().long(), rows.draft).double().mean().item()
            for call, rows in zip(calls, sets)]
    line = {"accepted": round(statistics.mean(kept), 3), "runs": args.runs}
    if args.device == "cuda":
        line.update(spread("us", time_gpu(torch, calls, args.runs, "cold")))
        line.update(spread("warm_us", time_gpu(torch, calls[:1], args.runs, "warm")))
        line.update(spread("eager_us", time_gpu(torch, calls, args.runs, "eager")))
    else:
        line.update(spread("us", time_cpu(calls, args.runs)))
    return line


def version(name):
    module = sys.modules.get({"vllm-v1": "vllm"}.get(name, name))
    return str(getattr(module, "__version__", ""))


def shape_of(text):
    try:
        shape = tuple(int(part) for part in text.split(","))
    except ValueError:
        shape = ()
    if len(shape) != 3 or min(shape) < 1 or shape[2] < 2:
        raise argparse.ArgumentTypeError(f"expected B,G,V, for example 64,5,128256; found {text!r}")
    return shape


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--library", help="libspc_verify.so, for spc's line")
    parser.add_argument("--shape", type=shape_of, action="append", metavar="B,G,V",
                        help="sequences, drafts, vocabulary; again for more (default: four shapes)")
    parser.add_argument("--samplers", nargs="+", choices=SAMPLERS, default=list(SAMPLERS))
    parser.add_argument("--temperature", type=float, default=0.7, help="above 0 (default 0.7)")
    parser.add_argument("--runs", type=int, default=100, help="timed runs, at least 3 (100)")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    args = parser.parse_args()
    if not args.temperature > 0 or not math.isfinite(args.temperature) or args.runs < 3:
        parser.error("expected --temperature above 0 and --runs of 3 or more")
    return args


def told(who, why):
    lines = str(why).strip().splitlines() or [type(why).__name__]
    print(f"samplers.py: {who}: {lines[0]}", file=sys.stderr)


def main():
    args = arguments()
    try:
        import torch
    except ImportError:
        sys.exit("samplers.py: the package torch is not installed: nothing to compare with")
    if args.device == "cuda" and not torch.cuda.is_available():
        sys.exit("samplers.py: expected an NVIDIA GPU, found none: --device cpu times the CPU")
    gpu, fit, failed = args.device == "cuda", [], False
    for name in args.samplers:
        try:
            torch.manual_seed(1)
            check_law(torch, args.device, SAMPLERS[name], args.library, args.temperature)
            fit.append(name)
        except Exception as why:  # other people's code: whatever it says, the next has its turn
            told(name, why)
    for shape in args.shape or SHAPES:
        read = 2 * shape[0] * (shape[1] + 1) * shape[2]  # bytes of the verifier's rows
        count = min(SETS_MAX, max(3, math.ceil(ROTATED_BYTES / read))) if gpu else 3
        sets = [Rows(torch, args.device, shape, args.temperature, 17 + i) for i in range(count)]
        for name in fit:
            try:
                line = measure(torch, args, name, sets)
            except Exception as why:
                told(f"{name} at {shape}", why)
                failed = True
                continue
            device = torch.cuda.get_device_name() if gpu else "cpu"
            print(json.dumps({
                "bench": "samplers", "sampler": name, "version": version(name),
                "torch": torch.__version__, "cuda": torch.version.cuda, "device": device,
                "sequences": shape[0], "drafts": shape[1], "vocab": shape[2], "dtype": "bf16",
                "temperature": args.temperature, "sets": count, **line}), flush=True)
        del sets
    return 1 if failed or not fit else 0


if __name__ == "__main__":
    sys.exit(main())
