#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Count what a kernel's machine code issues: by function, and by straight piece of it.

    bench/sass.py queue.cubin [--least 4] [--only NAME]

The first table has each function of each kernel: instructions by class, and its size.  The second
has the pieces without a jump that hold at least --least exponentials, or four times as many loads
from shared memory: the loops over logits.  These are counts of what is there, not of what runs, and
no measurements.

Where an H100 reads 3.35 TB/s with 132 multiprocessors of 4 instructions a cycle at 1.7 GHz, a warp
may issue 137 instructions while 16 bytes for each of its threads come from memory.  These take a
multiprocessor 34 cycles; an exponential of a warp takes one of its four units 8.

nvdisasm has to be on PATH.  A cubin: nvcc -cubin -arch=sm_90a --fmad=false -std=c++17 -O3 -I.
-Ihost/include -D_GNU_SOURCE cuda/queue.cu"""
import argparse
import collections
import re
import subprocess
import sys

CLASSES = (("mufu", r"MUFU"), ("convert", r"F2|I2F|FRND|HADD2\.F32"), ("lds", r"LDS"),
           ("sts", r"STS"), ("copy", r"LDGSTS|UBLKCP"), ("load", r"LDG|LD\."),
           ("store", r"STG|ST\."), ("local", r"LDL|STL"), ("atomic", r"ATOM|RED\."),
           ("fence", r"MEMBAR|CCTL|ERRBAR|CGAERRBAR"),
           ("control", r"BR|BS|BAR|CALL|RET|WARPSYNC|EXIT|NOP|DEPBAR|LDGDEPBAR"),
           ("float", r"F|D[A-Z]|H|VH"))


def class_of(name):
    for kind, pattern in CLASSES:
        if re.match(pattern, name):
            return kind
    return "integer"


def short(label):
    """A function's name, and its kernel's argument, from what the linker calls it."""
    kernel = re.search(r"_kernelI\d+(\w+?)E", label)
    inner = re.search(r"\$_ZN\d+_INTERNAL_\w+?_cu_[0-9a-f]{8}(\d+)(\w+)", label)
    if inner:
        name = inner.group(2)[:int(inner.group(1))]
    else:
        name = label[:40] if "__internal" in label else "kernel"
    return (kernel.group(1) + ": " if kernel else "") + name


def read(cubin):
    """Pieces of the code: function, label, instructions."""
    try:
        ran = subprocess.run(["nvdisasm", "-c", cubin], check=False, capture_output=True, text=True)
    except OSError as why:
        sys.exit(f"sass.py: nvdisasm, which comes with the CUDA Toolkit: {why.strerror}")
    if ran.returncode:
        sys.exit(f"sass.py: {ran.stderr.strip()}")
    text = ran.stdout
    pieces, function, label = [], "", ""
    for line in text.splitlines():
        name = re.match(r"(\$?_Z\S+|\$__\S+):", line)
        place = re.match(r"(\.L_x_\d+):", line)
        code = re.match(r"\s+/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\d+ )?\s*([A-Z0-9_.]+)", line)
        if name:
            function, label = short(name.group(1)), "entry"
            pieces.append((function, label, []))
        elif place:
            label = place.group(1)
            pieces.append((function, label, []))
        elif code and pieces:
            pieces[-1][2].append(code.group(2))
            if re.match(r"BRA|BRX|CALL|RET|EXIT", code.group(2)):
                pieces.append((function, label + "+" + code.group(1), []))
    return pieces


def show(name, count):
    kinds = ", ".join(f"{n} {kind}" for kind, n in count.most_common())
    print(f"{name:58} {sum(count.values()):6}  {kinds}")


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cubin")
    parser.add_argument("--least", type=int, default=4, help="exponentials of a piece (4)")
    parser.add_argument("--only", default="", help="functions whose name holds this")
    options = parser.parse_args()
    pieces = [p for p in read(options.cubin) if options.only in p[0]]
    functions = collections.OrderedDict()
    for function, _, names in pieces:
        functions.setdefault(function, collections.Counter()).update(map(class_of, names))
    print("functions: instructions of 16 bytes")
    for function, count in functions.items():
        show(function, count)
    print("\npieces")
    for function, label, names in pieces:
        count = collections.Counter(map(class_of, names))
        exponentials = sum(name.startswith("MUFU.EX2") for name in names)
        if exponentials >= options.least or count["lds"] >= 4 * options.least:
            show(f"{function} {label}", count)


if __name__ == "__main__":
    main()
